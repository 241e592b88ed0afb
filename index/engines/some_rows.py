"""The keys of a shard as its searcher keeps them, read from its files row by row: for exact search among some rows.

The files are mapped, so that they take no memory beside the page cache, and stay readable after their folder is gone.
"""

import dataclasses
import os

import numpy as np

from pipelines import nearest_neighbors

# Of float32 keys that are read at a time.
_BLOCK_BYTES = 64 << 20
FLOAT32, BFLOAT16, INT8 = "dataset.npy", "bfloat16_dataset.npy", "int8_dataset.npy"
MULTIPLIERS = "int8_multipliers.npy"


@dataclasses.dataclass(frozen=True)
class RowKeys:
    """Keys `[n, d]` in one of the precisions.

    Attributes:
        stored: bfloat16 or float32; int16, the bits of bfloat16; or int8.
        multipliers: float32 `[d]` that made the int8; None for the others.
        places: int64 `[n]`, where the key of each row is in `stored`; None if they are in order.
    """

    stored: np.ndarray
    multipliers: np.ndarray | None = None
    places: np.ndarray | None = None

    @classmethod
    def open(cls, folder: str) -> "RowKeys":
        """Maps the file of keys in a local folder."""
        name = next(name for name in (BFLOAT16, INT8, FLOAT32) if os.path.exists(os.path.join(folder, name)))
        stored = np.load(os.path.join(folder, name), mmap_mode="r", allow_pickle=False)
        multipliers = np.load(os.path.join(folder, MULTIPLIERS), allow_pickle=False) if name == INT8 else None
        return cls(stored, multipliers)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Returns the keys of rows `[m]` as float32 `[m, d]`."""
        rows = rows if self.places is None else self.places[rows]
        if self.multipliers is not None:
            return self.stored[rows] / self.multipliers
        if self.stored.dtype == np.int16:
            bits = np.zeros((len(rows), self.stored.shape[1], 2), "<i2")
            bits[:, :, 1] = self.stored[rows]
            return bits.view("<f4")[:, :, 0]
        return self.stored[rows].astype(np.float32, copy=False)

    def nearest(self, queries: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest of some rows, as `Searcher.search_rows`; scores are summed in float32."""
        queries = np.ascontiguousarray(queries, np.float32)
        best = nearest_neighbors.BestLists(len(queries), k)
        step = max(1, _BLOCK_BYTES // (4 * self.stored.shape[1]))
        for begin in range(0, len(rows), step):
            part = rows[begin : begin + step]
            places, scores = nearest_neighbors.search(
                queries, self.take(part), min(k, len(part)), score=_float32_products
            )
            best.add(np.where(places < 0, -1, part[places]), scores)
        return best.ids, best.scores


def _float32_products(queries: np.ndarray, keys: np.ndarray, query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Returns dot products as `nearest_neighbors.dot_products`, summed in float32: each by itself, whatever is beside.

    Keys that are kept in 8 or 16 bits do not gain by a sum in float64, which takes three times as long.
    """
    scores = np.empty(len(query), np.float32)
    step = max(1, nearest_neighbors.RESCORE_BYTES // (8 * max(1, keys.shape[1])))
    for i in range(0, len(query), step):
        scores[i : i + step] = np.einsum("nd,nd->n", queries[query[i : i + step]], keys[key[i : i + step]])
    return scores
