import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.measures import filter_quality
from model.measures.filter_quality import Lists


def _auc(weights, relevant):
    """The share of pairs in order, counted one by one."""
    pairs = [(w > v) + (w == v) / 2 for w in weights[relevant] for v in weights[~relevant]]
    return np.mean(pairs) if pairs else np.nan


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 9), st.integers(1, 5))
def test_areas_are_those_of_pairs_counted_one_by_one(seed, rows, k, levels):
    rng = np.random.default_rng(seed)
    weights = rng.integers(levels, size=(rows, k)) / 7
    relevant, mask = rng.random((rows, k)) < 0.4, rng.random((rows, k)) < 0.8
    found = filter_quality.row_aucs(weights, relevant, mask)
    expected = [_auc(weights[i][mask[i]], relevant[i][mask[i]]) for i in range(rows)]
    np.testing.assert_allclose(found, expected)


def _lists(relevant, scores=None, mask=None):
    relevant = np.array(relevant, bool)
    scores = np.zeros(relevant.shape, np.float32) if scores is None else np.array(scores, np.float32)
    return Lists(relevant, scores, np.ones(relevant.shape, bool) if mask is None else np.array(mask, bool))


def test_mass_over_share_by_hand():
    lists = _lists([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    weights = np.array([[0.5, 0.5, 0, 0], [0.4, 0.4, 0.1, 0.1], [0.25] * 4])
    found = filter_quality.measure(weights, lists)
    assert found["share"] == pytest.approx((1 / 4 + 1 / 2 + 0) / 3)
    assert found["mass"] == pytest.approx((0.5 + 0.8 + 0) / 3)
    assert found["mass_over_share"] == pytest.approx(1.3 / 0.75)
    assert found["mass_over_share_per_query"] == pytest.approx((0.5 / 0.25 + 0.8 / 0.5) / 2)
    assert found["auc"] == pytest.approx((5 / 6 + 1) / 2)
    assert found["auc_pooled"] == pytest.approx(_auc(weights.ravel(), lists.relevant.ravel()))


def test_even_weights_filter_nothing():
    mask = [[1, 1, 1, 1], [1, 1, 0, 0]]
    lists = _lists([[1, 0, 0, 0], [0, 1, 0, 0]], mask=mask)
    found = filter_quality.measure(np.array([[0.25] * 4, [0.5, 0.5, 0, 0]]), lists)
    assert found["mass_over_share"] == found["mass_over_share_per_query"] == pytest.approx(1)
    assert found["auc"] == 0.5


def test_nothing_relevant_and_everything_relevant_have_no_area():
    found = filter_quality.measure(np.array([[0.5, 0.5]]), _lists([[0, 0]]))
    assert found["auc"] is found["auc_pooled"] is found["mass_over_share"] is None and found["mass"] == 0
    found = filter_quality.measure(np.array([[0.7, 0.3]]), _lists([[1, 1]]))
    assert found["auc"] is None and found["mass_over_share"] == pytest.approx(1)


def test_the_description_judges_similarity():
    lists = _lists([[1, 0, 0], [0, 0, 0], [0, 0, 1]], scores=[[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.5]])
    found = filter_quality.describe(lists, 2.0)
    assert (found["queries"], found["queries_with_relevant"]) == (3, 2)
    assert found["share"] == pytest.approx((1 / 3 + 0 + 1 / 3) / 3)
    assert found["auc"] == pytest.approx((1 + 0.25) / 2)
    exponents = [np.exp(2 * np.array(row, np.float64)) for row in ([0.9, 0.5, 0.1], [0.9, 0.5, 0.5])]
    masses = [exponents[0][0] / exponents[0].sum(), exponents[1][2] / exponents[1].sum()]
    assert found["mass"] == pytest.approx(sum(masses) / 3)
    assert found["mass_over_share_per_query"] == pytest.approx(3 * sum(masses) / 2)
    assert found["auc_pooled"] == pytest.approx(_auc(lists.scores.ravel(), lists.relevant.ravel()))
    empty = filter_quality.describe(_lists([[0, 0]], mask=[[0, 0]]), 2.0)
    assert empty["mass"] == 0 and empty["auc"] is None
    assert lists.first(2).relevant.tolist() == [[True, False], [False, False], [False, False]]
