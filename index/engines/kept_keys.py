"""The keys of a shard as its searcher keeps them, mapped from a file: for exact search among some rows, and re-ranking.

What a mapped file takes of memory is page cache, which the system may take back. A mapping also keeps the bytes of a
file that is deleted, so a local copy of a remote shard needs no further care.
"""

import concurrent.futures
import dataclasses
import os

import numpy as np

from pipelines import nearest_neighbors

FLOAT32, BFLOAT16, INT8 = "dataset.npy", "bfloat16_dataset.npy", "int8_dataset.npy"
MULTIPLIERS = "int8_multipliers.npy"
# Of float32 keys that are searched at a time, and of the rows of a batch that is re-ranked.
_BLOCK_BYTES, BATCH_BYTES = 64 << 20, 512 << 20
# Candidates that are scored at a time, so that their keys stay in the cache; and those of a thread's piece of work.
_SCORED, _PIECE = 1024, 1 << 17
# With fewer candidates than the n-th part of all rows it is faster to sort them than to mark them.
_FEW = 64
_FETCHED_ROWS = 16_384


@dataclasses.dataclass(frozen=True)
class KeptKeys:
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
    def open(cls, folder: str, places: np.ndarray | None = None) -> "KeptKeys":
        """Maps the file of keys in a local folder.

        Raises:
            ValueError: if it is no such file.
        """
        name = next((name for name in (BFLOAT16, INT8) if os.path.exists(os.path.join(folder, name))), FLOAT32)
        path = os.path.join(folder, name)
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        if stored.ndim != 2 or stored.dtype not in (np.float32, np.int8, np.int16):
            raise ValueError(f"{path} is not a matrix of keys")
        multipliers = np.load(os.path.join(folder, MULTIPLIERS), allow_pickle=False) if name == INT8 else None
        return cls(stored, multipliers, places)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Returns the keys of rows `[m]` as float32 `[m, d]`."""
        rows = rows if self.places is None else self.places[rows]
        if self.multipliers is not None:
            return self.stored[rows] / self.multipliers
        return _float32(self.stored[rows])

    def nearest(self, queries: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest of some rows, as `Searcher.search_rows`; scores are summed in float32."""
        queries = np.ascontiguousarray(queries, np.float32)
        best = nearest_neighbors.BestLists(len(queries), k)
        step = max(1, _BLOCK_BYTES // (4 * self.stored.shape[1]))
        for begin in range(0, len(rows), step):
            part = rows[begin : begin + step]
            found, scores = nearest_neighbors.search(
                queries, self.take(part), min(k, len(part)), score=_float32_products
            )
            best.add(np.where(found < 0, -1, part[found]), scores)
        return best.ids, best.scores

    def batch_queries(self, candidates: int) -> int:
        """Returns how many queries of some candidates each are re-ranked at a time."""
        row_bytes = self.stored.shape[1] * self.stored.dtype.itemsize
        return max(1, BATCH_BYTES // max(1, candidates * row_bytes))

    def scores(self, queries: np.ndarray, places: np.ndarray, threads: int = 0) -> np.ndarray:
        """Returns the dot products of queries with their candidates, summed in float32.

        The keys that all candidates name are fetched once, in the order of the file.

        Args:
            queries: float32 `[Q, d]`, at most `batch_queries`.
            places: int64 `[Q, C]` of the candidates in `stored`; -1 pads.
            threads: 1, or 0 for one per core.

        Returns:
            float32 `[Q, C]`, -inf for padding.
        """
        scores = np.full(places.shape, -np.inf, np.float32)
        wanted = self._distinct(places)
        if not len(wanted):
            return scores
        if self.multipliers is not None:
            queries = queries / self.multipliers
        fetched = np.empty((len(wanted), self.stored.shape[1]), self.stored.dtype)
        slots = np.empty(wanted[-1] + 1, np.int32)
        slots[wanted] = np.arange(len(wanted), dtype=np.int32)

        def fetch(begin: int) -> None:
            part = slice(begin, begin + _FETCHED_ROWS)
            np.take(self.stored, wanted[part], axis=0, out=fetched[part], mode="clip")

        step, piece = (max(1, candidates // places.shape[1]) for candidates in (_SCORED, _PIECE))

        def score(first: int) -> None:
            for begin in range(first, min(first + piece, len(places)), step):
                part = slice(begin, min(begin + step, first + piece))
                keys = _float32(fetched.take(slots[np.maximum(places[part], wanted[0])], axis=0, mode="clip"))
                scores[part] = np.matmul(keys, queries[part, :, None])[..., 0]

        with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            list(pool.map(fetch, range(0, len(wanted), _FETCHED_ROWS)))
            list(pool.map(score, range(0, len(places), piece)))
        scores[places < 0] = -np.inf
        return scores

    def _distinct(self, places: np.ndarray) -> np.ndarray:
        """Returns the distinct places that are no padding, ascending."""
        if places.size < len(self.stored) // _FEW:
            distinct = np.unique(places)
            return distinct[np.searchsorted(distinct, 0) :]
        marked = np.zeros(len(self.stored) + 1, bool)
        # Padding marks the last.
        marked[places] = True
        return np.flatnonzero(marked[:-1])


def _float32(kept: np.ndarray) -> np.ndarray:
    """Returns kept keys as float32 of the same shape."""
    if kept.dtype != np.int16:
        return kept.astype(np.float32, copy=False)
    bits = kept.astype(np.int32)
    return np.left_shift(bits, 16, out=bits).view(np.float32)


def _float32_products(queries: np.ndarray, keys: np.ndarray, query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Returns dot products as `nearest_neighbors.dot_products`, summed in float32: each by itself, whatever is beside.

    Keys that are kept in 8 or 16 bits do not gain by a sum in float64, which takes three times as long.
    """
    scores = np.empty(len(query), np.float32)
    step = max(1, nearest_neighbors.RESCORE_BYTES // (8 * max(1, keys.shape[1])))
    for i in range(0, len(query), step):
        scores[i : i + step] = np.einsum("nd,nd->n", queries[query[i : i + step]], keys[key[i : i + step]])
    return scores
