import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.engines import searcher
from pipelines.errors import UserError

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
    ids, scores = searcher.top_k(*as_list(pairs), k)
    assert (ids[0].tolist(), scores[0].tolist()) == expected(pairs, k)
    assert (ids.dtype, scores.dtype) == (np.int64, np.float32)


@given(candidates, st.lists(st.integers(0, 3), min_size=61, max_size=61), st.integers(1, 12), st.randoms())
def test_merge_does_not_depend_on_order_or_grouping(pairs, groups, k, random):
    lists = [as_list([pair for pair in pairs if groups[pair[0]] == g]) for g in range(4)]
    whole = searcher.merge(lists, k)
    assert (whole[0][0].tolist(), whole[1][0].tolist()) == expected(pairs, k)
    random.shuffle(lists)
    nested = searcher.merge([searcher.merge(lists[:2], k), searcher.merge(lists[2:], k)], k)
    np.testing.assert_array_equal(nested[0], whole[0])
    np.testing.assert_array_equal(nested[1], whole[1])
    best = searcher.BestLists(1, k)
    for ids, scores in lists:
        best.add(ids, scores)
    np.testing.assert_array_equal(best.ids, whole[0])
    np.testing.assert_array_equal(best.scores, whole[1])


def test_best_lists_takes_lists_of_some_queries():
    best = searcher.BestLists(3, 2)
    best.add(np.array([[5, 4], [7, -1]]), np.array([[2, 1], [3, -np.inf]], np.float32), np.array([2, 0]))
    best.add(np.array([[6, 8], [9, 1]]), np.array([[3, 2], [1, 0]], np.float32), np.array([2, 1]))
    assert best.ids.tolist() == [[7, -1], [9, 1], [6, 5]]
    assert best.scores.tolist() == [[3, -np.inf], [1, 0], [3, 2]]


def test_top_k_takes_nan_for_padding():
    ids, scores = searcher.top_k(np.array([[7, 0, 0]]), np.array([[-0.5, np.nan, np.nan]], np.float32), 3)
    assert ids.tolist() == [[7, -1, -1]]
    assert scores.tolist() == [[-0.5, -np.inf, -np.inf]]


def test_top_k_orders_each_query_by_itself():
    ids, scores = searcher.top_k(np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 3, 3], [6, 4, 5]], np.float32), 2)
    assert ids.tolist() == [[2, 3], [4, 6]]
    assert scores.tolist() == [[3, 3], [6, 5]]


def test_leave_out_fills_up_from_behind():
    ids, scores = np.array([[9, 8, 7]]), np.array([[3, 2, 1]], np.float32)
    assert searcher.leave_out(ids, scores, ids == 9, 2)[0].tolist() == [[8, 7]]
    assert searcher.leave_out(ids, scores, ids >= 8, 2)[0].tolist() == [[7, -1]]


def test_unknown_kind_names_the_nearest():
    with pytest.raises(UserError, match="searcher=scan: unknown; did you mean 'scann'"):
        searcher.kind("scan")


@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 20))
def test_chunks_are_all_keys_in_order_and_a_sample_is_some(rows, sampled, chunk):
    array = np.arange(3 * rows, dtype=np.float64).reshape(rows, 3)
    keys = searcher.ArrayKeys(array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searcher, "CHUNK_ROWS", chunk)
        for _ in range(2):
            chunks = list(keys.chunks())
            assert max(map(len, chunks)) <= chunk and {c.dtype for c in chunks} == {np.dtype(np.float32)}
            np.testing.assert_array_equal(np.concatenate(chunks), array)
    sample = keys.sample(sampled)
    assert (keys.rows, keys.dim, sample.dtype, len(sample)) == (rows, 3, np.float32, min(rows, sampled))
    assert (np.diff(sample[:, 0]) > 0).all() and np.isin(sample[:, 0], array[:, 0]).all()
    np.testing.assert_array_equal(keys.sample(sampled), sample)
