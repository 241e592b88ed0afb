"""Neighbour lists by name: rows whose captions name a class, alone or beside the nearest of all rows.

A list of m nearest rows has so many named ones on average as the memory has among m rows, so the searcher is asked for
longer lists, whose length is the same for all queries, and the named rows of those are taken. Queries whose longer list
has too few are compared with all named rows.
"""

import functools
import math

import numpy as np

from configs.schema.search import BOTH
from index.store.filtered import Allowed
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
        named: the rows that name a class.
        count: of these.
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
        ids = np.unique(np.concatenate([np.empty(0, np.int64), *parts]))
        self.named, self.count = Allowed(ids), len(ids)
        share, wanted = len(ids) / max(rows, 1), k - self.near
        longer = (wanted + _DEVIATIONS * math.sqrt(wanted * (1 - share))) / max(share, 1e-9)
        self.depth = min(rows, self.near + math.ceil(longer))
        if longer > _MOST_TIMES * k:
            raise UserError(
                f"--config.neighbors.by={by}: only {len(ids):,} of {rows:,} captions name a class, too few to "
                "find them among the nearest rows; embed those rows alone with --config.filters.concepts=true, or set "
                "--config.neighbors.by=key"
            )

    def choose(self, ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns lists `[Q, k]` of lists `[Q, m]` of all rows, both ordered and padded as by `top_k`."""
        is_near = np.arange(ids.shape[1]) < self.near
        others = self.named.has(ids) & ~is_near
        others &= np.cumsum(others, axis=1) <= self.k - self.near
        return leave_out(ids, scores, ~(is_near | others), self.k)

    def join(self, *lists: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns what `choose` does of several lists of the same queries, which may share rows."""
        ids, scores = (np.concatenate(parts, axis=1) for parts in zip(*lists, strict=True))
        ids, scores = top_k(ids, scores, ids.shape[1])
        # A row of two lists stands there twice, one after the other.
        again = np.zeros(ids.shape, bool)
        again[:, 1:] = ids[:, 1:] == ids[:, :-1]
        return self.choose(*leave_out(ids, scores, again, ids.shape[1]))

    def short(self, ids: np.ndarray) -> np.ndarray:
        """Returns the places of lists `[Q, k]` that are not full while there are more rows that name a class."""
        places = np.flatnonzero(ids[:, -1] < 0)
        return places[self.named.has(ids[places]).sum(axis=1) < self.count]


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
        self._named.add(*leave_out(ids, scores, ~self._by_name.named.has(ids), self._by_name.k), places)

    @functools.cached_property
    def _whole(self) -> tuple[np.ndarray, np.ndarray]:
        return self._by_name.join((self._near.ids, self._near.scores), (self._named.ids, self._named.scores))

    @property
    def ids(self) -> np.ndarray:
        """The ids, int64 `[Q, k]`."""
        return self._whole[0]

    @property
    def scores(self) -> np.ndarray:
        """The scores, float32 `[Q, k]`, of `ids`."""
        return self._whole[1]
