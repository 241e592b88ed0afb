"""The curve of recall against cost of a whole index, and the point on it to search at.

A point is a pair: the level that every shard's own search is tuned to, and the number of cells that a query visits.
Points are measured on lists that the shards have already made, so a point costs a merge and no search. Costs are
counted (`planner.cost`), not timed, so the same data gives the same point on any machine.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from index.engines import planner
from index.engines.planner import Plan
from index.measure.measurement import Queries
from index.measure.recall import recall_at_k
from index.store.records import Found, Point, Setting, ShardLists, setting_at
from pipelines.nearest_neighbors import BestLists, merge

# Recall is reported at these numbers and at the k of the index.
_AT = (1, 10)


@dataclasses.dataclass(frozen=True)
class MeasuredShard:
    """What the curve needs of a shard.

    Attributes:
        rows: number of keys.
        plan: how it was built.
        settings: those it can be searched with, cheapest first.
        lists: of all queries.
        nearness: int64 `[Q]`, how many cells each query must visit to reach the shard.
    """

    rows: int
    plan: Plan
    settings: list[Setting]
    lists: ShardLists
    nearness: np.ndarray


def measure(
    shards: Sequence[MeasuredShard], probes: Sequence[int], queries: Queries, k: int, target: float
) -> tuple[list[Point], Point]:
    """Measures the curve and chooses the cheapest point that reaches the target on the tuning queries.

    Args:
        shards: of the index.
        probes: numbers of cells that a query may visit.
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
    for level, probe in _frontier(shards, probes, exact, tuning, k):
        found = _found(shards, level, probe, k)
        recalls = recall_at_k(found[tuning], exact[0][tuning], exact[1][tuning], k)
        point = _point(shards, level, probe, found, exact, queries, k)
        points.append(point)
        if best_recall is None or recalls.mean() > best_recall:
            best, best_recall = point, recalls.mean()
        if chosen is None and planner.reaches(recalls, target):
            chosen = point
    assert best
    return points, chosen or best


def point_at(shards: Sequence[MeasuredShard], level: float, probe: int, queries: Queries, k: int) -> Point:
    """Measures one point, whether or not it is on the curve; arguments as `measure`."""
    return _point(shards, level, probe, _found(shards, level, probe, k), _exact(shards), queries, k)


def _exact(shards: Sequence[MeasuredShard]) -> tuple[np.ndarray, np.ndarray]:
    return merge([shard.lists.exact for shard in shards], shards[0].lists.exact[0].shape[1])


def _point(
    shards: Sequence[MeasuredShard],
    level: float,
    probe: int,
    found: np.ndarray,
    exact: tuple[np.ndarray, np.ndarray],
    queries: Queries,
    k: int,
) -> Point:
    """Returns a point, from the ids `[Q, k]` found there and the exact lists."""
    reported = slice(queries.tuning, None)
    at = sorted({n for n in _AT if n < k} | {k})
    means = {
        str(n): round(float(recall_at_k(found[reported], exact[0][reported], exact[1][reported], n).mean()), 6)
        for n in at
    }
    visited = [(shard.nearness <= probe).mean() for shard in shards]
    return Point(level, probe, round(_cost(shards, level, probe), 3), round(float(sum(visited)), 4), means)


def _cost(shards: Sequence[MeasuredShard], level: float, probe: int) -> float:
    """Returns the mean cost of a query."""
    return float(
        sum(
            (shard.nearness <= probe).mean()
            * planner.cost(shard.settings[setting_at(shard.settings, level)].parameters, shard.plan, shard.rows)
            for shard in shards
        )
    )


def _frontier(
    shards: Sequence[MeasuredShard],
    probes: Sequence[int],
    exact: tuple[np.ndarray, np.ndarray],
    tuning: slice,
    k: int,
) -> list[tuple[float, int]]:
    """Returns the levels and probes that beat all cheaper ones, estimated from the hits of each shard alone."""
    hits: list[list[np.ndarray]] = []
    for shard in shards:
        hits.append([])
        for found in shard.lists.found:
            share = np.zeros(len(exact[0]))
            share[found.queries] = recall_at_k(found.ids, exact[0][found.queries], exact[1][found.queries], k)
            hits[-1].append(share[tuning])
    levels = sorted({setting.level for shard in shards for setting in shard.settings})
    tried = []
    for level in levels:
        for probe in probes:
            total = np.zeros_like(hits[0][0])
            for shard, shares in zip(shards, hits, strict=True):
                total += np.where(shard.nearness[tuning] <= probe, shares[setting_at(shard.settings, level)], 0.0)
            tried.append((_cost(shards, level, probe), -float(np.minimum(total, 1).mean()), level, probe))
    kept: list[tuple[float, int]] = []
    best = 1.0
    for _, missed, level, probe in sorted(tried):
        if missed < best:
            best = missed
            kept.append((level, probe))
    return kept


def _found(shards: Sequence[MeasuredShard], level: float, probe: int, k: int) -> np.ndarray:
    """Returns the ids `[Q, k]` that the whole index finds."""
    best = BestLists(len(shards[0].nearness), k)
    for shard in shards:
        found = shard.lists.found[setting_at(shard.settings, level)]
        best.add(*_spread(found, shard.nearness <= probe, k))
    return best.ids


def _spread(found: Found, visits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns lists `[Q, k]` of all queries, empty for queries that do not visit the shard."""
    ids = np.full((len(visits), k), -1, np.int64)
    scores = np.full((len(visits), k), -np.inf, np.float32)
    ids[found.queries], scores[found.queries] = found.ids, found.scores
    ids[~visits] = -1
    return ids, scores
