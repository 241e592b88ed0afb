"""Search among the rows that a filter allows: which rows these are, and how the nearest of them are found.

There are two ways, and `is_scanned` is the one place that chooses:

- *scan*: the kept keys of all allowed rows are compared with the query. Exact, and cheap if few rows are allowed.
- *longer lists*: the searcher is asked for so many rows that k of them are allowed, as a rule. It visits more leaves
  and re-ranks more candidates, in proportion, and doubles that as long as more would change the lists of a few queries
  of the index more than it does without a filter: allowed rows may be farther apart than rows are. A list that is still
  too short is made longer again, or scanned for.

So every row that is found is allowed, and a list is short only if fewer live rows are allowed.
"""

import math
import weakref
from typing import Any

import numpy as np

from index.engines import planner
from index.engines.planner import Parameters, Plan
from index.store.shard_store import Shard
from pipelines.errors import UserError
from pipelines.nearest_neighbors import top_k

# Costs in quantized rows scanned, as `planner.cost`: of a scan reading a key from its file, comparing it with a query,
# and an entry of a list, which is scored again; of longer lists an entry.
_READ_COST, _COMPARE_COST, _ENTRY_COST, _LISTED_COST = 200.0, 5.0, 300.0, 50.0
# Entries of the lists that a searcher is asked for at a time; an entry takes some 100 bytes.
_LIST_ENTRIES = 1 << 21
# How many times as much is searched to see whether lists stay as they are; the share that always is enough, and how far
# a share of a few lists may be off by chance.
_TRIED, _STABLE, _CHANCE = 4, 0.98, 0.003
# Allowed rows among the nearest are as many as expected, less so many standard deviations.
_DEVIATIONS = 3.0


class Allowed:
    """The rows that a search may find, by their ids; it can be used for any number of searches."""

    def __init__(self, ids: Any = None) -> None:
        """Takes ids, whole numbers `[n]` in any order; those that the index has not are ignored.

        Without ids all rows are allowed. Then a list is complete however long it is: a search that is not told so asks
        for longer lists without more leaves.

        Raises:
            UserError: if they are something else.
        """
        self._found: weakref.WeakKeyDictionary[Any, Among] = weakref.WeakKeyDictionary()
        self._ids: np.ndarray | None = None
        if ids is None:
            return
        given = np.asarray(ids)
        if given.ndim != 1 or (len(given) and given.dtype.kind not in "iu"):
            raise UserError(f"allowed: must be ids, whole numbers [n], not {given.dtype} {list(given.shape)}")
        self._ids = np.unique(given.astype(np.int64))

    def among(self, key: Any, shard: Shard, trial: np.ndarray | None = None) -> "Among":
        """Returns the rows of a shard that are allowed and not removed; they are looked up once for each key.

        Args:
            key: of the shard.
            shard: that has them.
            trial: queries `[q, d]` to choose by how far to search; None for the rule alone.
        """
        if key not in self._found:
            self._found[key] = Among(shard, self._has(shard.ids) & ~shard.removed, trial)
        return self._found[key]

    @property
    def is_every_row(self) -> bool:
        """Whether all rows are allowed."""
        return self._ids is None

    def _has(self, ids: np.ndarray) -> np.ndarray:
        """Returns which ids are allowed, bool `[n]`."""
        if self._ids is None:
            return np.ones(len(ids), bool)
        if not len(self._ids):
            return np.zeros(len(ids), bool)
        return self._ids[np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)] == ids


class Among:
    """Some rows of a shard, which are searched as if there were no others.

    Attributes:
        wanted: bool `[n]`, those that may be found.
        rows: int64 `[m]`, ascending, the same.
    """

    def __init__(self, shard: Shard, wanted: np.ndarray, trial: np.ndarray | None = None) -> None:
        """Takes a shard, which of its rows may be found, and queries to try."""
        self._shard, self.wanted, self.rows = shard, wanted, np.flatnonzero(wanted)
        # How many times as much as the rule says is searched, by k, and for which k that is known to be enough.
        self._trial, self._times, self._settled = trial, dict[int, float](), set[int]()

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the `k` nearest of the rows, as `Searcher.search`; lists are short if there are fewer rows."""
        if not len(self.rows) or not k:
            return np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        times = self._enough(len(queries), k)
        if times is None:
            return self._shard.searcher.search_rows(queries, k, self.rows)
        found, scores = self._longer(queries, k, times)
        last, short = min(k, len(self.rows)) - 1, np.arange(len(queries))
        while len(short := short[found[short, last] < 0]):
            times *= _TRIED
            wider = self._wider(k, times)
            is_whole = wider == self._wider(k, times / _TRIED)
            if is_whole or is_scanned(len(self.rows), len(short), k, *wider, self._shard.plan, len(self.wanted)):
                found[short], scores[short] = self._shard.searcher.search_rows(queries[short], k, self.rows)
                break
            found[short], scores[short] = self._longer(queries[short], k, times)
        return found, scores

    def _wider(self, k: int, times: float) -> tuple[Parameters, int]:
        n = len(self._shard.ids)
        return widened(self._shard.parameters, len(self.rows) / n / times, k, self._shard.plan, n)

    def _enough(self, queries: int, k: int) -> float | None:
        """Returns how many times as much as the rule says is searched for longer lists; None for a scan."""
        plan, n, times = self._shard.plan, len(self._shard.ids), self._times.get(k, 1.0)
        while not is_scanned(len(self.rows), queries, k, *self._wider(k, times), plan, n):
            if k in self._settled or self._trial is None or self._is_stable(k, times):
                self._settled.add(k)
                return times
            times = self._times[k] = 2 * times
        return None

    def _is_stable(self, k: int, times: float) -> bool:
        """Tells whether the trial queries' lists change no more than without a filter if more is searched."""
        tuned, every = self._shard.parameters.k, np.ones(len(self._shard.ids), bool)
        if len(self.rows) == len(every) and k <= tuned:
            return True
        without = Among(self._shard, every, self._trial)._kept(tuned, 1.0)
        return self._kept(k, times) >= min(without, _STABLE) - _CHANCE

    def _kept(self, k: int, times: float) -> float:
        """Returns the share of the trial queries' lists that is found already if more is searched."""
        if self._trial is None or self._wider(k, times) == self._wider(k, times * _TRIED):
            return 1.0
        (less, _), (more, _) = (self._longer(self._trial, k, each) for each in (times, times * _TRIED))
        same = sum(int(np.isin(b[b >= 0], a).sum()) for a, b in zip(less, more, strict=True))
        return same / max(int((more >= 0).sum()), 1)

    def _longer(self, queries: np.ndarray, k: int, times: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lists `[Q, k]` of allowed rows that longer lists have; they may be short."""
        wider, length = self._wider(k, times)
        engine = self._shard.searcher.with_parameters(wider)
        found, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        step = max(1, _LIST_ENTRIES // length)
        for begin in range(0, len(queries), step):
            part = slice(begin, begin + step)
            rows, values = engine.search(queries[part], length)
            found[part], scores[part] = top_k(np.where(self.wanted[rows], rows, -1), values, k)
        return found, scores


def widened(parameters: Parameters, share: float, k: int, plan: Plan, rows: int) -> tuple[Parameters, int]:
    """Returns the parameters, and the length of the lists, that find `k` allowed rows, as a rule.

    A list that is so many times longer than those that the parameters were tuned for needs as many times more leaves.

    Args:
        parameters: of the shard's search.
        share: of the rows that are allowed, above 0.
        k: allowed rows to find.
        plan: of the shard.
        rows: of the shard.
    """
    length = min(rows, math.ceil((k + _DEVIATIONS * math.sqrt(k * (1 - share))) / share))
    leaves = min(plan.leaves, math.ceil(parameters.leaves_to_search * max(1.0, length / parameters.k)))
    return Parameters(leaves, parameters.candidates(length, rows), length), length


def is_scanned(allowed: int, queries: int, k: int, wider: Parameters, length: int, plan: Plan, rows: int) -> bool:
    """Tells whether scanning the allowed rows is expected to cost less than longer lists.

    Args:
        allowed: rows that are allowed.
        queries: their number; a key that is read is compared with all of them.
        k: allowed rows to find.
        wider: parameters of the longer lists.
        length: of these lists.
        plan: of the shard.
        rows: of the shard.
    """
    if not plan.leaves:
        return allowed < rows
    scan = allowed * (_COMPARE_COST + _READ_COST / max(queries, 1)) + _ENTRY_COST * min(k, allowed)
    return scan < planner.cost(wider, plan, rows) + _LISTED_COST * length
