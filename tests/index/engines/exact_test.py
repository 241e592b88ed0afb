import numpy as np
import pytest

from configs.base import Index
from index.engines import exact
from index.engines.exact import ExactSearcher
from index.engines.searcher import ArrayKeys
from pipelines import nearest_neighbors
from tests.world import brute_force, unit


@pytest.mark.parametrize(("rows", "queries", "k"), [(300, 41, 7), (5, 3, 9), (1, 1, 1), (2000, 300, 64)])
def test_equals_brute_force(rows, queries, k):
    keys, asked = unit(rows), unit(queries, seed=1)
    found, scores = ExactSearcher(keys).search(asked, k)
    right, right_scores = brute_force(asked, keys, k)
    n = min(rows, k)
    np.testing.assert_array_equal(found[:, :n], right)
    np.testing.assert_array_equal(scores[:, :n], right_scores)
    assert (found[:, n:] == -1).all() and (scores[:, n:] == -np.inf).all()
    assert (found.dtype, scores.dtype, found.shape) == (np.int64, np.float32, (queries, k))


def test_blocks_do_not_show(monkeypatch):
    keys, asked = unit(1000), unit(50, seed=1)
    keys[200:260] = keys[100]
    whole = ExactSearcher(keys).search(asked, 20)
    monkeypatch.setattr(nearest_neighbors, "KEY_BLOCK", 37)
    monkeypatch.setattr(nearest_neighbors, "QUERY_BLOCK", 7)
    monkeypatch.setattr(nearest_neighbors, "RESCORE_BYTES", 1000)
    cut = ExactSearcher(keys).search(asked, 20)
    np.testing.assert_array_equal(cut[0], whole[0])
    np.testing.assert_array_equal(cut[1], whole[1])
    np.testing.assert_array_equal(whole[0], brute_force(asked, keys, 20)[0])


def test_ties_come_by_row_however_many():
    keys = np.repeat(unit(4), 50, axis=0)
    asked = unit(6, seed=1)
    found, scores = ExactSearcher(keys).search(asked, 60)
    np.testing.assert_array_equal(found, brute_force(asked, keys, 60)[0])
    assert (np.diff(scores) == 0).sum() >= 6 * 50


def test_no_member_is_lost_to_float32_rounding():
    rng = np.random.default_rng(0)
    base = rng.normal(size=768)
    # Keys so close together that a float32 matrix product puts many in the wrong order.
    keys = (base + 1e-6 * rng.normal(size=(3000, 768))).astype(np.float32)
    asked = rng.normal(size=(9, 768)).astype(np.float32)
    found, _ = ExactSearcher(keys).search(asked, 10)
    right, _ = brute_force(asked, keys, 10)
    rough = np.argsort(-(asked @ keys.T), axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(found, right)
    assert (rough != right).any()


def test_no_queries_and_save_and_load(tmp_path):
    keys, asked = unit(20), unit(4, seed=1)
    plan = exact.plan(20, 12, Index())
    engine = exact.build(ArrayKeys(keys), plan)
    assert engine.search(asked[:0], 3)[0].shape == (0, 3)
    engine.save(str(tmp_path))
    loaded = exact.load(str(tmp_path), plan)
    np.testing.assert_array_equal(loaded.search(asked, 3)[1], engine.search(asked, 3)[1])
    np.testing.assert_array_equal(loaded.search(asked, 3, more=4)[0], engine.search(asked, 7)[0])
