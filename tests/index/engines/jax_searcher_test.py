import dataclasses
import hashlib
import pathlib

import numpy as np
import pytest

from benchmarks import index_data
from configs.base import Index
from index.engines import jax_searcher, partitions, searcher
from index.engines.planner import Parameters, frontier
from index.engines.searcher import ArrayKeys
from index.measure.recall import recall_at_k
from tests.world import brute_force, unit

ROWS, DIM, K = 3000, 33, 10
PLAN = jax_searcher.plan(ROWS, DIM, Index(leaves=40, reorder="float32"))


@pytest.fixture(scope="module")
def keys() -> np.ndarray:
    return unit(ROWS, dim=DIM)


@pytest.fixture(scope="module")
def engine(keys: np.ndarray) -> jax_searcher.JaxSearcher:
    return jax_searcher.build(ArrayKeys(keys), PLAN)


def by_leaf(keys, queries, centres, leaves, k):
    """Returns the nearest rows in the nearest leaves of each query, by brute force."""
    owner = (keys.astype(np.float64) @ centres.T - 0.5 * (centres.astype(np.float64) ** 2).sum(axis=1)).argmax(axis=1)
    found = []
    for query, number in zip(queries, leaves, strict=True):
        visited = np.argsort(-(centres @ query), kind="stable")[:number]
        rows = np.flatnonzero(np.isin(owner, visited))
        scores = keys[rows].astype(np.float64) @ query
        best = rows[np.lexsort((rows, -scores))][:k]
        found.append(np.pad(best, (0, k - len(best)), constant_values=-1))
    return np.array(found)


def test_full_search_finds_what_brute_force_finds(engine, keys):
    queries = unit(700, dim=DIM, seed=1)
    rows, scores = engine.search(queries, K)
    right, right_scores = brute_force(queries, keys, K)
    assert (rows == right).mean() > 0.999
    assert np.abs(scores - right_scores).max() < 5e-7
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("tile_rows", [8, 64, 128])
def test_scans_the_nearest_leaves_of_each_query_and_no_others(keys, tile_rows):
    centres = partitions.fit(keys, 40, 4)
    plan = dataclasses.replace(PLAN, tile_rows=tile_rows)
    engine = jax_searcher.build(ArrayKeys(keys), plan, centres=centres)
    queries = unit(150, dim=DIM, seed=2)
    leaves = np.random.default_rng(0).integers(1, 41, 150)
    rows, _ = engine.search(queries, K, leaves=leaves)
    assert (rows == by_leaf(keys, queries, centres, leaves, K)).mean() > 0.999
    alike = engine.with_parameters(Parameters(7, K, K))
    np.testing.assert_array_equal(alike.search(queries, K)[0], engine.search(queries, K, leaves=np.full(150, 7))[0])


def test_bounds_of_near_leaves_lose_nothing_in_far_ones(monkeypatch, keys):
    from index.engines import leaf_major

    queries = unit(90, dim=DIM, seed=3)
    whole = jax_searcher.build(ArrayKeys(keys), PLAN).with_parameters(Parameters(30, K, K)).search(queries, K)
    monkeypatch.setattr(leaf_major, "_STORED_ROWS", 1)
    monkeypatch.setattr(leaf_major, "_MOST_IN_PRODUCT", 16)
    cut = jax_searcher.build(ArrayKeys(keys), PLAN).with_parameters(Parameters(30, K, K)).search(queries, K)
    np.testing.assert_array_equal(cut[0], whole[0])
    np.testing.assert_allclose(cut[1], whole[1], atol=1e-6)


@pytest.mark.parametrize("k", [1, 10, 900, ROWS + 5])
def test_all_leaves_are_searched_in_products_of_any_size(monkeypatch, keys, k):
    from index.engines import leaf_major

    # Half of the queries are far from all keys, so that empty places of tiles, whose scores are 0, are nearer.
    queries = np.concatenate([unit(45, dim=DIM, seed=3), -np.abs(keys[:45])]).astype(np.float32)
    shifted = np.abs(keys)
    engine = jax_searcher.build(ArrayKeys(shifted), PLAN)
    monkeypatch.setattr(leaf_major, "_ALL_ROWS", 256)
    monkeypatch.setattr(leaf_major, "_ALL_QUERIES", 32)
    rows, scores = engine.search(queries, k)
    right, right_scores = brute_force(queries, shifted, min(k, ROWS))
    assert (rows[:, :ROWS] == right).mean() > 0.999
    np.testing.assert_allclose(scores[:, :ROWS], right_scores, atol=1e-6)
    assert (rows[:, ROWS:] == -1).all() and (scores[:, ROWS:] == -np.inf).all()


def test_blocks_do_not_show(monkeypatch, engine):
    queries = unit(200, dim=DIM, seed=4)
    whole = engine.search(queries, K)
    monkeypatch.setattr(jax_searcher, "BLOCK_PAIRS", 64 * 40)
    cut = engine.search(queries, K)
    np.testing.assert_array_equal(cut[0], whole[0])


def test_ties_come_by_row():
    keys = np.repeat(unit(4, dim=DIM), 50, axis=0)
    plan = dataclasses.replace(PLAN, leaves=3, sample_rows=200, tile_rows=16)
    queries = unit(6, dim=DIM, seed=1)
    rows, scores = jax_searcher.build(ArrayKeys(keys), plan).search(queries, 60)
    np.testing.assert_array_equal(rows, brute_force(queries, keys, 60)[0])
    assert (np.diff(scores) == 0).sum() >= 6 * 50


def test_scores_below_zero_are_no_padding():
    keys = unit(40, dim=DIM)
    plan = dataclasses.replace(PLAN, leaves=2, sample_rows=40)
    rows, scores = jax_searcher.build(ArrayKeys(keys), plan).search(-keys[:5], 60)
    assert (rows[:, :40] >= 0).all() and (rows[:, 40:] == -1).all()
    assert (scores[:, 39] == pytest.approx(-1)) and (scores[:, 40:] == -np.inf).all()
    np.testing.assert_array_equal(np.sort(rows[:, :40]), np.tile(np.arange(40), (5, 1)))


@pytest.mark.parametrize("rows", [1, 2, 63, 500])
def test_tiny_shards(rows, tmp_path):
    keys = unit(rows, dim=DIM)
    plan = jax_searcher.plan(rows, DIM, Index(reorder="float32"))
    jax_searcher.build(ArrayKeys(keys), plan).save(str(tmp_path))
    found, _ = jax_searcher.load(str(tmp_path), plan).search(keys[:3], 5)
    np.testing.assert_array_equal(found[:, 0], np.arange(min(3, rows)))


def test_more_entries_change_none_before_them_and_nothing_asked_gives_nothing(engine):
    queries, few = unit(40, dim=DIM, seed=5), engine.with_parameters(Parameters(3, K, K))
    short, long = few.search(queries, K), few.search(queries, K, more=4)
    np.testing.assert_array_equal(long[0][:, :K], short[0])
    assert long[0].shape == (40, K + 4)
    assert few.search(queries[:0], K)[0].shape == (0, K)
    assert few.search(queries, 0)[0].shape == (40, 0)


def test_same_keys_give_the_same_bytes_and_bfloat16_scores_are_near(keys, tmp_path):
    plan = jax_searcher.plan(ROWS, DIM, Index(leaves=40))

    def digests(name: str) -> list[str]:
        folder = tmp_path / name
        folder.mkdir()
        jax_searcher.build(ArrayKeys(keys), plan).save(str(folder))
        return [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(pathlib.Path(folder).iterdir())]

    assert digests("one") == digests("two")
    queries = unit(60, dim=DIM, seed=6)
    _, scores = jax_searcher.load(str(tmp_path / "one"), plan).search(queries, K)
    assert np.abs(scores - brute_force(queries, keys, K)[1]).max() < 2**-7


def test_is_tuned_to_a_recall_by_the_number_of_leaves():
    keys, queries = index_data.clustered(6000, 400, 64)
    right = brute_force(queries, keys, 40)
    plan = jax_searcher.plan(6000, 64, Index(leaves=80))
    engine = searcher.kind("jax").build(ArrayKeys(keys), plan)

    def measure(tried):
        rows, _ = engine.with_parameters(tried).search(queries[:200], 20)
        return recall_at_k(rows, right[0][:200], right[1][:200], 20)

    tuned = frontier(measure, plan, 6000, 20, [0.8, 0.97])
    assert tuned[0.8].leaves_to_search < tuned[0.97].leaves_to_search < 80
    rows, _ = engine.with_parameters(tuned[0.97]).search(queries[200:], 20)
    assert recall_at_k(rows, right[0][200:], right[1][200:], 20).mean() > 0.95
