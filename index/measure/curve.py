"""The curve of recall against cost of a whole index, and the point on it to search at.

A point says how shards are searched: those that are regions by the leaves that a query scans in all of them and the
candidates that it re-ranks, all others by the level that their own search is tuned to. Points are measured on lists
that the shards have already made, so a point costs a merge and no search. Costs are counted (`planner.cost`), not
timed, so the same data gives the same point on any machine.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from index.engines import planner
from index.measure.measurement import Queries
from index.measure.recall import recall_at_k
from index.store.records import Point, Setting, ShardLists, setting_of
from pipelines.nearest_neighbors import BestLists, merge

# Recall is reported at these numbers and at the k of the index.
_AT = (1, 10)


@dataclasses.dataclass(frozen=True)
class MeasuredShard:
    """What the curve needs of a shard.

    Attributes:
        settings: those it can be searched with; the same parameters in all regions.
        lists: of all queries.
        is_region: whether it owns some leaves of the index.
    """

    settings: list[Setting]
    lists: ShardLists
    is_region: bool

    def setting(self, point: Point) -> int:
        """Returns the number of the setting that it uses at a point."""
        return setting_of(self.settings, self.is_region, point)


def measure(shards: Sequence[MeasuredShard], queries: Queries, k: int, target: float) -> tuple[list[Point], Point]:
    """Measures the curve and chooses the cheapest point that reaches the target on the tuning queries.

    Args:
        shards: of the index.
        queries: those of the lists.
        k: of the lists.
        target: mean recall@k to reach, with a margin for the sampling error.

    Returns:
        The points, each more expensive and better than the one before, and the chosen one: the best if none reaches
        the target.
    """
    exact = _exact(shards)
    tuning = slice(None, queries.tuning) if queries.tuning else slice(None)
    points: list[Point] = []
    chosen: Point | None = None
    best = best_recall = None
    for point in _frontier(shards, exact, tuning, k):
        found = _found(shards, point, k)
        recalls = recall_at_k(found[tuning], exact[0][tuning], exact[1][tuning], k)
        if all(shard.is_region for shard in shards):
            # Shards that an update adds are searched at this level.
            level = next((level for level in planner.LEVELS if level >= recalls.mean()), planner.LEVELS[-1])
            point = dataclasses.replace(point, level=level)
        point = _measured(point, found, exact, queries, k)
        points.append(point)
        if best_recall is None or recalls.mean() > best_recall:
            best, best_recall = point, recalls.mean()
        if chosen is None and planner.reaches(recalls, target):
            chosen = point
    assert best
    return points, chosen or best


def point_at(shards: Sequence[MeasuredShard], point: Point, queries: Queries, k: int) -> Point:
    """Measures a point of another version, whether or not it is on the curve; arguments as `measure`."""
    here = _costed(shards, point)
    return _measured(here, _found(shards, here, k), _exact(shards), queries, k)


def _exact(shards: Sequence[MeasuredShard]) -> tuple[np.ndarray, np.ndarray]:
    return merge([shard.lists.exact for shard in shards], shards[0].lists.exact[0].shape[1])


def _costed(shards: Sequence[MeasuredShard], point: Point) -> Point:
    """Returns a point with its cost and visits in these shards, and without recall."""
    numbers = [shard.setting(point) for shard in shards]
    cost = sum(shard.settings[number].cost for shard, number in zip(shards, numbers, strict=True))
    visits = sum(shard.settings[number].visits for shard, number in zip(shards, numbers, strict=True))
    return dataclasses.replace(point, cost=round(cost, 3), visits=round(visits, 4), recall={})


def _measured(point: Point, found: np.ndarray, exact: tuple[np.ndarray, np.ndarray], queries: Queries, k: int) -> Point:
    """Returns a point with its recall, from the ids `[Q, k]` found there and the exact lists."""
    reported = slice(queries.tuning, None)
    at = sorted({n for n in _AT if n < k} | {k})
    means = {
        str(n): round(float(recall_at_k(found[reported], exact[0][reported], exact[1][reported], n).mean()), 6)
        for n in at
    }
    return dataclasses.replace(point, recall=means)


def _candidates(shards: Sequence[MeasuredShard]) -> list[Point]:
    """Returns all points, without recall."""
    levels = sorted({setting.level for shard in shards if not shard.is_region for setting in shard.settings})
    region = next((shard for shard in shards if shard.is_region), None)
    parameters = [setting.parameters for setting in region.settings] if region else []
    of = [(one.leaves_to_search, one.pre_reorder_num_neighbors) for one in parameters]
    blank = [Point(level, *pair, 0.0, 0.0, {}) for level in levels or [0.0] for pair in of or [(0, 0)]]
    return [_costed(shards, point) for point in blank]


def _frontier(
    shards: Sequence[MeasuredShard], exact: tuple[np.ndarray, np.ndarray], tuning: slice, k: int
) -> list[Point]:
    """Returns the points that beat all cheaper ones, estimated from the hits of each shard alone."""
    hits: list[list[np.ndarray]] = []
    for shard in shards:
        hits.append([])
        for number in range(len(shard.settings)):
            found, share = shard.lists.found[number], np.zeros(len(exact[0]))
            share[found.queries] = recall_at_k(found.ids, exact[0][found.queries], exact[1][found.queries], k)
            hits[-1].append(share[tuning])
    tried = []
    for place, point in enumerate(_candidates(shards)):
        total = sum(shares[shard.setting(point)] for shard, shares in zip(shards, hits, strict=True))
        tried.append((point.cost, -float(np.minimum(total, 1).mean()), place, point))
    kept: list[Point] = []
    best = 1.0
    for _, missed, _, point in sorted(tried, key=lambda each: each[:3]):
        if missed < best:
            best = missed
            kept.append(point)
    return kept


def _found(shards: Sequence[MeasuredShard], point: Point, k: int) -> np.ndarray:
    """Returns the ids `[Q, k]` that the whole index finds."""
    best = BestLists(len(shards[0].lists.exact[0]), k)
    for shard in shards:
        found = shard.lists.found[shard.setting(point)]
        best.add(found.ids, found.scores, found.queries)
    return best.ids
