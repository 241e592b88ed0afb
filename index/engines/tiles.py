"""Keys in tiles: the rows of a shard in the order of their leaves, in blocks of equal size.

A leaf has whole tiles, so that every product of queries and keys has one of a few shapes. `leaf_major` searches them.

    tile_keys.npy    keys as they are kept, [tiles, N, d]; places without a row are zero
    tile_rows.npy    int32 [tiles, N], the row at each place, ascending in a tile; -1 at its end where there is none
    first_tiles.npy  int64 [leaves + 1], the first tile of each leaf
    centres.npy      float32 [leaves, d]
"""

import dataclasses
import functools
import os

import ml_dtypes
import numpy as np

from index.engines import partitions
from index.engines.kept_keys import KeptKeys
from index.engines.planner import Plan
from index.engines.searcher import Keys
from pipelines.nearest_neighbors import numbered

_KEYS, _ROWS, _FIRST, _CENTRES = "tile_keys.npy", "tile_rows.npy", "first_tiles.npy", "centres.npy"


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The keys of a shard, by leaf.

    Attributes:
        keys: bfloat16 or float32 `[tiles, N, d]`, in memory or mapped.
        rows: int32 `[tiles, N]`, -1 pads.
        first: int64 `[leaves + 1]`, the first tile of each leaf.
        centres: float32 `[leaves, d]`.
        filled: int64 `[tiles]`, rows of each tile, which come first in it.
    """

    keys: np.ndarray
    rows: np.ndarray
    first: np.ndarray
    centres: np.ndarray
    filled: np.ndarray

    @functools.cached_property
    def kept(self) -> KeptKeys:
        """The same keys, row by row."""
        places = np.flatnonzero(self.rows.reshape(-1) >= 0)
        ordered = np.empty(len(places), np.int64)
        ordered[self.rows.reshape(-1)[places]] = places
        return KeptKeys(self.keys.reshape(-1, self.keys.shape[-1]), places=ordered)


def write(keys: Keys, plan: Plan, folder: str, centres: np.ndarray | None = None) -> None:
    """Writes the tiles of a shard into a local folder; the same keys and plan give the same bytes.

    Memory holds the sample, a chunk of keys, and the leaf and place of each row; the tiles are a mapped file.

    Args:
        keys: of the shard, at least one.
        plan: of the shard, with leaves.
        folder: an existing one.
        centres: of the leaves, float32 `[plan.leaves, d]`; by default they are trained on a sample.
    """
    if centres is None:
        centres = partitions.fit(keys.sample(plan.sample_rows), plan.leaves, plan.iterations)
    leaves = np.concatenate([partitions.nearest(chunk, centres) for chunk in keys.chunks()])
    first, places = _lay_out(leaves, plan)
    shape = (int(first[-1]), plan.tile_rows)
    rows = np.full(shape, -1, np.int32)
    rows.reshape(-1)[places] = np.arange(keys.rows, dtype=np.int32)
    # NumPy's format has no bfloat16, so its bits are kept.
    kept = np.uint16 if plan.reorder == "bfloat16" else np.float32
    tiles = np.lib.format.open_memmap(os.path.join(folder, _KEYS), mode="w+", dtype=kept, shape=(*shape, keys.dim))
    begin = 0
    for chunk in keys.chunks():
        values = chunk.astype(ml_dtypes.bfloat16).view(kept) if kept is np.uint16 else chunk
        tiles.reshape(-1, keys.dim)[places[begin : begin + len(chunk)]] = values
        begin += len(chunk)
    tiles.flush()
    for name, array in ((_ROWS, rows), (_FIRST, first), (_CENTRES, centres)):
        np.save(os.path.join(folder, name), array)


def _lay_out(leaves: np.ndarray, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first tile of each leaf, int64 `[leaves + 1]`, and the place of each row among all, int64 `[n]`.

    The rows of a leaf are spread evenly over its tiles.
    """
    sizes = np.bincount(leaves, minlength=plan.leaves)
    tiles = -(-sizes // plan.tile_rows)
    first = np.concatenate([[0], np.cumsum(tiles)])
    order = np.argsort(leaves, kind="stable")
    leaf = leaves[order]
    rank = numbered(sizes)
    tile = rank * tiles[leaf] // sizes[leaf]
    # The first rank of a part: the least one whose share of the leaf reaches the part's number.
    begins = -(-tile * sizes[leaf] // tiles[leaf])
    places = np.empty(len(order), np.int64)
    places[order] = (first[leaf] + tile) * plan.tile_rows + rank - begins
    return first, places


def load(folder: str) -> Tiles:
    """Maps the keys that `write` wrote, and loads the rest; the files must have been checked."""
    # An array of its own class takes a microsecond for each view; there are many.
    keys = np.asarray(np.load(os.path.join(folder, _KEYS), mmap_mode="r", allow_pickle=False))
    rows, first, centres = (
        np.load(os.path.join(folder, name), allow_pickle=False) for name in (_ROWS, _FIRST, _CENTRES)
    )
    keys = keys.view(ml_dtypes.bfloat16) if keys.dtype == np.uint16 else keys
    return Tiles(keys, rows, first, centres, (rows >= 0).sum(axis=1))
