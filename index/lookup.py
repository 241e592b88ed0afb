"""Searches a loaded index shard for neighbours, leaving out memory rows that are the query's own image.

Merging what several shards find is left to `searcher.merge`.
"""

import numpy as np

from index.searcher import leave_out
from index.shard_store import Shard

# Longest lists of all queries together that are searched at a time; they take some 100 bytes an entry.
_LIST_ENTRIES = 1 << 21


class Lookup:
    """A shard and its images in order, so that a query's own image is found at once."""

    def __init__(self, shard: Shard) -> None:
        """Sorts the content keys once."""
        self._shard = shard
        self._images = np.sort(shard.content_keys)

    def search(
        self, queries: np.ndarray, k: int, images: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the `k` nearest rows of the shard that are not the query's own image.

        Args:
            queries: `[Q, d]` float32.
            k: neighbours a query.
            images: bytes `S32` `[Q]`, content keys of the queries; none leaves nothing out.

        Returns:
            ids int64 `[Q, k]` and scores float32 `[Q, k]` as `searcher.top_k`, and int32 `[Q]`, how many rows of the
            shard are the query's own image.
        """
        own = np.zeros(len(queries), np.int64)
        if images is not None:
            own = np.searchsorted(self._images, images, "right") - np.searchsorted(self._images, images, "left")
        ids, found_scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        # Only queries that have rows to leave out need longer lists, by the next power of two: few groups, and the
        # length that a query is searched at is its own affair. An image may be in a web memory a million times.
        extra = np.array([1 << (n - 1).bit_length() if n else 0 for n in own.tolist()], np.int64)
        for longer in np.unique(extra).tolist():
            group, step = np.flatnonzero(extra == longer), max(1, _LIST_ENTRIES // (k + longer))
            for begin in range(0, len(group), step):
                part = group[begin : begin + step]
                rows, scores = self._shard.search(queries[part], k + longer)
                listed = self._shard.ids_of(rows)
                if images is not None and longer:
                    same = self._shard.content_keys[rows] == images[part, None]
                    listed, scores = leave_out(listed, scores, same, k)
                ids[part], found_scores[part] = listed, scores
        return ids, found_scores, own.astype(np.int32)
