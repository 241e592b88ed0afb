import numpy as np

from benchmarks import index_data


def test_the_mixture_is_seeded_and_of_unit_length():
    rows, queries = index_data.clustered(1000, 50, 16, seed=3)
    again, _ = index_data.clustered(1000, 50, 16, seed=3)
    other, _ = index_data.clustered(1000, 50, 16, seed=4)
    assert rows.shape == (1000, 16) and queries.shape == (50, 16)
    assert np.array_equal(rows, again) and not np.array_equal(rows, other)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)


def test_queries_are_near_rows_but_none_of_them():
    rows, queries = index_data.clustered(4000, 100, 32)
    nearest = (queries @ rows.T).max(axis=1)
    chance = np.abs(queries @ rows.T).mean()
    assert nearest.max() < 1 - 1e-4
    assert np.median(nearest) > 3 * chance


def test_truth_is_that_of_the_products():
    data = index_data.generated(600, 16, 20)
    products = data.reported @ data.rows.T
    assert np.array_equal(data.reported_truth[0][:, 0], products.argmax(axis=1))
    assert not np.array_equal(data.tuning, data.reported)
