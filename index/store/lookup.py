"""Searches a loaded index shard, leaving out rows that are removed or are the query's own image.

`nearest_neighbors.BestLists` merges the results of several shards.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from index.engines.planner import Parameters
from index.store.filtered import Allowed, Among, Asked
from index.store.shard_store import Shard
from pipelines.nearest_neighbors import leave_out, numbered

# Entries of the lists of all queries that are searched at a time; an entry takes some 100 bytes.
LIST_ENTRIES = 1 << 21
_MORE = 32
# How many times as much is searched for lists that are still short, again and again until that is the whole shard.
_TIMES = 4


class Lookup:
    """A shard, its removed rows, and its images in order, so that a query's own image is found at once."""

    def __init__(self, shard: Shard, trial: Callable[[], Asked | None] = lambda: None) -> None:
        """Keeps the shard, and what returns a few queries to try (`filtered.Allowed.among`)."""
        self._shard, self._trial = shard, trial

    def among(self, allowed: Allowed) -> Among:
        """Returns the rows of the shard that may be found among those allowed."""
        return allowed.among(self, self._shard, self._trial())

    def search(
        self,
        queries: np.ndarray,
        k: int,
        images: np.ndarray | None = None,
        ids: np.ndarray | None = None,
        *,
        leaves: np.ndarray | None = None,
        shares: np.ndarray | None = None,
        allowed: Allowed | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the `k` nearest rows of the shard that are allowed, not removed and not the query's own image.

        Lists that are longer than the shard was tuned for are searched for in more leaves, in proportion. Removed rows
        do not change the rest of a list: it is filled up with candidates that the search has scored anyway. A list that
        is short nevertheless is searched for again, in the end in all rows. So it has fewer than `k` rows only if the
        shard has no more, or if `leaves` are given and these have no more.

        Args:
            queries: `[Q, d]` float32.
            k: neighbours of each query.
            images: bytes `S32` `[Q]`, content keys of the queries; if None, no image is left out.
            ids: int64 `[Q]`, of the queries if the memory is their own set: of the rows with the query's image, only
                the one with its id is left out.
            leaves: int `[Q]`, how many leaves of a region each query scans, as `Searcher.search`.
            shares: float32 `[Q]`, with them.
            allowed: rows that may be found; None for all.

        Returns:
            ids int64 `[Q, k]` and scores float32 `[Q, k]` as `nearest_neighbors.top_k`, and int32 `[Q]`, how many rows
            of the shard were left out as the query's own image; rows that are removed or not allowed do not count.
        """
        own = excluded = np.zeros(len(queries), np.int64)
        among = None if allowed is None else self.among(allowed)
        if images is not None:
            own, excluded = self._count_own(images, ids, ~self._shard.removed if among is None else among.wanted)
        found, scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        # Only queries with rows to leave out need longer lists, by the next power of two. That makes few groups, and
        # the length of a query's list depends on that query only, not on what has been removed. A web memory may hold
        # an image a million times.
        extra = np.zeros_like(own)
        extra[own > 0] = [1 << (n - 1).bit_length() for n in own[own > 0].tolist()]
        for longer in np.unique(extra).tolist() if k and len(self._shard.ids) else ():
            group, step = np.flatnonzero(extra == longer), max(1, LIST_ENTRIES // (k + longer))
            for begin in range(0, len(group), step):
                part = group[begin : begin + step]
                theirs = images[part] if images is not None and longer else None
                named = ids[part] if ids is not None else None
                scanned = (leaves[part], shares[part]) if leaves is not None and shares is not None else (None, None)
                if among is None:
                    asked = queries[part], k, k + longer, theirs, named
                    found[part], scores[part] = self._search(*asked, *scanned)
                    if leaves is None:
                        found[part], scores[part] = self._filled(asked, found[part], scores[part], excluded[part])
                    continue
                rows, values = among.search(Asked(queries[part], *scanned), k + longer)
                found[part], scores[part] = leave_out(
                    self._shard.ids_of(rows), values, self._is_own(rows, theirs, named), k
                )
        return found, scores, excluded.astype(np.int32)

    def scan(
        self, queries: np.ndarray, k: int, images: np.ndarray | None, ids: np.ndarray | None, allowed: Allowed
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compares queries with all rows that are allowed; arguments and results as of `search`, but for the counts.

        Each list depends on its query only, whatever the others are.
        """
        among = self.among(allowed)
        own = np.zeros(len(queries), np.int64)
        if images is not None:
            own, _ = self._count_own(images, ids, among.wanted)
        depth = k + int(own.max(initial=0))
        rows, scores = self._shard.searcher.search_rows(queries, depth, among.rows)
        return leave_out(self._shard.ids_of(rows), scores, self._is_own(rows, images, ids), k)

    @functools.cached_property
    def _by_image(self) -> tuple[np.ndarray, np.ndarray]:
        """The heads of all content keys, ascending, and the rows in this order."""
        heads = _heads(self._shard.content_keys)
        order = np.argsort(heads, kind="stable")
        return heads[order], order

    @functools.cached_property
    def _is_ordered(self) -> bool:
        """Whether ids ascend with the rows, so that a list ordered by row is also ordered by id."""
        return bool((np.diff(self._shard.ids) > 0).all())

    @functools.cached_property
    def _has_removed(self) -> bool:
        return bool(self._shard.removed.any())

    @functools.cached_property
    def _by_id(self) -> np.ndarray:
        return np.argsort(self._shard.ids, kind="stable")

    def _is_own(self, rows: np.ndarray, images: np.ndarray | None, ids: np.ndarray | None) -> np.ndarray:
        """Returns which entries of lists of local rows `[Q, m]` are the query's own image, bool `[Q, m]`."""
        if images is None or not len(self._shard.ids):
            return np.zeros(rows.shape, bool)
        own = self._shard.content_keys[rows] == images[:, None]
        if ids is not None:
            own &= self._shard.ids[rows] == ids[:, None]
        return own & (rows >= 0)

    def _count_own(
        self, images: np.ndarray, ids: np.ndarray | None, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many rows are each query's own image, int64 `[Q]`, and how many of them are `wanted`."""
        own, live = np.zeros(len(images), np.int64), np.zeros(len(images), np.int64)
        (heads, order), asked = self._by_image, _heads(images)
        begins, ends = np.searchsorted(heads, asked, "left"), np.searchsorted(heads, asked, "right")
        hits = np.flatnonzero(ends > begins)
        if not len(hits):
            return own, live
        if ids is not None:
            place = np.searchsorted(self._shard.ids, ids[hits], sorter=self._by_id)
            rows = self._by_id[np.minimum(place, len(self._by_id) - 1)]
            same = (self._shard.ids[rows] == ids[hits]) & (self._shard.content_keys[rows] == images[hits])
            own[hits], live[hits] = same, same & wanted[rows]
            return own, live
        # Each image once, so that no more rows are compared than the shard has.
        _, first, inverse = np.unique(images[hits], return_index=True, return_inverse=True)
        begins, lengths = begins[hits[first]], (ends - begins)[hits[first]]
        image = np.repeat(np.arange(len(first)), lengths)
        rows = order[np.repeat(begins, lengths) + numbered(lengths)]
        same = self._shard.content_keys[rows] == images[hits[first]][image]
        own[hits] = np.bincount(image[same], minlength=len(first))[inverse]
        live[hits] = np.bincount(image[same & wanted[rows]], minlength=len(first))[inverse]
        return own, live

    def _filled(
        self, asked: Any, found: np.ndarray, scores: np.ndarray, excluded: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns lists `[Q, k]` that are short only if the shard has no more rows; each depends on its query only.

        Args:
            asked: the first arguments of `_search`.
            found: ids `[Q, k]` that it found.
            scores: of these.
            excluded: int64 `[Q]`, live rows that are the query's own image.
        """
        queries, k, depth, images, ids = asked
        times, short = 1, np.flatnonzero(found[:, -1] < 0 if k else [])
        most = np.minimum(k, len(self._live) - excluded)
        while len(short := short[(found[short] >= 0).sum(axis=1) < most[short]]):
            theirs, named = (None if each is None else each[short] for each in (images, ids))
            if self._parameters(k, times).leaves_to_search >= self._shard.plan.leaves:
                rows, values = self._shard.searcher.search_rows(queries[short], depth, self._live)
                own = self._is_own(rows, theirs, named)
                found[short], scores[short] = leave_out(self._shard.ids_of(rows), values, own, k)
                break
            times *= _TIMES
            found[short], scores[short] = self._search(queries[short], k, depth, theirs, named, times=times)
        return found, scores

    @functools.cached_property
    def _live(self) -> np.ndarray:
        """The rows that are not removed, int64 ascending."""
        return np.flatnonzero(~self._shard.removed)

    def _parameters(self, k: int, times: int) -> Parameters:
        return self._shard.parameters.longer(k, self._shard.plan.leaves, times)

    def _search(
        self,
        queries: np.ndarray,
        k: int,
        depth: int,
        images: np.ndarray | None,
        ids: np.ndarray | None,
        leaves: np.ndarray | None = None,
        shares: np.ndarray | None = None,
        times: int = 1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids and scores `[Q, k]`, from lists of length `depth` before rows are left out.

        Without leaves `times` as much is searched as a list of length `k` needs, as a rule.
        """
        found, values = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        left, more, parameters = np.arange(len(queries)), 0, None
        if leaves is None and self._shard.plan.leaves and (times > 1 or k > self._shard.parameters.k):
            parameters = self._parameters(k, times)
        while len(left):
            theirs, part = (each if each is None else each[left] for each in (leaves, shares))
            rows, scores = self._shard.search(queries[left], depth, more, theirs, part, parameters)
            unwanted = self._shard.removed[rows] & (rows >= 0) if self._has_removed else np.zeros(rows.shape, bool)
            if images is not None:
                unwanted |= self._is_own(rows, images[left], None if ids is None else ids[left])
            names = self._shard.ids_of(rows)
            if self._is_ordered and not unwanted.any():
                found[left], values[left] = names[:, :k], scores[:, :k]
                break
            found[left], values[left] = leave_out(names, scores, unwanted, k)
            # A list that ends in padding already has all candidates.
            short = (found[left, -1] < 0) & (rows[:, -1] >= 0)
            left, more = left[short], max(_MORE, 2 * more)
        return found, values


def _heads(images: np.ndarray) -> np.ndarray:
    """Returns the first eight bytes of content keys `S32` `[n]` as numbers, uint64 `[n]`."""
    return np.ascontiguousarray(images, "S32").view(np.uint64).reshape(-1, 4)[:, 0].copy()
