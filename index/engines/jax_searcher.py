"""Searches a shard with JAX; `tiles` has its files.

On a processor, `leaf_major` searches leaf by leaf: all queries of a call that visit a leaf are compared with its rows
in one matrix product, so calls of many queries are much faster than calls of few. Keys are mapped, not loaded: they may
be larger than memory. On accelerators, `over_devices` compares all keys, which are copied to the devices.

Scores are the dot products of queries and keys as they are kept, bfloat16 by default, summed in float32.
"""

import dataclasses
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from configs.base import Index
from index.engines import planner, tiles
from index.engines.planner import Parameters, Plan, full_search
from index.engines.searcher import Files, Keys, copy_files
from index.engines.tiles import Tiles
from pipelines.errors import UserError

if TYPE_CHECKING:
    from index.engines.over_devices import DeviceTiles

# Most queries that are searched at a time, and most pairs of a query and a leaf: both bound the memory beside the keys.
BLOCK_QUERIES, BLOCK_PAIRS = 65_536, 1 << 23
# Expected recall of the top-k on accelerators, for a search that need not be exact.
_RECALL = 0.99


@dataclasses.dataclass(frozen=True)
class JaxSearcher:
    """A searcher with its search-time parameters.

    Attributes:
        tiles: of the shard.
        files: folder that they are mapped from.
        parameters: of the search.
        devices: the keys in the memory of accelerators, if there are any.
    """

    tiles: Tiles
    files: Files
    parameters: Parameters
    devices: "DeviceTiles | None" = None

    def with_parameters(self, parameters: Parameters) -> "JaxSearcher":
        """Returns a searcher over the same keys with other parameters."""
        return dataclasses.replace(self, parameters=parameters)

    def with_threads(self, threads: int) -> "JaxSearcher":
        """Returns itself: its threads are those of JAX."""
        return self

    def save(self, folder: str) -> None:
        """Copies the files; the folder can be moved."""
        copy_files(self.files, folder)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        more: int = 0,
        *,
        leaves: np.ndarray | None = None,
        shares: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and scores as `Searcher.search`; equal calls give equal results."""
        from index.engines import leaf_major

        length = k + more
        if self.devices and length:
            is_whole = self.parameters.leaves_to_search >= len(self.tiles.centres)
            return self.devices.search(queries, length, 1.0 if is_whole else _RECALL)
        rows, scores = np.empty((len(queries), length), np.int64), np.empty((len(queries), length), np.float32)
        visits = np.full(len(queries), self.parameters.leaves_to_search) if leaves is None else leaves
        visits = np.minimum(visits, len(self.tiles.centres))
        step = max(1, min(BLOCK_QUERIES, BLOCK_PAIRS // max(1, int(visits.max(initial=0)))))
        for begin in range(0, len(queries) if length else 0, step):
            block = slice(begin, begin + step)
            if visits[block].min() == len(self.tiles.centres):
                rows[block], scores[block] = leaf_major.search_all(self.tiles, queries[block], length)
            else:
                rows[block], scores[block] = leaf_major.search(self.tiles, queries[block], visits[block], length)
        return rows, scores

    def search_rows(self, queries: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest of some rows as `Searcher.search_rows`; on the processor, also beside accelerators."""
        return self.tiles.kept.nearest(queries, k, rows)


def plan(rows: int, dim: int, config: Index) -> Plan:
    """Returns the plan of a shard.

    Raises:
        UserError: for a precision that it does not keep.
    """
    if config.reorder == "int8":
        raise UserError("reorder=int8: the JAX searcher keeps bfloat16 or float32; choose one of them")
    return planner.plan_tiles(rows, dim, config.leaves, config.reorder)


def build(keys: Keys, plan: Plan, *, centres: np.ndarray | None = None) -> JaxSearcher:
    """Builds a searcher; the same keys and plan give the same bytes."""
    folder = tempfile.TemporaryDirectory(prefix="tiles-")
    tiles.write(keys, plan, folder.name, centres)
    return _open(folder.name, folder, plan)


def load(folder: str, plan: Plan) -> JaxSearcher:
    """Maps what `JaxSearcher.save` wrote; the searcher scans everything until it gets parameters."""
    return _open(folder, folder, plan)


def _open(folder: str, files: Files, plan: Plan) -> JaxSearcher:
    from index.engines import over_devices

    loaded = tiles.load(folder)
    rows = int(loaded.filled.sum())
    devices = over_devices.DeviceTiles(loaded) if over_devices.are_there() else None
    return JaxSearcher(loaded, files, full_search(plan, rows, rows), devices)
