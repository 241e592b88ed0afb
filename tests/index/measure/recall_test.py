import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from index.measure.recall import recall_at_k


def one(found, exact, scores, k):
    return float(recall_at_k(np.array([found]), np.array([exact]), np.array([scores], np.float32), k)[0])


def test_share_of_the_exact_ids():
    assert one([4, 9, 2], [4, 2, 7, 9], [4, 3, 2, 1], 3) == 2 / 3
    assert one([4, 2, 7], [4, 2, 7, 9], [4, 3, 2, 1], 3) == 1
    assert one([-1, -1, -1], [4, 2, 7, 9], [4, 3, 2, 1], 3) == 0


def test_only_the_first_k_found_count():
    assert one([8, 4], [4, 2], [4, 3], 1) == 0


def test_any_of_the_tied_rows_is_right():
    exact, scores = [1, 2, 3, 4], [9, 5, 5, 4]
    assert one([1, 3], exact, scores, 2) == 1
    assert one([1, 2], exact, scores, 2) == 1
    assert one([1, 4], exact, scores, 2) == 1 / 2
    # Two tied rows do not make up for the one that is better than both.
    assert one([2, 3, 8], [1, 2, 3, 4], [9, 5, 5, 4], 2) == 1


def test_short_exact_lists():
    assert one([5, -1, -1], [5, 6, -1], [1, 0.5, -np.inf], 3) == 1 / 2
    assert one([-1, -1], [-1, -1], [-np.inf, -np.inf], 2) == 1


@given(st.integers(1, 30), st.integers(1, 12), st.randoms(use_true_random=False))
def test_agrees_with_sets_where_nothing_ties(rows, k, random):
    order = random.sample(range(rows), rows)
    found = random.sample(range(rows), min(k, rows))
    exact = order[: 2 * k] + [-1] * (2 * k - rows)
    scores = [float(-i) for i in range(min(rows, 2 * k))] + [-np.inf] * (2 * k - rows)
    right = len(set(found) & set(order[:k])) / min(k, rows)
    assert one(found, exact, scores, k) == right
