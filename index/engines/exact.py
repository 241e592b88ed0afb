"""The exact searcher: the truth that recall is measured against, and the index without ScaNN.

It holds all keys in memory. How they are searched is in `pipelines.nearest_neighbors`.
"""

import os

import numpy as np

from configs.base import Index
from index.engines.planner import NO_TREE, Parameters, Plan
from index.engines.searcher import CHUNK_ROWS, Keys
from pipelines import nearest_neighbors
from pipelines.errors import UserError
from pipelines.nearest_neighbors import BestLists

_FILE = "keys.npy"


class ExactSearcher:
    """Searches all keys `[n, d]` float32; holds them in memory."""

    def __init__(self, keys: np.ndarray) -> None:
        """Takes the keys without a copy."""
        self._keys = np.ascontiguousarray(keys, np.float32)
        self._largest_norm = nearest_neighbors.largest_norm(self._keys)

    def with_parameters(self, parameters: Parameters) -> "ExactSearcher":
        """Returns itself, since it has no parameters."""
        return self

    def with_threads(self, threads: int) -> "ExactSearcher":
        """Returns itself: its threads are those of NumPy's products."""
        return self

    def save(self, folder: str) -> None:
        """Writes the keys."""
        np.save(os.path.join(folder, _FILE), self._keys)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        more: int = 0,
        *,
        leaves: np.ndarray | None = None,
        shares: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and scores as `Searcher.search`; blocks bound its memory, whatever n and Q are."""
        queries = np.ascontiguousarray(queries, np.float32)
        slack = nearest_neighbors.rounding_slack(queries, self._largest_norm)
        return nearest_neighbors.search(queries, self._keys, k + more, slack)

    def search_rows(self, queries: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest of some rows as `Searcher.search_rows`, with the same bits as those of `search`."""
        queries = np.ascontiguousarray(queries, np.float32)
        slack, best = nearest_neighbors.rounding_slack(queries, self._largest_norm), BestLists(len(queries), k)
        for begin in range(0, len(rows), CHUNK_ROWS):
            part = rows[begin : begin + CHUNK_ROWS]
            places, scores = nearest_neighbors.search(queries, self._keys[part], k, slack)
            best.add(np.where(places < 0, -1, part[places]), scores)
        return best.ids, best.scores


def plan(rows: int, dim: int, config: Index) -> Plan:
    """Returns the plan of a shard: no partitions.

    Raises:
        UserError: if its keys are to be on disk.
    """
    if rows and config.reorder_on == "disk":
        raise UserError(
            "--config.index.reorder_on=disk: exact search holds all keys in memory; set --config.index.searcher=scann"
        )
    return NO_TREE


def build(keys: Keys, plan: Plan, *, centres: np.ndarray | None = None) -> ExactSearcher:
    """Builds a searcher, which needs all keys in memory, but no plan and no centres."""
    return ExactSearcher(keys.sample(keys.rows))


def load(folder: str, plan: Plan) -> ExactSearcher:
    """Loads what `ExactSearcher.save` wrote."""
    return ExactSearcher(np.load(os.path.join(folder, _FILE), allow_pickle=False))
