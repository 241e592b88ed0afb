"""What every kind of searcher offers, the table of kinds, and the one place where lists are ordered and padded.

The kinds themselves are in modules of their own, imported when asked for, so that `exact` works where ScaNN
cannot even be imported. Rows are local to one shard here; which ids they stand for is left to `shard_store`.
"""

import importlib
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import numpy as np

from configs.base import Index
from index.engines.planner import Parameters, Plan
from pipelines.errors import UserError, nearest

KINDS = {"exact": "index.engines.exact", "scann": "index.engines.scann_searcher"}
CHUNK_ROWS = 32_768
_SAMPLE_SEED = 0


class Keys(Protocol):
    """The keys of one shard, which need never be in memory at once."""

    @property
    def rows(self) -> int:
        """Rows of the shard."""

    @property
    def dim(self) -> int:
        """Width of a key."""

    def sample(self, rows: int) -> np.ndarray:
        """Returns keys float32 `[min(rows, self.rows), d]`, the same in every call; all, in row order, where asked."""

    def chunks(self) -> Iterator[np.ndarray]:
        """Yields all keys in row order, float32 `[m, d]` of at most `CHUNK_ROWS`; can be called again."""


class ArrayKeys:
    """Keys that are an array `[n, d]` in memory or a mapped file."""

    def __init__(self, keys: np.ndarray) -> None:
        """Takes the keys without a copy."""
        self._keys = keys
        self.rows, self.dim = keys.shape

    def sample(self, rows: int) -> np.ndarray:
        """Returns keys as `Keys.sample`, drawn without replacement."""
        if rows >= self.rows:
            return np.ascontiguousarray(self._keys, np.float32)
        drawn = np.random.default_rng(_SAMPLE_SEED).choice(self.rows, rows, replace=False)
        return np.ascontiguousarray(self._keys[np.sort(drawn)], np.float32)

    def chunks(self) -> Iterator[np.ndarray]:
        """Yields keys as `Keys.chunks`."""
        for begin in range(0, self.rows, CHUNK_ROWS):
            yield np.ascontiguousarray(self._keys[begin : begin + CHUNK_ROWS], np.float32)


class Searcher(Protocol):
    """Finds the keys of one shard with the largest dot products."""

    def search(self, queries: np.ndarray, k: int, more: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest rows, ordered and padded as `top_k` does.

        Args:
            queries: `[Q, d]` float32.
            k: length of the list that is wanted; it alone decides how many candidates are looked at.
            more: places after those. They are for rows that take the place of some that are left out: whatever
                `more` is, the list of `k` is the beginning of this one.

        Returns:
            Rows int64 and scores float32, both `[Q, k + more]`.
        """

    def with_parameters(self, parameters: Parameters) -> "Searcher":
        """Returns a searcher over the same keys with other search-time parameters."""

    def save(self, folder: str) -> None:
        """Writes the searcher into a local folder that exists."""


class SearcherModule(Protocol):
    """What a module named in `KINDS` defines."""

    def plan(self, rows: int, dim: int, config: Index) -> Plan:
        """Returns how a shard is to be built."""

    def build(self, keys: Keys, plan: Plan) -> Searcher:
        """Builds a searcher."""

    def load(self, folder: str, plan: Plan) -> Searcher:
        """Loads what `save` wrote; the files must have been checked before."""


def kind(name: str) -> SearcherModule:
    """Returns the module of a kind of searcher.

    Raises:
        UserError: for an unknown name, or a searcher that cannot run on this machine.
    """
    if name not in KINDS:
        raise UserError(f"--config.index.searcher={name}: unknown; {nearest(name, list(KINDS))}")
    return cast(SearcherModule, importlib.import_module(KINDS[name]))


def top_k(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Orders lists by descending score, ties by ascending id, and cuts or pads them to `k`.

    Args:
        ids: `[Q, m]` int64; a negative id is padding.
        scores: `[Q, m]` float32; one that is not finite is padding.
        k: length of the result.

    Returns:
        ids `[Q, k]` int64 padded with -1, and scores `[Q, k]` float32 padded with -inf.
    """
    padding = (ids < 0) | ~np.isfinite(scores)
    ids = np.where(padding, np.int64(-1), ids)
    scores = np.where(padding, np.float32(-np.inf), scores)
    if (short := k - ids.shape[1]) > 0:
        ids = np.pad(ids, ((0, 0), (0, short)), constant_values=-1)
        scores = np.pad(scores, ((0, 0), (0, short)), constant_values=-np.inf)
    # Lists come in order, or as a few that are, which a stable sort takes in one pass; few of them have ties.
    order = np.argsort(-scores, axis=1, kind="stable")
    ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    tied = ((scores[:, 1:] == scores[:, :-1]) & (ids[:, 1:] < ids[:, :-1])).any(axis=1)
    order = np.lexsort((ids[tied], -scores[tied]), axis=-1)
    ids[tied] = np.take_along_axis(ids[tied], order, 1)
    return ids[:, :k], scores[:, :k]


def merge(lists: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `k` best of several lists of the same queries, each `(ids [Q, m], scores [Q, m])`, as `top_k`.

    No id may be in two lists. The order of the lists does not matter, nor does merging some of them first.
    """
    return top_k(np.concatenate([ids for ids, _ in lists], 1), np.concatenate([scores for _, scores in lists], 1), k)


class BestLists:
    """The best of the lists that queries are given one after the other; their order does not matter.

    No id may be given to a query twice.

    Attributes:
        ids: int64 `[Q, k]`, ordered and padded as `top_k` does.
        scores: float32 `[Q, k]`.
    """

    def __init__(self, queries: int, k: int) -> None:
        """Begins with lists of padding."""
        self.ids, self.scores = np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)

    def add(self, ids: np.ndarray, scores: np.ndarray, places: np.ndarray | slice = slice(None)) -> None:
        """Takes lists `[q, m]` of the queries at some places, of which none is named twice."""
        lists = [(ids, scores)]
        if (self.ids[places, :1] >= 0).any():
            lists.append((self.ids[places], self.scores[places]))
        self.ids[places], self.scores[places] = merge(lists, self.ids.shape[1])


def leave_out(ids: np.ndarray, scores: np.ndarray, unwanted: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `k` best of lists `[Q, m]` without the places where `unwanted` `[Q, m]` is true, as `top_k`."""
    return top_k(np.where(unwanted, -1, ids), scores, k)
