import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import nearest_neighbors
from pipelines.filtering import similarity
from pipelines.filtering.similarity import NONE


def _vectors(n, d, seed, kinds=None):
    """Returns unit vectors, many of which are equal or nearly so."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(kinds or n, d))
    noise = 10.0 ** -rng.integers(1, 9, size=(n, 1)) * rng.normal(size=(n, d)) * rng.integers(0, 2, size=(n, 1))
    return similarity.unit(base[rng.integers(len(base), size=n)] + noise)


def _cosines(a, b):
    a, b = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (a, b))
    return np.float32(np.minimum(a @ b.T, 1))


def test_unit_vectors_of_any_type():
    vectors = np.array([[3, 4], [0, 0], [6e4, 0], [1e-3, 1e-3]])
    right = [[0.6, 0.8], [0, 0], [1, 0], [0.5**0.5] * 2]
    for dtype in (np.float16, np.float32, np.float64):
        unit = similarity.unit(vectors.astype(dtype))
        assert unit.dtype == np.float32
        np.testing.assert_allclose(unit, right, rtol=1e-6)


def test_equal_vectors_have_cosine_one_and_none_has_more():
    vectors = _vectors(200, 77, 0, kinds=3)
    row, key = np.divmod(np.arange(200 * 200), 200)
    found = similarity.cosines(vectors, vectors, row, key).reshape(200, 200)
    assert (np.diag(found) == 1).all() and found.max() == 1
    np.testing.assert_allclose(found, _cosines(vectors, vectors), atol=1e-7)


def test_cosines_of_float16_have_the_same_bits_by_pairs_and_by_one_product():
    vectors = _vectors(150, 1280, 3, kinds=2).astype(np.float16)
    row, key = np.divmod(np.arange(150 * 150), 150)
    whole = similarity.cosines(vectors, vectors, row, key)
    assert whole.min() < 0.5 and (whole.reshape(150, 150).diagonal() == 1).all()
    for pairs in np.array_split(np.random.default_rng(0).permutation(len(row)), 40):
        np.testing.assert_array_equal(similarity.cosines(vectors, vectors, row[pairs], key[pairs]), whole[pairs])
    np.testing.assert_allclose(whole.reshape(150, 150), _cosines(vectors, vectors), atol=1e-7)


@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(1, 5),
    st.floats(-1, 1),
    st.integers(0, 999),
    st.booleans(),
    st.sampled_from([np.float16, np.float32]),
)
@settings(deadline=None)
def test_best_matches_equal_brute_force_whatever_the_blocks(n, m, kinds, threshold, seed, earlier_only, dtype):
    rows = _vectors(n, 8, seed, kinds).astype(dtype)
    keys = rows if earlier_only else _vectors(m, 8, seed + (seed % 2), kinds).astype(dtype)
    row, key = np.divmod(np.arange(len(rows) * len(keys)), max(len(keys), 1))
    # The pairs' own cosines, so that rows that differ in the last bit are distinguished.
    scores = similarity.cosines(rows, keys, row, key).reshape(len(rows), len(keys))
    scores[scores < np.float32(threshold)] = -np.inf
    if earlier_only:
        scores[np.triu_indices(n)] = -np.inf
    best = scores.max(axis=1, initial=-np.inf)
    right = np.where(np.isinf(best), NONE, scores.argmax(axis=1) if len(keys) else NONE)
    with pytest.MonkeyPatch.context() as patch:
        for row_block, key_block in ((1024, 4096), (3, 5), (7, 2)):
            patch.setattr(similarity, "ROW_BLOCK", row_block)
            patch.setattr(similarity, "KEY_BLOCK", key_block)
            found, cosine = similarity.best_matches(rows, keys, threshold, earlier_only)
            np.testing.assert_array_equal(found, right)
            np.testing.assert_array_equal(cosine, best)


@given(st.integers(0, 30), st.integers(2, 30), st.integers(1, 4), st.integers(0, 999))
@settings(deadline=None)
def test_nearest_equal_a_stable_sort_whatever_the_blocks(n, m, kinds, seed):
    rows, keys = _vectors(n, 8, seed, kinds), _vectors(m, 8, seed, kinds)
    row, key = np.divmod(np.arange(n * m), m)
    scores = similarity.cosines(rows, keys, row, key).reshape(n, m)
    right = np.argsort(-scores, axis=1, kind="stable")[:, :2]
    with pytest.MonkeyPatch.context() as patch:
        for row_block, key_block in ((1024, 4096), (3, 5), (7, 1)):
            patch.setattr(nearest_neighbors, "QUERY_BLOCK", row_block)
            patch.setattr(nearest_neighbors, "KEY_BLOCK", key_block)
            np.testing.assert_array_equal(similarity.nearest(rows, keys, 2), right)


def test_rounding_of_products_stays_within_the_slack():
    rows, keys = _vectors(300, 1280, 1), _vectors(300, 1280, 2)
    exact = rows.astype(np.float64) @ keys.astype(np.float64).T
    assert np.abs(rows @ keys.T - exact).max() < similarity.slack(1280) / 2 < 1e-4
