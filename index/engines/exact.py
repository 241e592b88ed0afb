"""Exact search by blocked matrix products: the truth that recall is measured against, and the way without ScaNN.

A product of two float32 matrices rounds a score differently with the shapes it is cut into. It only proposes
candidates here; their scores are summed anew in float64, so a list depends on nothing but its query and the keys:
not on the size of a block, the number of shards or the number of threads.
"""

import os

import numpy as np

from configs.base import Index
from index.engines.planner import NO_TREE, Parameters, Plan
from index.engines.searcher import BestLists, Keys

_QUERY_BLOCK = 256
_KEY_BLOCK = 16384
_RESCORE_BYTES = 64 << 20
_FILE = "keys.npy"


class ExactSearcher:
    """Searches all keys `[n, d]` float32; holds them in memory."""

    def __init__(self, keys: np.ndarray) -> None:
        """Takes the keys without a copy."""
        self._keys = np.ascontiguousarray(keys, np.float32)
        norms = np.linalg.norm(keys.astype(np.float32, copy=False), axis=1)
        self._largest_norm = float(norms.max(initial=0.0))

    def with_parameters(self, parameters: Parameters) -> "ExactSearcher":
        """Returns itself: there is nothing to set."""
        return self

    def save(self, folder: str) -> None:
        """Writes the keys."""
        np.save(os.path.join(folder, _FILE), self._keys)

    def search(self, queries: np.ndarray, k: int, more: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and scores as `Searcher.search`; memory is bounded by the blocks, whatever n and Q."""
        k += more
        queries = np.ascontiguousarray(queries, np.float32)
        blocks = [self._search_block(queries[i : i + _QUERY_BLOCK], k) for i in range(0, len(queries), _QUERY_BLOCK)]
        if not blocks:
            return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
        rows, scores = zip(*blocks, strict=True)
        return np.concatenate(rows), np.concatenate(scores)

    def _search_block(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        best = BestLists(len(queries), k)
        # Twice the worst rounding error of a float32 dot product of d terms: no true member is lost to rounding.
        slack = 2 * queries.shape[1] * np.finfo(np.float32).eps * self._largest_norm * np.linalg.norm(queries, axis=1)
        for begin in range(0, len(self._keys), _KEY_BLOCK):
            keys = self._keys[begin : begin + _KEY_BLOCK]
            rough = queries @ keys.T
            worst = best.scores[:, -1]
            if not np.isfinite(worst).all() and k < len(keys):
                worst = np.maximum(worst, np.partition(rough, len(keys) - k, axis=1)[:, len(keys) - k])
            # In one dimension the few that are true are found much faster.
            query, key = np.divmod(np.flatnonzero(rough >= (worst - slack)[:, None]), len(keys))
            scores = self._rescore(queries, keys, query, key)
            best.add(*_as_lists(query, begin + key, scores, len(queries), k))
        return best.ids, best.scores

    @staticmethod
    def _rescore(queries: np.ndarray, keys: np.ndarray, query: np.ndarray, key: np.ndarray) -> np.ndarray:
        scores = np.empty(len(query), np.float32)
        step = max(1, _RESCORE_BYTES // (8 * max(1, keys.shape[1])))
        for i in range(0, len(query), step):
            products = queries[query[i : i + step]].astype(np.float64) * keys[key[i : i + step]]
            scores[i : i + step] = products.sum(axis=1)
        return scores


def _as_lists(
    query: np.ndarray, rows: np.ndarray, scores: np.ndarray, num_queries: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Turns candidates `[c]` of ascending query into lists of the `k` best of each query, `[Q, <= k]`, padded."""
    order = np.lexsort((rows, -scores, query))
    query, rows, scores = query[order], rows[order], scores[order]
    place = np.arange(len(query)) - np.searchsorted(query, query)
    kept = place < k
    width = int(place[kept].max(initial=-1)) + 1
    ids, values = np.full((num_queries, width), -1, np.int64), np.full((num_queries, width), -np.inf, np.float32)
    ids[query[kept], place[kept]], values[query[kept], place[kept]] = rows[kept], scores[kept]
    return ids, values


def plan(rows: int, dim: int, config: Index) -> Plan:
    """Returns the plan of a shard: no partitions."""
    return NO_TREE


def build(keys: Keys, plan: Plan) -> ExactSearcher:
    """Builds a searcher; an exact one needs no plan, and all keys in memory."""
    return ExactSearcher(keys.sample(keys.rows))


def load(folder: str, plan: Plan) -> ExactSearcher:
    """Loads what `ExactSearcher.save` wrote."""
    return ExactSearcher(np.load(os.path.join(folder, _FILE), allow_pickle=False))
