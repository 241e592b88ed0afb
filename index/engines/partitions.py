"""Partitions of a shard: k-means by matrix products, the same in every run.

`scann_coder` writes partitions, and ScaNN searches them.
"""

import math

import numpy as np

from pipelines.nearest_neighbors import nearest_centres

_SEED = 0
BLOCK_ROWS = 16_384
# The first half of the passes sees one point in four, which is enough for centres that are still far off.
_FIRST_SHARE = 4
# From this many centres on, centres are grouped, and a point is compared to those of its nearest groups. With 8 groups,
# 5% of 1M x 128 keys missed their nearest centre, at a cost of 0.005 in recall.
MIN_GROUPED = 2048
_GROUPS_VISITED = 16
_GROUP_ITERATIONS = 5
# How much longer many small products take than a large one.
_GROUPED_PRICE = 2.6


def fit(points: np.ndarray, leaves: int, iterations: int) -> np.ndarray:
    """Returns the centres of Lloyd's k-means, float32 `[leaves, d]`, scaled to unit length.

    A search visits the partitions whose centres have the largest dot products with the query. The wider a partition,
    the shorter its mean, so it would be visited too late. With centres of unit length, 15% fewer keys had to be scanned
    for recall@100 0.95 of 1M x 128, and 9% fewer for 0.99.

    Args:
        points: float32 `[n, d]`, at least as many as leaves.
        leaves: partitions.
        iterations: passes over the points; the first half sees a part of them.
    """
    centres = _means(points, leaves, iterations)
    centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    # Neighbours have neighbouring numbers, so that what is stored by leaf is stored by group.
    return centres[np.argsort(group(centres, group_means(centres)), kind="stable")]


def group_means(centres: np.ndarray) -> np.ndarray:
    """Returns the means of groups of neighbouring centres, about as many as a group has, `[groups, d]`."""
    return _means(centres, round(math.sqrt(len(centres))), _GROUP_ITERATIONS)


def group(points: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Returns the group whose mean is nearest to each point, int64 `[n]`."""
    return nearest_centres(points, means, _half_squares(means), BLOCK_ROWS)


def _means(points: np.ndarray, leaves: int, iterations: int) -> np.ndarray:
    first = np.random.default_rng(_SEED).choice(len(points), leaves, replace=False)
    centres = points[np.sort(first)].copy()
    for iteration in range(iterations):
        seen = points[:: _FIRST_SHARE if iteration < iterations // 2 else 1]
        leaf = nearest(seen, centres)
        order = np.argsort(leaf, kind="stable")
        filled, begins, sizes = np.unique(leaf[order], return_index=True, return_counts=True)
        # A leaf that lost all its points keeps its centre.
        centres[filled] = np.add.reduceat(seen[order], begins, axis=0) / sizes[:, None]
    return centres


def compared(points: int, leaves: int, iterations: int) -> float:
    """Returns about how many pairs of a point and a centre can be compared in the time that `fit` takes."""
    passes = iterations // 2 / _FIRST_SHARE + (iterations - iterations // 2)
    return passes * points * centres_compared(leaves)


def centres_compared(leaves: int) -> float:
    """Returns about how many centres can be compared to a point in the time that `nearest` takes for a point."""
    return leaves if leaves < MIN_GROUPED else _GROUPED_PRICE * (1 + _GROUPS_VISITED) * math.sqrt(leaves)


def nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Returns the centre at the least distance from each point, int32 `[n]`; of many centres, nearly always.

    A point is found through its centre later, so one of the nearest centres is good enough.
    """
    if len(centres) < MIN_GROUPED:
        return nearest_centres(points, centres, _half_squares(centres), BLOCK_ROWS).astype(np.int32)
    leaves, groups = np.empty(len(points), np.int32), _groups(centres)
    for begin in range(0, len(points), BLOCK_ROWS):
        leaves[begin : begin + BLOCK_ROWS] = _in_groups(points[begin : begin + BLOCK_ROWS], centres, *groups)
    return leaves


def _half_squares(centres: np.ndarray) -> np.ndarray:
    return np.einsum("ld,ld->l", centres, centres) / 2


def _closeness(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Returns a number for each point and centre, `[n, centres]`, larger for nearer ones."""
    products = points @ centres.T
    products -= _half_squares(centres)
    return products


def _groups(centres: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the means of groups of neighbouring centres, and the places of each group's centres."""
    means = group_means(centres)
    owner = group(centres, means)
    filled = np.unique(owner)
    return means[filled], [np.flatnonzero(owner == number) for number in filled]


def _in_groups(points: np.ndarray, centres: np.ndarray, means: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    """Returns the nearest centre in the groups whose means are nearest to each point, int `[n]`."""
    visited = min(_GROUPS_VISITED, len(groups))
    visits = np.argpartition(_closeness(points, means), -visited, axis=1)[:, -visited:].ravel()
    order = np.argsort(visits, kind="stable")
    ends = np.searchsorted(visits[order], np.arange(len(groups)), side="right")
    leaves, best = np.zeros(len(points), np.int64), np.full(len(points), -np.inf, np.float32)
    for group, places in zip(groups, np.split(order // visited, ends[:-1]), strict=True):
        products = _closeness(points[places], centres[group])
        first = products.argmax(axis=1)
        closeness = products[np.arange(len(places)), first]
        better = closeness > best[places]
        leaves[places[better]], best[places[better]] = group[first[better]], closeness[better]
    return leaves


def principal_axes(points: np.ndarray, dims: int) -> np.ndarray:
    """Returns the orthogonal directions in which points `[n, d]` have the largest squares, float32 `[dims, d]`.

    The mean is not subtracted, since the axes are to preserve dot products with the points.
    """
    _, vectors = np.linalg.eigh(points.T @ points)
    return np.ascontiguousarray(vectors[:, ::-1][:, :dims].T)
