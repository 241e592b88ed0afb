"""Keys as they are kept, and exact search among some of them, against NumPy."""

import ml_dtypes
import numpy as np
import pytest

from configs.base import Index as IndexConfig
from index.engines import kept_keys, searcher
from index.engines.kept_keys import KeptKeys
from index.engines.searcher import ArrayKeys
from tests.world import brute_force, unit

ROWS, DIM, CANDIDATES = 4000, 16, 20_000
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
    whole = KeptKeys(stored).nearest(queries, 11, rows)
    monkeypatch.setattr(kept_keys, "_BLOCK_BYTES", 4 * 6 * 40)
    for left, right in zip(KeptKeys(stored).nearest(queries, 11, rows), whole, strict=True):
        np.testing.assert_array_equal(left, right)
    right, scores = brute_force(queries, stored.astype(np.float32)[rows], 11)
    np.testing.assert_array_equal(whole[0], rows[right])
    np.testing.assert_allclose(whole[1], scores, rtol=1e-6)


def test_files_may_be_gone_once_they_are_open(tmp_path):
    np.save(tmp_path / kept_keys.FLOAT32, unit(50, 6))
    kept = KeptKeys.open(str(tmp_path))
    (tmp_path / kept_keys.FLOAT32).unlink()
    np.testing.assert_array_equal(kept.take(np.array([3, 40])), unit(50, 6)[[3, 40]])


def bits(keys: np.ndarray) -> np.ndarray:
    """Returns the upper halves of float32 numbers, which are bfloat16 numbers, int16."""
    return (keys.view(np.uint32) >> 16).astype(np.uint16).view(np.int16)


def as_kept(keys: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Returns what the file of a precision holds, the multipliers, and the keys float64 that it stands for."""
    if kind == "float32":
        return keys, None, keys.astype(np.float64)
    if kind == "bfloat16":
        whole = (keys.view(np.uint32) & 0xFFFF0000).view(np.float32)
        return bits(keys), None, whole.astype(np.float64)
    multipliers = np.linspace(60, 120, 24).astype(np.float32)
    kept = np.rint(keys * multipliers).astype(np.int8)
    return kept, multipliers, kept / multipliers.astype(np.float64)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("queries", [1, 700])
@pytest.mark.parametrize("threads", [0, 1])
def test_scores_are_the_dot_products_of_the_keys_as_they_are_kept(kind, queries, threads):
    keys, asked = unit(CANDIDATES, 24), unit(queries, 24, seed=1)
    stored, multipliers, right = as_kept(keys, kind)
    kept = KeptKeys(stored, multipliers)
    rows = np.random.default_rng(0).integers(-1, CANDIDATES, (queries, 37))
    rows[:, -2:] = [CANDIDATES - 1, -1]
    scores = kept.scores(asked, rows, threads)
    expected = np.einsum("qd,qcd->qc", asked.astype(np.float64), right[rows])
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(np.isneginf(scores), rows < 0)
    assert np.abs(scores - expected)[rows >= 0].max() < 5e-7


def test_nothing_but_padding():
    scores = KeptKeys(unit(9)).scores(unit(3), np.full((3, 4), -1))
    assert (scores == -np.inf).all() and scores.shape == (3, 4)


def test_a_batch_is_bounded_in_bytes():
    kept = KeptKeys(unit(100, 64))
    assert kept.batch_queries(100) * 100 * 64 * 4 <= kept_keys.BATCH_BYTES < (kept.batch_queries(100) + 1) * 25_600
    assert kept.batch_queries(10**9) == 1


@pytest.mark.parametrize("array", [np.zeros(5, np.float32), np.zeros((5, 2)), np.zeros((5, 2), np.uint8)])
def test_files_of_other_arrays(array, tmp_path):
    np.save(tmp_path / kept_keys.FLOAT32, array)
    with pytest.raises(ValueError, match="is not a matrix of keys"):
        KeptKeys.open(str(tmp_path))
