"""Nearest-neighbour lists and exact search, with NumPy only; results do not depend on how the work is cut.

A product of two float32 matrices rounds a score differently with the shapes it is cut into. Here it only proposes
candidates. Their scores are summed again in float64, so a list depends on its query and the keys alone: not on the
size of a block, the number of shards or the number of threads. Equal scores are ordered by id.
"""

from collections.abc import Callable, Sequence

import numpy as np

QUERY_BLOCK = 256
KEY_BLOCK = 16_384
RESCORE_BYTES = 64 << 20
# Candidates a query, over the length of its list, from which it pays to find the best of a block first.
_CROWDED = 8
# Entries of lists that wait to be merged, over those of the merged lists.
_MOST_WAITING = 8
# Entries that lists are ordered and merged by at a time, so that they stay in the cache of a core.
_CACHED_ENTRIES = 1 << 17
# Length of a list, over that of its result, from which its best entries are found before they are ordered.
_LONG = 2
# Buckets that a bound is found from, over the number of entries that must reach it.
_BUCKETS = 5
# Scores float32 `[c]` of the pairs (queries[query], keys[key]), from queries, keys, query and key.
Score = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def top_k(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Orders lists by descending score, ties by ascending id, and cuts or pads them to `k`.

    Args:
        ids: `[Q, m]` int64; a negative id is padding.
        scores: `[Q, m]` float32; one that is not finite is padding.
        k: length of the result.

    Returns:
        ids `[Q, k]` int64 padded with -1, and scores `[Q, k]` float32 padded with -inf.
    """
    ordered, values = np.empty((len(ids), k), np.int64), np.empty((len(ids), k), np.float32)
    step = max(1, _CACHED_ENTRIES // max(1, ids.shape[1]))
    for begin in range(0, len(ids), step):
        part = slice(begin, begin + step)
        ordered[part], values[part] = _top_k(ids[part], scores[part], k)
    return ordered, values


def _top_k(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Does what `top_k` does, for lists that stay in the cache."""
    padding = (ids < 0) | ~np.isfinite(scores)
    ids = np.where(padding, np.int64(-1), ids)
    scores = np.where(padding, np.float32(-np.inf), scores)
    if k and ids.shape[1] > _LONG * k:
        places, scores = _near_best(scores, k)
        ids = np.where(np.isfinite(scores), np.take_along_axis(ids, places, 1), np.int64(-1))
    if (short := k - ids.shape[1]) > 0:
        ids = np.pad(ids, ((0, 0), (0, short)), constant_values=-1)
        scores = np.pad(scores, ((0, 0), (0, short)), constant_values=-np.inf)
    # Many lists are in order. The others are mostly made of a few that are, which a stable sort takes in one pass; few
    # of them have ties.
    mixed = (scores[:, 1:] > scores[:, :-1]).any(axis=1)
    if mixed.any():
        order = np.argsort(-scores[mixed], axis=1, kind="stable")
        ids[mixed], scores[mixed] = (
            np.take_along_axis(ids[mixed], order, 1),
            np.take_along_axis(scores[mixed], order, 1),
        )
    tied = ((scores[:, 1:] == scores[:, :-1]) & (ids[:, 1:] < ids[:, :-1])).any(axis=1)
    if tied.any():
        order = np.lexsort((ids[tied], -scores[tied]), axis=-1)
        ids[tied] = np.take_along_axis(ids[tied], order, 1)
    return ids[:, :k], scores[:, :k]


def numbered(sizes: np.ndarray) -> np.ndarray:
    """Returns the numbers from 0 of the members of groups that follow each other, int64 `[sum of sizes]`."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def low_bound(scores: np.ndarray, k: int) -> np.ndarray:
    """Returns numbers that at least `k` scores of each row of `[q, n]` reach, and not many more; -inf if n is less."""
    width = max(1, scores.shape[1] // (_BUCKETS * k))
    buckets = scores.shape[1] // width
    if buckets < k:
        return np.full(len(scores), -np.inf, np.float32)
    if width > 1:
        # The `k` largest maxima of buckets are reached. A bucket is spread over the row, so that whole vectors are
        # compared.
        scores = scores[:, : width * buckets].reshape(-1, width, buckets).max(axis=1)
    return _kth(scores, k)


def _near_best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places and scores `[q, c]` of those of `[q, n]` that may be among the `k` highest, all ties included.

    They are ascending by place, at least `k`; places 0 with scores of -inf pad, also for scores that are not finite.
    """
    bound = np.maximum(low_bound(scores, k), np.finfo(np.float32).min)
    found = np.flatnonzero(scores >= bound[:, None])
    row, place = np.divmod(found, scores.shape[1])
    counts = np.bincount(row, minlength=len(scores))
    at = numbered(counts)
    shape = len(scores), max(k, int(counts.max(initial=0)))
    places, values = np.zeros(shape, np.int64), np.full(shape, -np.inf, np.float32)
    places[row, at], values[row, at] = place, scores.reshape(-1)[found]
    return places, values


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Returns the places of the `k` highest of each row of scores `[q, n]`, descending, int64 `[q, k]`.

    Of equal scores the first comes first. A row with NaN has any places.
    """
    places, values = _near_best(scores, k)
    return np.take_along_axis(places, np.argsort(-values, axis=1, kind="stable")[:, :k], 1)


def merge(lists: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `k` best of several lists of the same queries, each `(ids [Q, m], scores [Q, m])`, as `top_k`.

    No id may be in two lists. The result depends neither on the order of the lists nor on merging some of them first.
    """
    return top_k(np.concatenate([ids for ids, _ in lists], 1), np.concatenate([scores for _, scores in lists], 1), k)


def leave_out(ids: np.ndarray, scores: np.ndarray, unwanted: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `k` best of lists `[Q, m]` without the entries where `unwanted` `[Q, m]` is true, as `top_k`."""
    return top_k(np.where(unwanted, -1, ids), scores, k)


class BestLists:
    """The best of the lists that queries are given one after another, in any order.

    No id may be given to a query twice. Lists wait until there are several, and are merged at once.
    """

    def __init__(self, queries: int, k: int) -> None:
        """Begins with lists of padding."""
        self._ids, self._scores = np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, ids: np.ndarray, scores: np.ndarray, places: np.ndarray | None = None) -> None:
        """Takes lists `[q, m]` of the queries at some places, none of which is named twice."""
        places = np.arange(len(self._ids)) if places is None else places
        if (np.diff(places) < 0).any():
            order = np.argsort(places)
            ids, scores, places = ids[order], scores[order], places[order]
        self._waiting.append((ids, scores, places))
        if sum(each[0].size for each in self._waiting) > _MOST_WAITING * self._ids.size:
            self._merge()

    @property
    def ids(self) -> np.ndarray:
        """The ids, int64 `[Q, k]`, ordered and padded as by `top_k`."""
        self._merge()
        return self._ids

    @property
    def scores(self) -> np.ndarray:
        """The scores, float32 `[Q, k]`, of `ids`."""
        self._merge()
        return self._scores

    def _merge(self) -> None:
        """Puts the lists of each query side by side and orders them."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        entries = sum(ids.size for ids, _, _ in waiting) + self._ids.size
        step = max(1, _CACHED_ENTRIES * len(self._ids) // max(1, entries))
        for begin in range(0, len(self._ids), step):
            part = slice(begin, begin + step)
            lists = [(self._ids[part], self._scores[part], np.arange(len(self._ids[part])))]
            for ids, scores, places in waiting:
                some = slice(*np.searchsorted(places, [begin, begin + step]))
                lists.append((ids[some], scores[some], places[some] - begin))
            self._ids[part], self._scores[part] = self._merged(lists)

    def _merged(self, lists: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the best of lists, the first of which has all queries, and each the places of its queries."""
        queries, k = lists[0][0].shape
        lengths = [((ids >= 0) * np.arange(1, ids.shape[1] + 1)).max(axis=1, initial=0) for ids, _, _ in lists]
        ends, begins = np.zeros(queries, np.int64), []
        for (_, _, places), length in zip(lists, lengths, strict=True):
            begins.append(ends[places])
            ends[places] += length
        longest = max(int(length.max(initial=0)) for length in lengths)
        shape = queries, int(ends.max(initial=0)) + longest
        wide_ids, wide_scores = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
        for (ids, scores, places), length, begin in zip(lists, lengths, begins, strict=True):
            # The padding of a list is overwritten by the next.
            width = int(length.max(initial=0))
            at = places[:, None], begin[:, None] + np.arange(width)
            wide_ids[at], wide_scores[at] = ids[:, :width], scores[:, :width]
        return top_k(wide_ids, wide_scores, k)


def dot_products(queries: np.ndarray, keys: np.ndarray, query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Returns the dot products float32 `[c]` of pairs `(queries[query], keys[key])`, summed in float64."""
    scores = np.empty(len(query), np.float32)
    step = max(1, RESCORE_BYTES // (8 * max(1, keys.shape[1])))
    for i in range(0, len(query), step):
        products = queries[query[i : i + step]].astype(np.float64) * keys[key[i : i + step]]
        scores[i : i + step] = products.sum(axis=1)
    return scores


def largest_norm(keys: np.ndarray) -> float:
    """Returns the length of the longest of float32 vectors `[n, d]`; 0 for none."""
    return float(np.linalg.norm(keys, axis=1).max(initial=0.0))


def rounding_slack(queries: np.ndarray, largest: float) -> np.ndarray:
    """Returns twice the worst rounding error of float32 dot products, `[Q]`.

    Args:
        queries: float32 `[Q, d]`.
        largest: `largest_norm` of the keys.
    """
    return 2 * queries.shape[1] * np.finfo(np.float32).eps * largest * np.linalg.norm(queries, axis=1)


def search(
    queries: np.ndarray,
    keys: np.ndarray,
    k: int,
    slack: np.ndarray | None = None,
    score: Score = dot_products,
    hidden: np.ndarray | None = None,
    least: float = -np.inf,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the `k` keys of the highest scores for each query, ties by row.

    Memory beside the result is bounded by the blocks, whatever n and Q are.

    Args:
        queries: float32 `[Q, d]`.
        keys: float32 `[n, d]`.
        k: length of the lists, at least 1.
        slack: float `[Q]`, twice the largest difference between a query's scores and its float32 dot products; by
            default `rounding_slack`.
        score: the scores that decide; dot products by default.
        hidden: int64 `[P, 2]`, ascending pairs of a query and a key that are left out.
        least: smallest score; lists of fewer keys are padded.

    Returns:
        Rows int64 `[Q, k]` and scores float32 `[Q, k]`, ordered and padded as by `top_k`.
    """
    slack = rounding_slack(queries, largest_norm(keys)) if slack is None else slack
    rows, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for begin in range(0, len(queries), QUERY_BLOCK):
        end = min(begin + QUERY_BLOCK, len(queries))
        best = BestLists(end - begin, k)
        pairs = None
        if hidden is not None:
            pairs = hidden[slice(*np.searchsorted(hidden[:, 0], [begin, end]))] - (begin, 0)
        for first in range(0, len(keys), KEY_BLOCK):
            block = keys[first : first + KEY_BLOCK]
            worst = np.maximum(best.scores[:, -1], np.float32(least))
            query, key = _candidates(queries[begin:end], block, k, worst, slack[begin:end], first, pairs)
            found = score(queries[begin:end], block, query, key)
            if least > -np.inf:
                is_near = found >= np.float32(least)
                query, key, found = query[is_near], key[is_near], found[is_near]
            best.add(*_as_lists(query, first + key, found, end - begin, k))
        rows[begin:end], scores[begin:end] = best.ids, best.scores
    return rows, scores


def _candidates(
    queries: np.ndarray,
    keys: np.ndarray,
    k: int,
    worst: np.ndarray,
    slack: np.ndarray,
    first: int,
    hidden: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pairs of a query and a key of a block that may belong to a list, by query, then key.

    Args:
        queries: float32 `[q, d]`.
        keys: float32 `[m, d]`.
        k: length of the lists.
        worst: float32 `[q]`, last score of each list so far, or the smallest that is wanted; -inf for any.
        slack: of each query, `[q]`.
        first: number of the block's first key.
        hidden: pairs of a query of this block and the number of a key.
    """
    rough = queries @ keys.T
    if hidden is not None:
        inside = hidden[(hidden[:, 1] >= first) & (hidden[:, 1] < first + len(keys))]
        rough[inside[:, 0], inside[:, 1] - first] = -np.inf
    if not np.isfinite(worst).all() and k < len(keys):
        worst = np.maximum(worst, _kth(rough, k))
    # In one dimension the few pairs that are true are found much faster.
    found = np.flatnonzero(rough >= (worst - slack)[:, None])
    if len(found) > _CROWDED * k * len(queries) and k < len(keys):
        worst = np.maximum(worst, _kth(rough, k))
        found = np.flatnonzero(rough >= (worst - slack)[:, None])
    query, key = np.divmod(found, len(keys))
    if hidden is None:
        return query, key
    is_shown = rough[query, key] > -np.inf
    return query[is_shown], key[is_shown]


def _kth(scores: np.ndarray, k: int) -> np.ndarray:
    """Returns the k-th highest score of each row of `[q, m]`, m > k."""
    return np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k]


def _as_lists(
    query: np.ndarray, rows: np.ndarray, scores: np.ndarray, num_queries: int, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Turns candidates `[c]` of ascending query into lists of the `k` best of each query, `[Q, <= k]`, padded."""
    order = np.lexsort((rows, -scores, query))
    query, rows, scores = query[order], rows[order], scores[order]
    place = np.arange(len(query)) - np.searchsorted(query, query)
    kept = place < k
    width = int(place[kept].max(initial=-1)) + 1
    ids, values = np.full((num_queries, width), -1, np.int64), np.full((num_queries, width), -np.inf, np.float32)
    ids[query[kept], place[kept]], values[query[kept], place[kept]] = rows[kept], scores[kept]
    return ids, values


def nearest_centres(
    points: np.ndarray, centres: np.ndarray, penalties: np.ndarray | None = None, block_rows: int = 8192
) -> np.ndarray:
    """Returns the centre of the highest dot product with each point, less the centre's penalty; the first of ties.

    With half the squared length of each centre as its penalty that is the centre at the least distance.

    Args:
        points: float32 `[n, d]`.
        centres: float32 `[c, d]`.
        penalties: float32 `[c]`, or none.
        block_rows: points at a time; products, and so near ties, round differently with it.

    Returns:
        int64 `[n]`.
    """
    nearest = np.empty(len(points), np.int64)
    for begin in range(0, len(points), block_rows):
        products = points[begin : begin + block_rows] @ centres.T
        if penalties is not None:
            products -= penalties
        nearest[begin : begin + block_rows] = products.argmax(axis=1)
    return nearest
