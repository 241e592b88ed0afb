"""Keys as they are kept, and exact search among some of them, against NumPy."""

import ml_dtypes
import numpy as np
import pytest

from configs.base import Index as IndexConfig
from index.engines import searcher, some_rows
from index.engines.searcher import ArrayKeys
from index.engines.some_rows import RowKeys
from tests.world import brute_force, unit

ROWS, DIM = 4000, 16
KINDS = ["scann bfloat16", "scann float32", "scann int8", "jax bfloat16", "jax float32", "exact float32"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [ROWS, 90])
def test_every_searcher_finds_the_nearest_of_some_rows(tmp_path, kind, rows):
    name, reorder = kind.split()
    keys, queries, engine = unit(rows, DIM), unit(30, DIM, seed=1), searcher.kind(name)
    plan = engine.plan(rows, DIM, IndexConfig(reorder=reorder))
    engine.build(ArrayKeys(keys), plan).save(str(tmp_path))
    some = np.sort(np.random.default_rng(2).permutation(rows)[: rows // 3])
    found, scores = engine.load(str(tmp_path), plan).search_rows(queries, 20, some)
    # An exact list of the keys in their own precision is all that rounding may change.
    right, right_scores = brute_force(queries, keys[some], 20)
    tolerance = {"float32": 1e-6, "bfloat16": 4e-3, "int8": 2e-2}[reorder]
    np.testing.assert_allclose(scores, right_scores, atol=tolerance)
    assert np.isin(found, some).all() and (np.diff(scores, axis=1) <= 0).all()
    if reorder == "float32":
        np.testing.assert_array_equal(found, some[right])
    short, _ = engine.load(str(tmp_path), plan).search_rows(queries, 9, some[:4])
    assert (np.sort(short[:, :4], axis=1) == some[:4]).all() and (short[:, 4:] == -1).all()


def test_blocks_do_not_matter(monkeypatch):
    stored, queries = unit(500, 6).astype(ml_dtypes.bfloat16), unit(7, 6, seed=3)
    rows = np.arange(0, 500, 2)
    whole = RowKeys(stored).nearest(queries, 11, rows)
    monkeypatch.setattr(some_rows, "_BLOCK_BYTES", 4 * 6 * 40)
    for left, right in zip(RowKeys(stored).nearest(queries, 11, rows), whole, strict=True):
        np.testing.assert_array_equal(left, right)
    right, scores = brute_force(queries, stored.astype(np.float32)[rows], 11)
    np.testing.assert_array_equal(whole[0], rows[right])
    np.testing.assert_allclose(whole[1], scores, rtol=1e-6)


def test_files_may_be_gone_once_they_are_open(tmp_path):
    np.save(tmp_path / some_rows.FLOAT32, unit(50, 6))
    kept = RowKeys.open(str(tmp_path))
    (tmp_path / some_rows.FLOAT32).unlink()
    np.testing.assert_array_equal(kept.take(np.array([3, 40])), unit(50, 6)[[3, 40]])
