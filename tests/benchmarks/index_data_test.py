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


def test_a_gap_leaves_pairs_a_mean_cosine_of_0_3_and_strangers_none():
    rows, queries, pairs = index_data.gapped(20_000, 1000, 64)
    assert np.all(np.abs(np.linalg.norm(queries, axis=1) - 1) < 1e-5)
    assert np.all(np.abs(np.linalg.norm(rows, axis=1) - 1) < 1e-5)
    cosines = queries @ rows.T
    assert abs(cosines[np.arange(1000), pairs].mean() - 0.3) < 0.02
    assert abs(cosines.mean()) < 0.06
    # Each side is a cone of its own.
    assert (rows[:1000] @ rows[1000:].T).mean() > 0.3
    assert (queries[:500] @ queries[500:].T).mean() > 0.3


def test_truth_is_that_of_the_products_and_is_kept(tmp_path):
    vectors = index_data.generated(600, 16, 20)
    folder = index_data.keep(vectors, tmp_path)
    data = index_data.load(folder)
    for queries, (ids, scores) in (
        (vectors.tuning, data.tuning_truth),
        (vectors.reported, data.reported_truth),
    ):
        products = queries @ vectors.rows.T
        assert np.array_equal(ids[:, 0], products.argmax(axis=1))
        np.testing.assert_allclose(scores[:, 0], products.max(axis=1), rtol=1e-5)
    assert not np.array_equal(vectors.tuning, vectors.reported)
    assert np.array_equal(data.vectors.rows, vectors.rows) and data.vectors.name == "d16"
    written = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert index_data.keep(vectors, tmp_path) == folder
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == written
    assert index_data.keep(index_data.generated(600, 16, 20, gap=True), tmp_path) != folder
