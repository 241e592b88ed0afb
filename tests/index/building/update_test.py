import dataclasses
import os
import pathlib
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.base import Config, Neighbors
from configs.base import Index as IndexConfig
from index import build, neighbors
from index.building import build_job, publication, rebuild, update
from index.building.difference import Difference, compare
from index.store import index_manifest, shard_store
from index.store.lookup import Lookup
from index.store.reader import Index
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.runner import Runner
from tests import slow
from tests.finished import Finished
from tests.world import ChangingMemory, brute_force, digests, everywhere, snapshot, unit, write_embeddings

BEAM = ["--runner=FnApiRunner"]


class Line:
    """A memory that changes, the index that follows it, and queries that neither has seen."""

    def __init__(self, folder: pathlib.Path, rows: list[int], **fields: object) -> None:
        options = {"searcher": "exact", "shards": 2, "sharding": "hash", "k": 5, "max_queries": 60, **fields}
        self.config = Config(workdir=str(folder), index=IndexConfig(**options))
        write_embeddings(self.config.places.queries("val"), unit(80, seed=5), digests([f"val {i}" for i in range(80)]))
        self.memory = ChangingMemory(self.config.places.memory)
        for number, count in enumerate(rows):
            self.memory.put(number, count)
        self.memory.finish()
        build.run(self.config, Runner(BEAM))

    def update(self) -> tuple[dict, Difference]:
        self.memory.finish()
        return update.run(self.config.places, self.config.index, self.config.seed, Runner(BEAM))

    @property
    def index(self) -> Index:
        return Index.open(self.config.places.index)

    def check(self, k: int = 9) -> None:
        """Every row that is used is found as brute force finds it, and no other."""
        ids, keys, images = self.memory.live
        queries = unit(30, seed=6)
        rows, scores = brute_force(queries, keys, k)
        hits = self.index.search(queries, k)
        short = max(0, k - len(ids))
        np.testing.assert_array_equal(hits.ids, np.pad(ids[rows], ((0, 0), (0, short)), constant_values=-1))
        np.testing.assert_array_equal(hits.scores[:, : len(ids)], scores)
        assert self.index.rows == self.index.facts["rows"] == len(ids)
        own = self.index.search(keys[:20], k, images[:20])
        assert not (own.ids == ids[:20, None]).any() and (own.excluded >= 1).all()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished[Line]:
    """A line of two shards."""
    folder = tmp_path_factory.mktemp("finished") / "line"
    return Finished(Line(folder, [60, 50]), folder)


@pytest.fixture
def line(finished) -> Line:
    return finished.restored()


def test_rows_come_and_go(tmp_path):
    line = Line(tmp_path, [60, 50, 40])
    first = line.index
    line.memory.put(3, 30)
    line.memory.put(1, 45)
    line.memory.take(2)
    line.memory.dropped |= {0, 7, int(schemas.make_id(3, 2))}
    facts, difference = line.update()
    assert (difference.added, difference.removed) == (29 + 45, 50 + 40 + 2)
    line.check()
    assert (facts["version"], facts["base"], facts["parent"]) == (2, 1, first.fingerprint)
    assert (facts["tombstones"], facts["rows"]) == (92, 58 + 45 + 29)
    assert facts["memory"] == publication.memory_facts(Embeddings(line.config.places.memory))
    assert facts["base_memory"] == first.memory_snapshot
    assert [shard["is_delta"] for shard in facts["shards"]] == [False, False, True]
    assert line.index.search(unit(3, seed=1), 4).ids.shape == (3, 4)


def test_nothing_changed(tmp_path):
    line = Line(tmp_path, [40])
    before = snapshot(tmp_path / "index")
    facts, difference = line.update()
    assert (facts["version"], difference.added, difference.removed) == (1, 0, 0)
    assert snapshot(tmp_path / "index") == before


def test_rows_that_are_used_again_are_new(line):
    line.memory.dropped = {3, 4, 5}
    assert line.update()[1].removed == 3
    line.check()
    line.memory.dropped = {5, 6}
    _, difference = line.update()
    assert (difference.added, difference.removed) == (2, 1)
    assert difference.new[0].tolist() == [3, 4]
    line.check()
    line.memory.dropped = {3, 5, 6}
    _, difference = line.update()
    # It lives in the delta by now, its tombstone in the base stays.
    assert {number: rows.tolist() for number, rows in difference.gone.items()} == {2: [0]}
    line.check()


def test_a_memory_that_only_grew_is_compared_without_reading_the_index(line, monkeypatch):
    line.memory.put(2, 10)
    monkeypatch.setattr(shard_store, "read_names", lambda *_: pytest.fail("read"))
    line.memory.finish()
    found = compare(line.index, Embeddings(line.config.places.memory))
    assert not found.gone and found.added == 10


def test_unchanged_memory_shards_are_not_read(tmp_path, monkeypatch):
    line = Line(tmp_path, [60, 50, 40])
    line.memory.dropped = {int(schemas.make_id(1, 0))}
    read, seen = Embeddings.read, set()
    monkeypatch.setattr(Embeddings, "read", lambda self, shard, columns: seen.add(shard) or read(self, shard, columns))
    line.update()
    assert seen == {1}


def test_readers_of_the_old_version_go_on(line):
    old, queries = line.index, unit(20, seed=9)
    before = old.search(queries, 6)
    line.memory.dropped = set(before.ids[0].tolist())
    line.update()
    again = Index(old.folder, old.facts, old.point).search(queries, 6)
    np.testing.assert_array_equal(again.ids, before.ids)
    assert not set(line.index.search(queries, 6).ids[0].tolist()) & line.memory.dropped


def test_large_growth_makes_several_deltas_of_the_size_of_shards(tmp_path):
    line = Line(tmp_path, [40, 40])
    line.memory.put(2, 70)
    line.memory.put(3, 35)
    facts, _ = line.update()
    assert [shard["rows"] for shard in facts["shards"] if shard["is_delta"]] == [35, 35, 35]
    line.check()


@pytest.mark.parametrize("sharding", slow.after(1, ["routed", "hash"]))
def test_planned_shards_stay_until_the_index_is_built_from_scratch(tmp_path, sharding):
    # So much takes a shard of 72 rows.
    line = Line(tmp_path, [80, 60], shards=0, memory_gb=7e-6, sharding=sharding)
    first = line.index.facts
    assert first["regions"] == 2
    line.memory.put(2, 100)
    line.update()
    second = line.index.facts
    build.run(line.config, Runner(BEAM))
    assert line.index.facts == second
    # What a build has lost is built again only if its rows are all there.
    os.unlink(storage.join(line.config.places.index, "builds/00001/_done/shard-00001-of-00002.json"))
    with pytest.raises(UserError, match="has lost shards whose rows have changed; run web-memory reindex --compact"):
        build.run(line.config, Runner(BEAM))
    rebuild.run(line.config.places, line.config.index, line.config.seed, Runner(BEAM))
    third = line.index.facts
    assert third["regions"] == len(third["shards"]) == 4
    build.run(line.config, Runner(BEAM))
    assert line.index.facts == third and line.index.rows == 240


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_changes_leave_what_brute_force_finds(tmp_path_factory, data):
    line = Line(tmp_path_factory.mktemp("line"), [30, 25, 20], sharding=data.draw(st.sampled_from(["routed", "hash"])))
    for _ in range(data.draw(st.integers(1, 3))):
        for _ in range(data.draw(st.integers(1, 3))):
            number = data.draw(st.integers(0, 4))
            match data.draw(st.sampled_from(["put", "take", "drop", "restore"])):
                case "put":
                    line.memory.put(number, data.draw(st.integers(0, 30)))
                case "take" if number in line.memory.shards and len(line.memory.shards) > 2:
                    line.memory.take(number)
                case "drop":
                    ids = line.memory.ids(number).tolist()
                    line.memory.dropped |= set(data.draw(st.permutations(ids))[:12]) if ids else set()
                case "restore":
                    line.memory.dropped -= set(line.memory.ids(number).tolist())
        if len(line.memory.live[0]) < 40:
            line.memory.put(0, 60)
        line.update()
        ids, keys, _ = line.memory.live
        index = line.index
        # All regions are visited.
        everywhere(index)
        queries = unit(10, seed=3)
        np.testing.assert_array_equal(index.search(queries, 6).ids, ids[brute_force(queries, keys, 6)[0]])


def test_recall_is_measured_without_what_was_removed(tmp_path):
    line = Line(tmp_path, [900, 900], sharding="routed", shards=4, target_recall=0.7)
    rng = np.random.default_rng(0)
    for _ in range(2):
        line.memory.dropped |= set(rng.choice(line.memory.ids(0), 60, replace=False).tolist())
        line.memory.put(2 + len(line.memory.shards), 20)
        facts, _ = line.update()
        index = line.index
        queries = schemas.read(f"{index.folder}/builds/00001/queries.parquet", ["key"])["key"]
        reported = schemas.to_matrix(queries)[30:]
        ids, keys, _ = line.memory.live
        right = ids[brute_force(reported, keys, 5)[0]]
        found = index.search(reported, 5).ids
        recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, right, strict=True)])
        assert facts["recall"]["queries"] == 30
        assert abs(facts["recall"]["mean"] - recall) < 1e-6
        assert 0.5 < recall


def test_recall_is_told_where_more_was_removed_than_the_exact_lists_are_long(tmp_path):
    line = Line(tmp_path, [200, 60], shards=2, sharding="routed", target_recall=0.5)
    line.memory.dropped = set(range(180))
    facts, _ = line.update()
    queries = schemas.to_matrix(schemas.read(f"{tmp_path}/index/builds/00001/queries.parquet", ["key"])["key"])[30:]
    ids, keys, _ = line.memory.live
    found, right = line.index.search(queries, 5).ids, ids[brute_force(queries, keys, 5)[0]]
    recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, right, strict=True)])
    assert facts["recall"]["queries"] == 30 and abs(facts["recall"]["mean"] - recall) < 1e-6


def test_the_same_change_gives_the_same_manifest(tmp_path):
    made = []
    for name in "ab":
        line = Line(tmp_path / name, [60, 50])
        line.memory.put(2, 20)
        line.memory.dropped = {1, 2}
        made.append(line.update()[0])
    assert made[0]["fingerprint"] == made[1]["fingerprint"]


def test_a_killed_update_of_a_memory_that_is_no_more(line, monkeypatch):
    folder = pathlib.Path(line.config.workdir)
    line.memory.put(2, 20)
    with monkeypatch.context() as patch:
        patch.setattr(index_manifest, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            line.update()
    assert line.index.version == 1 and (folder / "index/builds/00002").exists()
    line.memory.put(2, 25)
    line.update()
    line.check()


def test_a_finished_delta_is_not_built_again(line, monkeypatch):
    line.memory.put(2, 20)
    with monkeypatch.context() as patch:
        patch.setattr(index_manifest, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            line.update()
    monkeypatch.setattr(build_job, "build_shard", lambda *_: pytest.fail("built again"))
    line.update()
    line.check()


def test_another_configuration_is_refused(tmp_path):
    line = Line(tmp_path, [60])
    line.memory.put(1, 5)
    line.config = Config(workdir=str(tmp_path), index=IndexConfig(searcher="exact", shards=2, k=4))
    with pytest.raises(UserError, match="belongs to another configuration"):
        line.update()


def test_damaged_files_are_told(line):
    folder = pathlib.Path(line.config.workdir)
    line.memory.dropped = {1}
    rows = next((folder / "index").rglob("rows.parquet"))
    shutil.copy(rows, folder / "kept")
    rows.write_bytes(rows.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="rows.parquet: is damaged"):
        line.update()
    shutil.copy(folder / "kept", rows)
    line.update()
    path = folder / "index/builds/00002/tombstones.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="tombstones.parquet: is damaged"):
        line.index.search(unit(1), 3)


def test_measuring_queries_that_are_rows_of_the_memory(tmp_path):
    line = Line(tmp_path, [90, 80])
    shutil.rmtree(tmp_path / "queries")
    shutil.rmtree(tmp_path / "index")
    build.run(line.config, Runner(BEAM))
    line.memory.dropped = set(range(0, 90, 9))
    line.memory.put(2, 20)
    facts, _ = line.update()
    assert facts["recall"]["mean"] == 1 and facts["recall"]["of"].startswith("rows of the memory")
    line.check()


def test_tombstones_say_which_row_of_which_shard(tmp_path):
    line = Line(tmp_path, [60, 50], shards=1)
    line.memory.dropped = {4, 2}
    line.update()
    table = schemas.read(f"{tmp_path}/index/builds/00002/tombstones.parquet", ["shard", "row", "id", "content_key"])
    images = line.memory.shards[0][1]
    assert table.to_pylist() == [
        {"shard": "builds/00001/shard-00000-of-00001", "row": row, "id": row, "content_key": images[row]}
        for row in (2, 4)
    ]


@pytest.mark.slow
def test_scann_keeps_its_recall(tmp_path):
    line = Line(
        tmp_path, [4000, 4000], searcher="scann", shards=2, sharding="routed", target_recall=0.9, max_queries=80
    )
    rng = np.random.default_rng(1)
    line.memory.put(2, 300)
    line.memory.dropped = set(rng.choice(line.memory.ids(0), 400, replace=False).tolist())
    facts, _ = line.update()
    ids, keys, _ = line.memory.live
    queries = unit(200, seed=12)
    found, right = line.index.search(queries, 5).ids, ids[brute_force(queries, keys, 5)[0]]
    recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, right, strict=True)])
    assert not np.isin(found, list(line.memory.dropped)).any()
    assert recall > 0.85 and abs(recall - facts["recall"]["mean"]) < 0.06


@pytest.mark.slow
@pytest.mark.parametrize(("sharding", "shards"), [("hash", 1), ("hash", 3), ("routed", 3)])
def test_patched_lists_of_scann_are_those_of_an_empty_folder(tmp_path, monkeypatch, sharding, shards):
    fields = {"searcher": "scann", "leaves": 12, "sharding": sharding, "shards": shards, "target_recall": 0.8}
    line = Line(tmp_path, [900, 800, 700], **fields)
    line.config = dataclasses.replace(line.config, neighbors=Neighbors(k=6, block_rows=16))
    # Some queries are rows of the memory, whose own image is left out.
    ids, keys, images = line.memory.live
    own = np.r_[5:300:13]
    write_embeddings(
        line.config.places.queries("train"),
        np.concatenate([unit(60, seed=8), keys[own]]),
        [*digests([f"train {i}" for i in range(60)]), *(images[place] for place in own)],
    )
    neighbors.run(line.config, Runner(BEAM))
    searched, search, folder = [], Lookup.search, tmp_path / "neighbors"
    monkeypatch.setattr(
        Lookup, "search", lambda self, q, *rest, **part: searched.append(len(q)) or search(self, q, *rest, **part)
    )
    for step in range(2):
        line.memory.put(3 + step, 150)
        line.memory.dropped |= set(np.random.default_rng(step).choice(line.memory.ids(step), 40, False).tolist())
        line.update()
        assert {shard["searcher"] for shard in line.index.facts["shards"]} == {"scann"}
        searched.clear()
        neighbors.run(line.config, Runner(BEAM))
        patched, lookups = snapshot(folder), sum(searched)
        folder.rename(tmp_path / "aside")
        searched.clear()
        neighbors.run(line.config, Runner(BEAM))
        assert snapshot(folder) == patched and 0 < lookups < sum(searched)
        shutil.rmtree(folder)
        (tmp_path / "aside").rename(folder)
    named = schemas.to_matrix(manifest.Neighbors.open(str(folder)).split("train")["neighbor_ids"])
    assert (named >> schemas.ROW_BITS).max() == 4 and not set(named.ravel().tolist()) & line.memory.dropped


@pytest.mark.parametrize(("share", "runs_short"), [(0.1, False), (0.8, True)])
def test_what_scann_finds_after_a_takedown(tmp_path, share, runs_short):
    """With one plan: the lists of before without the removed rows, bit by bit; where candidates run short, more."""
    line = Line(tmp_path, [3000], searcher="scann", leaves=12, shards=1, target_recall=0.8, k=40)
    assert [shard["searcher"] for shard in line.index.facts["shards"]] == ["scann"]
    before, queries = line.index.search(unit(30, seed=6), 40), unit(30, seed=6)
    gone = np.random.default_rng(0).choice(line.memory.ids(0), round(3000 * share), replace=False)
    line.memory.dropped |= set(gone.tolist())
    assert line.update()[1].removed == len(gone)
    after = line.index.search(queries, 40)
    assert not np.isin(after.ids, gone).any()
    for row in range(len(queries)):
        kept = ~np.isin(before.ids[row], gone)
        if runs_short:
            # A list that would be short is searched for in more leaves, which may have nearer rows.
            assert (after.scores[row][: kept.sum()] >= before.scores[row][kept]).all()
            continue
        np.testing.assert_array_equal(after.ids[row][: kept.sum()], before.ids[row][kept])
        np.testing.assert_array_equal(after.scores[row][: kept.sum()], before.scores[row][kept])
    assert (after.ids >= 0).all()
