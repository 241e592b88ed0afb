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


def by_sets(found, exact, scores, k):
    """The definition, for one query."""
    right = {id_ for id_, score in zip(exact, scores, strict=True) if id_ >= 0 and score >= scores[k - 1]}
    sought = min(sum(id_ >= 0 for id_ in exact), k)
    return min(sum(id_ in right for id_ in found[:k]), sought) / sought if sought else 1.0


def test_agrees_with_sets_on_ties_padding_and_ids_of_any_size():
    rng = np.random.default_rng(0)
    for _ in range(200):
        queries, k, more = (int(number) for number in rng.integers(1, 9, 3))
        names = np.concatenate([np.arange(7), rng.choice(2**62, 7, replace=False) + 7])
        exact = np.full((queries, k + more), -1)
        found = np.full((queries, max(0, k + int(rng.integers(-2, 4)))), -1)
        for row in (*exact, *found):
            filled = min(int(rng.integers(len(row) + 1)), len(names))
            row[:filled] = rng.choice(names, filled, replace=False)
        # Padding of found lists may stand anywhere.
        found[rng.random(found.shape) < 0.1] = -1
        scores = -np.sort(-rng.integers(0, 5, exact.shape).astype(np.float32), axis=1)
        scores[exact < 0] = -np.inf
        right = [by_sets(*lists, k) for lists in zip(found.tolist(), exact.tolist(), scores.tolist(), strict=True)]
        np.testing.assert_array_equal(recall_at_k(found, exact, scores, k), right)
