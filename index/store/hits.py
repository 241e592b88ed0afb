"""Lists that queries get, and how those are completed that the visited part of the regions leaves short.

A query visits a part of some shards, which may have too few rows. If its list is short, it is searched for in the whole
of these shards, each by itself; or in all that are regions, if these have too few rows. Shards that an update has added
are no part of this, so the lists of the others stay as they are when one is added (`index.lists.patch`).
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from pipelines.nearest_neighbors import BestLists

# Lists int64 and float32 `[q, k]` of some queries, by their places, in the whole of a shard, by its number, and int32
# `[q]`, how many rows were left out as the query's own image.
Find = Callable[[int, np.ndarray], tuple[np.ndarray, ...]]


@dataclasses.dataclass(frozen=True)
class Hits:
    """The lists of some queries.

    Attributes:
        ids: int64 `[Q, k]`, -1 pads.
        scores: float32 `[Q, k]`, dot products, descending; -inf pads.
        excluded: int32 `[Q]`, rows left out because they are the query's own image.
    """

    ids: np.ndarray
    scores: np.ndarray
    excluded: np.ndarray

    def part(self, queries: slice) -> "Hits":
        """Returns the lists of some queries, to read or to fill in."""
        return Hits(self.ids[queries], self.scores[queries], self.excluded[queries])


def complete(into: Hits, asked: np.ndarray, visited: np.ndarray, rows: np.ndarray, find: Find) -> None:
    """Completes short lists, so that one has padding only if the regions have no more rows.

    Args:
        into: merged lists of the regions.
        asked: int64 `[q]`, places of the queries whose lists may be short.
        visited: bool `[Q, shards]`, the regions that each query has visited.
        rows: int64 `[shards]`, rows of each region that can be found; 0 for other shards.
        find: searches a shard.
    """
    k = into.ids.shape[1]
    short = asked[into.ids[asked, -1] < 0] if k else asked[:0]
    short = short[(into.ids[short] >= 0).sum(axis=1) < np.minimum(k, rows.sum() - into.excluded[short])]
    if not len(short):
        return
    has_few = visited[short] @ rows - into.excluded[short] < k
    searched = (visited[short] | has_few[:, None]) & (rows > 0)
    best, left_out = BestLists(len(short), k), np.zeros(len(short), into.excluded.dtype)
    for number in np.flatnonzero(searched.any(axis=0)).tolist():
        places = np.flatnonzero(searched[:, number])
        ids, scores, own = find(number, short[places])
        best.add(ids, scores, places)
        left_out[places] += own
    into.ids[short], into.scores[short], into.excluded[short] = best.ids, best.scores, left_out
