"""Neighbour lists by name: rows whose captions name a class, alone or beside the nearest of all rows.

A list of m nearest rows has so many named ones on average as the memory has among m rows, so the searcher is asked for
longer lists, whose length is the same for all queries, and the named rows of those are taken.
"""

import functools
import math

import numpy as np

from configs.schema.search import BOTH
from pipelines.errors import UserError
from pipelines.manifest import Concepts
from pipelines.nearest_neighbors import BestLists, leave_out, top_k

# Named rows of a longer list are as many as expected, less so many standard deviations.
_DEVIATIONS = 3.0
# How many times as long as the lists the longer ones may be.
_MOST_TIMES = 64


class ByName:
    """Chooses rows by name from lists of the nearest of all rows.

    Attributes:
        k: length of the lists.
        near: how many of them are the nearest of all rows; the others are the nearest rows that name a class.
        depth: length of the lists to choose from.
    """

    def __init__(self, folder: str, memory: str, rows: int, by: str, k: int) -> None:
        """Reads which rows name a class.

        Args:
            folder: of the concepts.
            memory: its snapshot.
            rows: of the memory.
            by: `name` or `both`.
            k: length of the lists.

        Raises:
            UserError: if there are no concepts, they are of another memory, or too few rows name a class.
        """
        concepts = Concepts.open(folder)
        concepts.check_memory(memory)
        self.rules = concepts.rules
        self.k, self.near = k, -(-k // 2) if by == BOTH else 0
        parts = [np.unique(chunk.ids) for chunk in concepts.chunks()]
        self._ids = np.unique(np.concatenate([np.empty(0, np.int64), *parts]))
        share, wanted = len(self._ids) / max(rows, 1), k - self.near
        longer = (wanted + _DEVIATIONS * math.sqrt(wanted * (1 - share))) / max(share, 1e-9)
        self.depth = min(rows, self.near + math.ceil(longer))
        if longer > _MOST_TIMES * k:
            raise UserError(
                f"--config.neighbors.by={by}: only {len(self._ids):,} of {rows:,} captions name a class, too few to "
                "find them among the nearest rows; embed those rows alone with --config.filters.concepts=true, or set "
                "--config.neighbors.by=key"
            )

    def is_named(self, ids: np.ndarray) -> np.ndarray:
        """Tells which rows name a class, bool, of the shape of `ids`; padding does not."""
        if not len(self._ids):
            return np.zeros(ids.shape, bool)
        return np.asarray(self._ids[np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)] == ids)

    def choose(self, ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns lists `[Q, k]` of lists `[Q, m]` of all rows, both ordered and padded as by `top_k`."""
        is_near = np.arange(ids.shape[1]) < self.near
        others = self.is_named(ids) & ~is_near
        others &= np.cumsum(others, axis=1) <= self.k - self.near
        return leave_out(ids, scores, ~(is_near | others), self.k)


class NamedLists:
    """What `BestLists` is, of lists that `ByName.choose` made in each index shard: the same as if there were one."""

    def __init__(self, queries: int, by_name: ByName) -> None:
        """Begins with lists of padding."""
        self._by_name = by_name
        self._near, self._named = BestLists(queries, max(by_name.near, 1)), BestLists(queries, by_name.k)

    def add(self, ids: np.ndarray, scores: np.ndarray, places: np.ndarray | None = None) -> None:
        """Takes lists; arguments as `BestLists.add`."""
        if self._by_name.near:
            self._near.add(ids, scores, places)
        self._named.add(*leave_out(ids, scores, ~self._by_name.is_named(ids), self._by_name.k), places)

    @functools.cached_property
    def _whole(self) -> tuple[np.ndarray, np.ndarray]:
        pairs = ((self._near.ids, self._named.ids), (self._near.scores, self._named.scores))
        ids, scores = (np.concatenate(both, axis=1) for both in pairs)
        ids, scores = top_k(ids, scores, ids.shape[1])
        # A row of both lists stands there twice, one after the other.
        again = np.zeros(ids.shape, bool)
        again[:, 1:] = ids[:, 1:] == ids[:, :-1]
        return self._by_name.choose(*leave_out(ids, scores, again, ids.shape[1]))

    @property
    def ids(self) -> np.ndarray:
        """The ids, int64 `[Q, k]`."""
        return self._whole[0]

    @property
    def scores(self) -> np.ndarray:
        """The scores, float32 `[Q, k]`, of `ids`."""
        return self._whole[1]
