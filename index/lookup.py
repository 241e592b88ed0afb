"""Searches a loaded index shard, leaving out rows that are removed or are the query's own image.

Merging what several shards find is left to `searcher.merge`.
"""

import functools

import numpy as np

from index.searcher import leave_out
from index.shard_store import Shard

# Longest lists of all queries together that are searched at a time; they take some 100 bytes an entry.
_LIST_ENTRIES = 1 << 21
_MORE = 32


class Lookup:
    """A shard, its removed rows, and its images in order, so that a query's own image is found at once."""

    def __init__(self, shard: Shard) -> None:
        """Keeps the shard."""
        self._shard = shard

    @functools.cached_property
    def _images(self) -> np.ndarray:
        return np.sort(self._shard.content_keys)

    def search(
        self, queries: np.ndarray, k: int, images: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the `k` nearest rows of the shard that are not removed and not the query's own image.

        Rows that are removed leave the rest of a list as it was: it is filled up from the candidates that the search
        has scored anyway, and is shorter where these are too few.

        Args:
            queries: `[Q, d]` float32.
            k: neighbours a query.
            images: bytes `S32` `[Q]`, content keys of the queries; none leaves nothing out.

        Returns:
            ids int64 `[Q, k]` and scores float32 `[Q, k]` as `searcher.top_k`, and int32 `[Q]`, how many rows of the
            shard, removed ones too, are the query's own image.
        """
        own = np.zeros(len(queries), np.int64)
        if images is not None:
            own = np.searchsorted(self._images, images, "right") - np.searchsorted(self._images, images, "left")
        ids, scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        # Only queries that have rows to leave out need longer lists, by the next power of two: few groups, and the
        # length that a query is searched at is its own affair. An image may be in a web memory a million times.
        extra = np.array([1 << (n - 1).bit_length() if n else 0 for n in own.tolist()], np.int64)
        for longer in np.unique(extra).tolist():
            group, step = np.flatnonzero(extra == longer), max(1, _LIST_ENTRIES // (k + longer))
            for begin in range(0, len(group), step):
                part = group[begin : begin + step]
                theirs = images[part] if images is not None and longer else None
                ids[part], scores[part] = self._search(queries[part], k, k + longer, theirs)
        return ids, scores, own.astype(np.int32)

    def _search(
        self, queries: np.ndarray, k: int, depth: int, images: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids and scores `[Q, k]` of lists that are `depth` long before rows are left out."""
        ids, scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        left, more = np.arange(len(queries)), 0
        while len(left):
            rows, found = self._shard.search(queries[left], depth, more)
            unwanted = self._shard.removed[rows] & (rows >= 0)
            if images is not None:
                unwanted |= (self._shard.content_keys[rows] == images[left, None]) & (rows >= 0)
            ids[left], scores[left] = leave_out(self._shard.ids_of(rows), found, unwanted, k)
            # A list that ends in padding has all the candidates there are.
            short = (ids[left, -1] < 0) & (rows[:, -1] >= 0)
            left, more = left[short], max(_MORE, 2 * more)
        return ids, scores
