import numpy as np
import pytest

from benchmarks import index_data
from benchmarks.index_jobs import write_embeddings
from pipelines.errors import UserError


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


def test_queries_of_a_folder_are_no_rows_and_those_of_another_leave_all_rows(tmp_path):
    keys = index_data.clustered(500, 0, 16)[0]
    write_embeddings(f"{tmp_path}/memory", keys[:400])
    write_embeddings(f"{tmp_path}/other", keys[400:])
    drawn = index_data.embedded(f"{tmp_path}/memory", 50)
    together = np.concatenate([drawn.rows, drawn.tuning, drawn.reported])
    assert len(drawn.rows) == 300
    np.testing.assert_allclose(np.sort(together, axis=0), np.sort(keys[:400], axis=0), rtol=1e-6)
    crossed = index_data.embedded(f"{tmp_path}/memory", 50, f"{tmp_path}/other")
    np.testing.assert_allclose(crossed.rows, keys[:400], rtol=1e-6)
    asked = np.concatenate([crossed.tuning, crossed.reported])
    np.testing.assert_allclose(np.sort(asked, axis=0), np.sort(keys[400:], axis=0), rtol=1e-6)
    with pytest.raises(UserError, match="has no 'value_text' vectors; it has key"):
        index_data.embedded(f"{tmp_path}/memory", 50, queries_column="value_text")
