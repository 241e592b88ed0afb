"""The curve against lists that are searched anew, and its choice among points whose recall is known."""

import json

import numpy as np
import pytest

from index.engines.planner import Parameters
from index.measure import curve
from index.measure.curve import MeasuredShard
from index.measure.measurement import Queries
from index.store import records
from index.store.reader import Index
from index.store.records import Found, Point, Setting, ShardLists
from pipelines import schemas
from pipelines.errors import UserError
from tests.world import World, brute_force, unit


def share(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), right.tolist(), strict=True)]))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> World:
    world = World(tmp_path_factory.mktemp("curve"), rows=6000)
    world.keys = unit(6000, clusters=60)
    world.queries["val"] = unit(600, seed=8, clusters=60)
    world.query_images["val"] = [bytes([i % 256]) * 32 for i in range(600)]
    world.write()
    assert world.build("--config.index.searcher=scann", "--config.index.leaves=40", "--config.index.k=10") == 0
    return world


def test_recall_of_every_point_is_that_of_its_search(built: World):
    facts = json.loads((built.index / "manifest.json").read_text())
    queries = Queries.from_table(schemas.read(str(built.index / "builds/00001/queries.parquet"), Queries.COLUMNS))
    reported = queries.keys[queries.tuning :]
    right = built.ids[brute_force(reported, built.keys, 10)[0]]
    assert len(facts["curve"]) >= 4
    for point in facts["curve"]:
        index = Index(str(built.index), facts, Point(**point))
        found = index.search(reported, 10).ids
        for k in (1, 10):
            assert abs(share(found[:, :k], right[:, :k]) - point["recall"][str(k)]) < 2e-3
        everyone = (index.visits(queries.keys).leaves > 0).sum(axis=1).mean()
        assert everyone == pytest.approx(point["visits"], abs=1e-4)


def test_points_are_dearer_and_better(built: World):
    facts = json.loads((built.index / "manifest.json").read_text())
    costs = [point["cost"] for point in facts["curve"]]
    assert costs == sorted(set(costs))
    assert facts["search"] in facts["curve"]
    assert facts["recall"]["mean"] == facts["search"]["recall"]["10"]
    assert len(facts["rates"]["curve_queries_per_sec"]) == len(costs)
    # On the queries that chose them each is better than the one before; on the others all but noise.
    recalls = [point["recall"]["10"] for point in facts["curve"]]
    assert all(later > earlier - 0.01 for earlier, later in zip(recalls, recalls[1:], strict=False))


def test_another_recall_is_another_point(built: World):
    facts = json.loads((built.index / "manifest.json").read_text())
    cheap, dear = Index.open(str(built.index), recall=0.6), Index.open(str(built.index), recall=0.97)
    points = [Point(**point) for point in facts["curve"]]
    for index, recall in ((cheap, 0.6), (dear, 0.97)):
        assert index.point in points and index.point.recall["10"] >= recall
        assert not [p for p in points if p.recall["10"] >= recall and p.cost < index.point.cost]
    assert cheap.point != dear.point
    with pytest.raises(UserError, match="recall@10 of 1 is out of reach for this index; its best is 0.9"):
        Index.open(str(built.index), recall=1)
    for index, target in ((cheap, 0.6), (dear, 0.97)):
        assert f"recall@10 {index.point.recall['10']:.4f} (target {target:g}" in repr(index)
    for wrong in (-1, 0, 1.01, float("nan"), "0.9"):
        with pytest.raises(UserError) as raised:
            Index.open(str(built.index), recall=wrong)
        assert str(raised.value) == f"recall={wrong!r}: must be a number above 0 and at most 1"


def settings_of(*levels: float) -> list[Setting]:
    return [Setting(level, Parameters(number + 1, 1, 2), 1.0) for number, level in enumerate(levels)]


def test_the_first_setting_that_is_as_good_is_searched_with():
    settings = settings_of(0.8, 0.95, 0.99)
    assert [records.setting_at(settings, level) for level in (0.5, 0.8, 0.81, 0.95, 0.99, 1.0)] == [0, 0, 1, 1, 2, 2]


def measured_shard(ids: list[int], scores: list[float], cost: float, least: np.ndarray) -> MeasuredShard:
    """Returns a region that finds the same two rows for every query that scans at least so many leaves, exactly."""
    queries = len(least)
    exact = np.tile(np.array(ids, np.int64), (queries, 1)), np.tile(np.array(scores, np.float32), (queries, 1))
    made, found = [], []
    for leaves in (1, 2, 4, 8):
        visiting = np.flatnonzero(least <= leaves)
        made.append(Setting(0.0, Parameters(leaves, 1, 2), cost * len(visiting) / queries, len(visiting) / queries))
        found.append(Found(visiting, exact[0][visiting], exact[1][visiting]))
    return MeasuredShard(made, ShardLists(exact, found), True)


def test_leaves_that_are_needed_and_no_more():
    """Every query's nearest row is in shard 0, the second in shard 1, which half of them reach only with 4 leaves."""
    queries = 80
    far, never = np.where(np.arange(queries) % 2, 4, 1), np.full(queries, 99)
    shards = [
        measured_shard([1, 9], [0.9, 0.1], 10, np.ones(queries, np.int64)),
        measured_shard([2, 8], [0.8, 0.2], 30, far),
        measured_shard([5, 6], [0.05, 0.04], 1000, np.where(np.arange(queries) % 2, 8, never)),
    ]
    asked = Queries(np.zeros((queries, 3), np.float32), np.full(queries, -1), queries // 2, False)
    points, chosen = curve.measure(shards, asked, k=2, target=0.95)
    # Two leaves find what one does, and eight what four do: neither is a point of the curve.
    of = [(point.leaves, point.candidates, point.recall) for point in points]
    assert of == [(1, 1, {"1": 1.0, "2": 0.75}), (4, 1, {"1": 1.0, "2": 1.0})]
    assert [(point.visits, point.cost) for point in points] == [(1.5, 25.0), (2.0, 40.0)]
    assert chosen == points[1]
    assert curve.measure(shards, asked, k=2, target=0.6)[1] == points[0]
    # Shards that are added later are searched at the level that the index reaches.
    assert [point.level for point in points] == [0.8, 0.995]
    # What no point reaches is searched with the best.
    assert curve.measure(shards, asked, k=2, target=1.01)[1] == points[1]


def test_a_delta_is_searched_at_the_level_of_the_point():
    region = measured_shard([1, 9], [0.9, 0.1], 10, np.ones(4, np.int64))
    exact = np.tile([2, 8], (4, 1)), np.tile(np.array([0.8, 0.2], np.float32), (4, 1))
    missed = Found(np.arange(4), np.full((4, 2), -1), np.full((4, 2), -np.inf, np.float32))
    delta = MeasuredShard(settings_of(0.8, 0.99), ShardLists(exact, [missed, Found(np.arange(4), *exact)]), False)
    asked = Queries(np.zeros((4, 3), np.float32), np.full(4, -1), 2, False)
    for level, recall in ((0.8, 0.5), (0.9, 1.0), (0.995, 1.0)):
        point = curve.point_at([region, delta], Point(level, 1, 1, 0.0, 0.0, {}), asked, 2)
        assert (point.level, point.recall["2"], point.visits, point.cost) == (level, recall, 2.0, 11.0)


def test_the_report_is_of_queries_that_did_not_tune():
    """The tuning half finds everything with one leaf, the other half nothing."""
    shards = [measured_shard([1, 2], [0.9, 0.8], 10, np.array([1] * 40 + [99] * 40))]
    asked = Queries(np.zeros((80, 3), np.float32), np.full(80, -1), 40, False)
    points, chosen = curve.measure(shards, asked, k=2, target=0.95)
    assert chosen == points[0] and chosen.recall == {"1": 0.0, "2": 0.0}
