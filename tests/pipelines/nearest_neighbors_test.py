import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import nearest_neighbors
from tests.world import brute_force, unit

# Few distinct scores, so that ties are the rule.
candidates = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5])), unique_by=lambda pair: pair[0]
)


def expected(pairs: list[tuple[int, float]], k: int) -> tuple[list[int], list[float]]:
    best = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:k]
    short = k - len(best)
    return [i for i, _ in best] + [-1] * short, [s for _, s in best] + [-np.inf] * short


def as_list(pairs: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array([[i for i, _ in pairs]], np.int64).reshape(1, -1)
    return ids, np.array([[s for _, s in pairs]], np.float32).reshape(1, -1)


@given(candidates, st.integers(1, 12))
def test_top_k_is_a_sorted_cut(pairs, k):
    ids, scores = nearest_neighbors.top_k(*as_list(pairs), k)
    assert (ids[0].tolist(), scores[0].tolist()) == expected(pairs, k)
    assert (ids.dtype, scores.dtype) == (np.int64, np.float32)


@given(candidates, st.lists(st.integers(0, 3), min_size=61, max_size=61), st.integers(1, 12), st.randoms())
def test_merge_does_not_depend_on_order_or_grouping(pairs, groups, k, random):
    lists = [as_list([pair for pair in pairs if groups[pair[0]] == g]) for g in range(4)]
    whole = nearest_neighbors.merge(lists, k)
    assert (whole[0][0].tolist(), whole[1][0].tolist()) == expected(pairs, k)
    random.shuffle(lists)
    nested = nearest_neighbors.merge([nearest_neighbors.merge(lists[:2], k), nearest_neighbors.merge(lists[2:], k)], k)
    np.testing.assert_array_equal(nested[0], whole[0])
    np.testing.assert_array_equal(nested[1], whole[1])
    best = nearest_neighbors.BestLists(1, k)
    for ids, scores in lists:
        best.add(ids, scores)
    np.testing.assert_array_equal(best.ids, whole[0])
    np.testing.assert_array_equal(best.scores, whole[1])


def test_best_lists_takes_lists_of_some_queries():
    best = nearest_neighbors.BestLists(3, 2)
    best.add(np.array([[5, 4], [7, -1]]), np.array([[2, 1], [3, -np.inf]], np.float32), np.array([2, 0]))
    best.add(np.array([[6, 8], [9, 1]]), np.array([[3, 2], [1, 0]], np.float32), np.array([2, 1]))
    assert best.ids.tolist() == [[7, -1], [9, 1], [6, 5]]
    assert best.scores.tolist() == [[3, -np.inf], [1, 0], [3, 2]]


def test_top_k_takes_nan_for_padding():
    ids, scores = nearest_neighbors.top_k(np.array([[7, 0, 0]]), np.array([[-0.5, np.nan, np.nan]], np.float32), 3)
    assert ids.tolist() == [[7, -1, -1]]
    assert scores.tolist() == [[-0.5, -np.inf, -np.inf]]


def test_top_k_orders_each_query_by_itself():
    ids, scores = nearest_neighbors.top_k(
        np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 3, 3], [6, 4, 5]], np.float32), 2
    )
    assert ids.tolist() == [[2, 3], [4, 6]]
    assert scores.tolist() == [[3, 3], [6, 5]]


@pytest.mark.parametrize(("number", "k"), [(700, 3), (700, 690), (40, 40), (41, 20), (1, 1)])
@pytest.mark.parametrize("values", [4, 1 << 20])
def test_largest_are_the_first_of_a_stable_sort(number, k, values):
    scores = np.random.default_rng(k).integers(values, size=(30, number)).astype(np.float32) - 2
    right = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(nearest_neighbors.largest(scores, k), right)
    assert ((scores >= nearest_neighbors.low_bound(scores, k)[:, None]).sum(axis=1) >= k).all()


def test_a_row_of_nan_has_some_places_and_changes_no_other():
    scores = np.random.default_rng(0).random((3, 50)).astype(np.float32)
    right = np.argsort(-scores, axis=1)[:, :4]
    scores[1] = np.nan
    np.testing.assert_array_equal(nearest_neighbors.largest(scores, 4)[[0, 2]], right[[0, 2]])
    assert nearest_neighbors.largest(scores[1:2], 4).shape == (1, 4)


def test_no_bound_is_above_the_scores_of_a_short_row():
    assert nearest_neighbors.low_bound(np.ones((3, 4), np.float32), 5).tolist() == [-np.inf] * 3


def test_lists_do_not_depend_on_how_many_are_merged_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    lists = []
    for first in range(0, 600, 60):
        places = rng.permutation(50)[: rng.integers(1, 50)]
        ids = np.sort(first + rng.permuted(np.tile(np.arange(60), (len(places), 1)), axis=1)[:, :40], axis=1)
        # Seven scores, so that there are ties.
        scores = -np.sort(-rng.integers(7, size=ids.shape).astype(np.float32), axis=1)
        lists.append((ids, scores, places))

    def merged() -> tuple[np.ndarray, np.ndarray]:
        best = nearest_neighbors.BestLists(50, 12)
        for each in lists:
            best.add(*each)
        return best.ids, best.scores

    whole = merged()
    monkeypatch.setattr(nearest_neighbors, "_CACHED_ENTRIES", 500)
    for mine, other in zip(merged(), whole, strict=True):
        np.testing.assert_array_equal(mine, other)
    for query in range(50):
        pairs = [
            (int(id_), float(score))
            for ids, scores, places in lists
            for row in np.flatnonzero(places == query)
            for id_, score in zip(ids[row], scores[row], strict=True)
        ]
        assert (whole[0][query].tolist(), whole[1][query].tolist()) == expected(pairs, 12)


def test_leave_out_fills_up_from_behind():
    ids, scores = np.array([[9, 8, 7]]), np.array([[3, 2, 1]], np.float32)
    assert nearest_neighbors.leave_out(ids, scores, ids == 9, 2)[0].tolist() == [[8, 7]]
    assert nearest_neighbors.leave_out(ids, scores, ids >= 8, 2)[0].tolist() == [[7, -1]]


@pytest.mark.parametrize("blocks", [(256, 16_384, 64 << 20), (7, 37, 1000), (1, 1, 1)])
def test_search_equals_brute_force_whatever_the_blocks(monkeypatch, blocks):
    for name, value in zip(("QUERY_BLOCK", "KEY_BLOCK", "RESCORE_BYTES"), blocks, strict=True):
        monkeypatch.setattr(nearest_neighbors, name, value)
    keys, asked = unit(300), unit(20, seed=1)
    keys[200:260] = keys[100]
    rows, scores = nearest_neighbors.search(asked, keys, 9)
    right, right_scores = brute_force(asked, keys, 9)
    np.testing.assert_array_equal(rows, right)
    np.testing.assert_array_equal(scores, right_scores)


@given(
    queries=st.integers(1, 9),
    keys=st.integers(1, 20),
    k=st.integers(1, 25),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 999),
    blocks=st.sampled_from([(256, 16_384), (2, 3)]),
)
@settings(deadline=None)
def test_hidden_pairs_are_in_no_list(queries, keys, k, share, seed, blocks):
    rng = np.random.default_rng(seed)
    asked, vectors = (rng.integers(-2, 3, size=(n, 3)).astype(np.float32) for n in (queries, keys))
    is_hidden = rng.random((queries, keys)) < share
    scores = np.where(is_hidden, -np.inf, asked @ vectors.T)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, 1)
    pad = ((0, 0), (0, k - order.shape[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest_neighbors, "QUERY_BLOCK", blocks[0])
        patch.setattr(nearest_neighbors, "KEY_BLOCK", blocks[1])
        rows, found = nearest_neighbors.search(asked, vectors, k, hidden=np.argwhere(is_hidden))
    right = np.pad(np.where(np.isfinite(best), order, -1), pad, constant_values=-1)
    np.testing.assert_array_equal(rows, right)
    np.testing.assert_array_equal(found, np.pad(best, pad, constant_values=-np.inf))


def test_a_score_of_ones_own_decides():
    keys, asked = unit(200), unit(9, seed=1)

    def rounded(queries, block, query, key):
        return np.round(nearest_neighbors.dot_products(queries, block, query, key), 1)

    rows, scores = nearest_neighbors.search(asked, keys, 20, np.full(9, 0.2, np.float32), rounded)
    right = np.round(brute_force(asked, keys, 200)[1], 1)[:, :20]
    np.testing.assert_array_equal(scores, right)
    assert ((np.diff(scores) < 0) | (np.diff(rows) > 0)).all()


@pytest.mark.parametrize("penalized", [False, True])
def test_nearest_centres_equal_brute_force(penalized):
    points, centres = unit(300), 1.5 * unit(20, seed=1)
    centres[7] = centres[3]
    penalties = (centres**2).sum(1) / 2 if penalized else None
    closeness = points.astype(np.float64) @ centres.T - (0 if penalties is None else penalties)
    for block_rows in (8192, 37):
        found = nearest_neighbors.nearest_centres(points, centres, penalties, block_rows)
        np.testing.assert_array_equal(found, closeness.argmax(1))
        assert found.dtype == np.int64 and 7 not in found
    assert len(nearest_neighbors.nearest_centres(points[:0], centres)) == 0
