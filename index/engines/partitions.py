"""Partitions of a shard: k-means by matrix products, the same in every run.

Where partitions are kept and how they are searched is left to `scann_coder` and ScaNN.
"""

import math

import numpy as np

_SEED = 0
_BLOCK_ROWS = 16_384
# The first half of the passes sees one point in so many: centres that are still far from their place need no more.
_FIRST_SHARE = 4
# So many centres and more are put into groups, and a point is compared to those of the groups that it is nearest to.
# With 8 groups 5 % of 1M x 128 keys missed their nearest centre, for .005 of recall.
_MIN_GROUPED = 2048
_GROUPS_VISITED = 16
_GROUP_ITERATIONS = 5
# Many small products take so much longer than a large one.
_GROUPED_PRICE = 2.6


def fit(points: np.ndarray, leaves: int, iterations: int) -> np.ndarray:
    """Returns the centres of Lloyd's k-means, float32 `[leaves, d]`, brought to unit length.

    A search visits the partitions whose centres have the largest dot products with the query. A mean is the shorter the
    wider its partition, which would so come too late: with centres of one length 15 % fewer keys had to be scanned for
    recall@100 .95 of 1M x 128, 9 % for .99.

    Args:
        points: float32 `[n, d]`, at least as many as leaves.
        leaves: partitions.
        iterations: passes over the points; the first half sees a part of them.
    """
    centres = _means(points, leaves, iterations)
    return centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), np.finfo(np.float32).tiny)


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
    """Returns how many pairs of a point and a centre could be compared, about, in the time that `fit` takes."""
    passes = iterations // 2 / _FIRST_SHARE + (iterations - iterations // 2)
    return passes * points * centres_compared(leaves)


def centres_compared(leaves: int) -> float:
    """Returns how many centres could be compared to a point, about, in the time that `nearest` takes for one."""
    return leaves if leaves < _MIN_GROUPED else _GROUPED_PRICE * (1 + _GROUPS_VISITED) * math.sqrt(leaves)


def nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Returns the centre at the least distance from each point, int32 `[n]`; of many centres nearly always.

    Where a point lies is found again by its centre, so that one of the nearest is as good.
    """
    leaves = np.empty(len(points), np.int32)
    groups = _groups(centres) if len(centres) >= _MIN_GROUPED else None
    for begin in range(0, len(points), _BLOCK_ROWS):
        block = points[begin : begin + _BLOCK_ROWS]
        found = _closeness(block, centres).argmax(axis=1) if groups is None else _in_groups(block, centres, *groups)
        leaves[begin : begin + _BLOCK_ROWS] = found
    return leaves


def _closeness(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Returns what is the larger the nearer a centre is to a point, `[n, centres]`."""
    products = points @ centres.T
    products -= np.einsum("ld,ld->l", centres, centres) / 2
    return products


def _groups(centres: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the means of groups of centres that lie together, and the places of each group's centres."""
    means = _means(centres, round(math.sqrt(len(centres))), _GROUP_ITERATIONS)
    group = _closeness(centres, means).argmax(axis=1)
    filled = np.unique(group)
    return means[filled], [np.flatnonzero(group == number) for number in filled]


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

    The mean is not taken off: it is dot products with the points that these axes shall keep.
    """
    _, vectors = np.linalg.eigh(points.T @ points)
    return np.ascontiguousarray(vectors[:, ::-1][:, :dims].T)
