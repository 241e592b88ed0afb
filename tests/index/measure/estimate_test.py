import dataclasses
import os

import numpy as np
import pytest

from configs.base import Index
from configs.schema.search import PRECISIONS
from index.engines import partitions, planner, scann_coder, tiles
from index.engines.planner import NO_TREE
from index.engines.searcher import ArrayKeys
from index.measure import estimate
from tests.world import brute_force, unit


def _bytes_on_disk(folder, rows):
    """Of the searcher's files, and of an id and a content key a row."""
    return sum(os.path.getsize(folder / name) for name in os.listdir(folder)) + (8 + 32) * rows


@pytest.mark.parametrize("reorder", PRECISIONS)
@pytest.mark.parametrize("changes", [{}, {"pca_dims": 32}, {"reorder_on": "disk"}])
def test_bytes_on_disk_are_those_of_a_build(reorder, changes, tmp_path):
    rows, dim = 5000, 64
    plan = dataclasses.replace(planner.plan_shard(rows, dim, 60, reorder), **changes)
    scann_coder.write(ArrayKeys(unit(rows, dim)), plan, str(tmp_path))
    real = _bytes_on_disk(tmp_path, rows)
    assert estimate.size(plan, rows, dim).disk_bytes == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("reorder", ["bfloat16", "float32"])
def test_bytes_of_tiles_are_those_of_a_build(reorder, tmp_path):
    rows, dim = 20_000, 32
    plan = planner.plan_tiles(rows, dim, reorder=reorder)
    tiles.write(ArrayKeys(unit(rows, dim)), plan, str(tmp_path))
    size = estimate.size(plan, rows, dim)
    assert size.disk_bytes == pytest.approx(_bytes_on_disk(tmp_path, rows), rel=0.1)
    assert size.steady_bytes < size.peak_bytes


def test_without_a_tree_the_keys_are_all_there_is(tmp_path):
    scann_coder.write(ArrayKeys(unit(500, 64)), NO_TREE, str(tmp_path))
    real = _bytes_on_disk(tmp_path, 500)
    assert estimate.size(NO_TREE, 500, 64).disk_bytes == pytest.approx(real, rel=0.1)


def test_a_large_shard_takes_no_more_memory_than_promised():
    for rows, dim in [(1_000_000, 128), (1_000_000, 768), (10_000_000, 768)]:
        size, raw = estimate.size(planner.plan_shard(rows, dim), rows, dim), 4 * rows * dim
        assert size.steady_bytes - (8 + 32) * rows < 0.65 * raw
        assert size.steady_bytes < size.peak_bytes < 1.4 * raw


@pytest.mark.parametrize(("rows", "dim"), [(10_000_000, 128), (1_000_000, 768)])
def test_keys_on_disk_take_no_memory(rows, dim):
    plan = planner.plan_shard(rows, dim)
    kept, held = (estimate.size(dataclasses.replace(plan, reorder_on=place), rows, dim) for place in ("disk", "memory"))
    assert held.steady_bytes - kept.steady_bytes == 2 * rows * dim and held.disk_bytes == kept.disk_bytes
    assert kept.peak_bytes <= held.peak_bytes


def test_calibration_scales_what_it_measured(monkeypatch):
    keys, queries, config = unit(4000, 16), unit(100, 16, seed=1), Index(k=10, target_recall=0.9)
    calibration = estimate.calibrate(keys, queries, config)
    plan = planner.plan_shard(4000, 16)
    assert calibration.recall >= 0.9 and 0 <= calibration.growing <= 1
    same = estimate.build_secs(calibration, plan, 4000, 16)
    assert 0 < same < estimate.build_secs(calibration, planner.plan_shard(40_000, 16), 40_000, 16) / 5
    grown = dataclasses.replace(calibration, growing=0.25)
    rates = [estimate.queries_per_sec(grown, times) for times in (1, 3, 10)]
    np.testing.assert_allclose(rates, rates[0] / (0.75 + 0.25 * np.array([1, 3, 10])))
    assert rates[0] == pytest.approx(1 / calibration.query_secs)


def test_recall_is_that_of_full_search_where_no_search_of_the_grid_reaches_the_target(monkeypatch):
    keys, queries = (
        np.random.default_rng(seed).normal(size=(rows, 32)).astype(np.float32) for seed, rows in ((0, 4000), (1, 200))
    )
    keys, queries = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (keys, queries))
    monkeypatch.setattr(planner, "reorder_steps", lambda rows, k: [k])
    assert estimate.calibrate(keys, queries, Index(k=1, target_recall=0.99)).recall >= 0.98


def test_a_sample_tells_how_many_rows_a_query_scans_in_the_whole():
    keys, queries, config = unit(40_000, 16, clusters=400), unit(300, 16, seed=1, clusters=400), Index(k=40)
    sample = keys[np.sort(np.random.default_rng(0).permutation(len(keys))[:5000])]

    def scanned(rows: np.ndarray) -> float:
        plan = planner.plan_shard(len(rows), 16)
        centres = partitions.fit(rows, plan.leaves, plan.iterations)
        nearest, _ = brute_force(queries, rows, config.k)
        leaf = (rows @ centres.T).argmax(axis=1)
        scores = queries @ centres.T
        nearer = (scores[:, None, :] > np.take_along_axis(scores, leaf[nearest], 1)[:, :, None]).sum(axis=2)
        return len(rows) * (np.quantile(nearer, config.target_recall) + 1) / plan.leaves

    whole = planner.plan_shard(len(keys), 16)
    times = estimate.times_scanned(sample, queries, whole, len(keys), config)
    assert times == pytest.approx(scanned(keys) / scanned(sample), rel=0.2) and times < 5
    assert estimate.times_scanned(sample, queries, planner.plan_shard(5000, 16), 5000, config) == 1
    assert estimate.times_scanned(sample, queries, whole, len(keys), Index(searcher="exact")) == 8


def test_exact_search_reaches_everything():
    calibration = estimate.calibrate(unit(500), unit(20, seed=1), Index(searcher="exact", k=10))
    assert calibration.recall == 1
    few, many = (estimate.queries_per_sec(calibration, times) for times in (1, 10))
    assert few / many == pytest.approx(10)
    assert np.isfinite(estimate.build_secs(calibration, NO_TREE, 5000, 12))
