"""Search among the rows that a filter allows: which rows these are, and how the nearest of them are found.

There are two ways, and `is_scanned` is the one place that chooses:

- *scan*: the kept keys of all allowed rows are compared with the query. Exact, and cheap if few rows are allowed.
- *longer lists*: the searcher is asked for so many rows that k of them are allowed, as a rule. It visits more leaves
  and re-ranks more candidates, in proportion, and doubles that as long as more would change the lists of a few queries
  of the index more than it does without a filter: allowed rows may be farther apart than rows are. A list that is still
  too short is made longer again, or scanned for.

So every row that is found is allowed, and a list is short only if fewer live rows are allowed.
"""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Asked:
    """Queries and, in a shard of a region, the part of it that each of them searches (`Searcher.search`).

    Attributes:
        queries: float32 `[Q, d]`.
        leaves: int32 `[Q]`, for lists that are as long as the index was tuned for; None for a shard by itself.
        shares: float32 `[Q]`, with them.
    """

    queries: np.ndarray
    leaves: np.ndarray | None = None
    shares: np.ndarray | None = None

    def part(self, places: Any) -> "Asked":
        """Returns some of the queries."""
        if self.leaves is None or self.shares is None:
            return Asked(self.queries[places])
        return Asked(self.queries[places], self.leaves[places], self.shares[places])


class Allowed:
    """The rows that a search may find, by their ids; it can be used for any number of searches."""

    def __init__(self, ids: Any = None) -> None:
        """Takes ids, whole numbers `[n]` in any order; those that the index has not are ignored.

        Without ids all rows are allowed. Then lists that are longer than the index was tuned for are searched for until
        more would not change them, on a few queries of the index; a search that is not told so goes by a rule.

        Raises:
            UserError: if they are something else.
        """
        self._found: weakref.WeakKeyDictionary[Any, Among] = weakref.WeakKeyDictionary()
        self._ids: np.ndarray | None = None
        if ids is None:
            return
        given = np.asarray(ids)
        if given.ndim != 1 or (len(given) and given.dtype.kind not in "iu"):
            what = f"{given.dtype} {list(given.shape)}" if given.dtype != object else f"a {type(ids).__name__}"
            raise UserError(f"allowed: must be ids, whole numbers [n], not {what}")
        self._ids = np.unique(given.astype(np.int64))

    def among(self, key: Any, shard: Shard, trial: Asked | None = None) -> "Among":
        """Returns the rows of a shard that are allowed and not removed; they are looked up once for each key.

        Args:
            key: of the shard.
            shard: that has them.
            trial: queries to choose by how far to search; None for the rule alone.
        """
        if key not in self._found:
            self._found[key] = Among(shard, self.has(shard.ids) & ~shard.removed, trial)
        return self._found[key]

    @property
    def is_every_row(self) -> bool:
        """Whether all rows are allowed."""
        return self._ids is None

    def has(self, ids: np.ndarray) -> np.ndarray:
        """Returns which ids are allowed, bool, of the shape of `ids`."""
        if self._ids is None:
            return np.ones(ids.shape, bool)
        if not len(self._ids):
            return np.zeros(ids.shape, bool)
        return np.asarray(self._ids[np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)] == ids)


class Among:
    """Some rows of a shard, which are searched as if there were no others.

    Attributes:
        wanted: bool `[n]`, those that may be found.
        rows: int64 `[m]`, ascending, the same.
    """

    def __init__(self, shard: Shard, wanted: np.ndarray, trial: Asked | None) -> None:
        """Takes a shard, which of its rows may be found, and queries to try."""
        self._shard, self.wanted, self.rows = shard, wanted, np.flatnonzero(wanted)
        # How many times as much as the rule says is searched, by k and whether the shard is searched by itself, and for
        # which of them that is known to be enough.
        self._trial, self._times, self._settled = trial, dict[tuple[int, bool], float](), set[tuple[int, bool]]()

    def search(self, asked: Asked, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the `k` nearest of the rows, as `Searcher.search`.

        Lists are short if there are fewer rows, and also if queries search a part of the shard and that has fewer.
        """
        queries = asked.queries
        if not len(self.rows) or not k:
            return np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        times = self._enough(asked, k)
        if times is None:
            return self._shard.searcher.search_rows(queries, k, self.rows)
        found, scores = self._longer(asked, k, times)
        if asked.leaves is not None:
            return found, scores
        last, short = min(k, len(self.rows)) - 1, np.arange(len(queries))
        while len(short := short[found[short, last] < 0]):
            times *= _TRIED
            wider = self._wider(asked, k, times)
            is_whole = wider == self._wider(asked, k, times / _TRIED)
            if is_whole or is_scanned(len(self.rows), len(short), k, *wider, self._shard.plan, len(self.wanted)):
                found[short], scores[short] = self._shard.searcher.search_rows(queries[short], k, self.rows)
                break
            found[short], scores[short] = self._longer(asked.part(short), k, times)
        return found, scores

    def _wider(self, asked: Asked, k: int, times: float) -> tuple[Parameters, int]:
        """Returns the parameters, those of a part of the shard on average, and the length of longer lists."""
        n, parameters = len(self._shard.ids), self._shard.parameters
        wider, length = widened(parameters, len(self.rows) / n / times, k, self._shard.plan, n)
        if asked.leaves is None or asked.shares is None:
            return wider, length
        candidates = parameters.candidates_of(asked.shares, length, n).mean()
        return Parameters(round(self._leaves(asked.leaves, length).mean()), round(candidates), length), length

    def _leaves(self, leaves: np.ndarray, length: int) -> np.ndarray:
        """Returns the leaves of a part of the shard for lists of some length, in proportion."""
        more = np.ceil(leaves * max(1.0, length / self._shard.parameters.k))
        return np.minimum(more, max(1, self._shard.plan.leaves)).astype(np.int64)

    def _enough(self, asked: Asked, k: int) -> float | None:
        """Returns how many times as much as the rule says is searched for longer lists; None for a scan."""
        plan, n, queries, of = self._shard.plan, len(self._shard.ids), len(asked.queries), (k, asked.leaves is None)
        times = self._times.get(of, 1.0)
        while not is_scanned(len(self.rows), queries, k, *self._wider(asked, k, times), plan, n):
            if of in self._settled or self._trial is None:
                return times
            if self._is_stable(self._trial if asked.leaves is not None else Asked(self._trial.queries), k, times):
                self._settled.add(of)
                return times
            times = self._times[of] = 2 * times
        return None

    def _is_stable(self, trial: Asked, k: int, times: float) -> bool:
        """Tells whether the trial queries' lists change no more than without a filter if more is searched."""
        tuned, every = self._shard.parameters.k, np.ones(len(self._shard.ids), bool)
        if len(self.rows) == len(every) and k <= tuned:
            return True
        without = Among(self._shard, every, None)._kept(trial, tuned, 1.0)
        return self._kept(trial, k, times) >= min(without, _STABLE) - _CHANCE

    def _kept(self, trial: Asked, k: int, times: float) -> float:
        """Returns the share of the trial queries' lists that is found already if more is searched."""
        if self._wider(trial, k, times) == self._wider(trial, k, times * _TRIED):
            return 1.0
        (less, _), (more, _) = (self._longer(trial, k, each) for each in (times, times * _TRIED))
        same = sum(int(np.isin(b[b >= 0], a).sum()) for a, b in zip(less, more, strict=True))
        return same / max(int((more >= 0).sum()), 1)

    def _longer(self, asked: Asked, k: int, times: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lists `[Q, k]` of allowed rows that longer lists have; they may be short."""
        wider, length = self._wider(asked, k, times)
        # The parameters of a part of the shard stay as they are: leaves are given, and candidates go with the length.
        engine = self._shard.searcher if asked.leaves is not None else self._shard.searcher.with_parameters(wider)
        found = np.empty((len(asked.queries), k), np.int64)
        scores, step = np.empty(found.shape, np.float32), max(1, _LIST_ENTRIES // length)
        for begin in range(0, len(found), step):
            some = asked.part(slice(begin, begin + step))
            leaves = None if some.leaves is None else self._leaves(some.leaves, length)
            rows, values = engine.search(some.queries, length, leaves=leaves, shares=some.shares)
            place = slice(begin, begin + step)
            found[place], scores[place] = top_k(np.where(self.wanted[rows], rows, -1), values, k)
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
