"""Searches a loaded index shard for neighbours, leaving out memory rows that are the query's own image.

Merging what several shards find is left to `searcher.merge`.
"""

import numpy as np

from index.searcher import leave_out
from index.shard_store import Shard


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
        if images is None:
            rows, scores = self._shard.search(queries, k)
            return self._shard.ids_of(rows), scores, np.zeros(len(queries), np.int32)
        own = np.searchsorted(self._images, images, "right") - np.searchsorted(self._images, images, "left")
        ids, found_scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        # Only queries that have rows to leave out need longer lists.
        for chosen in (own == 0, own > 0):
            if chosen.any():
                rows, scores = self._shard.search(queries[chosen], k + int(own[chosen].max()))
                same = np.append(self._shard.content_keys, b"")[rows] == images[chosen, None]
                ids[chosen], found_scores[chosen] = leave_out(self._shard.ids_of(rows), scores, same, k)
        return ids, found_scores, own.astype(np.int32)
