import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from index import neighbors
from index.lists import claim, neighbor_job
from index.lists.layout import NeighborJob
from index.store import index_manifest
from index.store.lookup import Lookup
from index.store.reader import Index
from pipelines import manifest, options, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings, Neighbors
from tests import slow
from tests.world import KEY, REPOSITORY, SPLITS, TEXT, World, brute_force, snapshot, unit, write_embeddings

K = 7
HASH = "--config.index.sharding=hash"
PARTS = "versions/*/_parts/*/lists-*.parquet"


def home(world: World) -> pathlib.Path:
    """Returns the folder of the only version of the lists."""
    (folder,) = (world.folder / "neighbors" / "versions").iterdir()
    return folder


def lists(world: World) -> Neighbors:
    return Neighbors.open(f"{world.folder}/neighbors")


def test_lists_equal_brute_force(indexed: World, capsys):
    assert indexed.neighbors() == 0
    opened = lists(indexed)
    assert (opened.k, opened.encoders) == (K, {"key": KEY, "value_text": TEXT})
    for split, rows in SPLITS.items():
        table = opened.split(split)
        queries = Embeddings(f"{indexed.folder}/queries/{split}")
        assert opened.query_snapshots[split] == queries.snapshot
        asked = pa.concat_tables([queries.read(s, ["id", "label"]) for s in queries.shard_rows])
        assert table["query_id"].to_pylist() == asked["id"].to_pylist()
        assert table["label"].to_pylist() == asked["label"].to_pylist()
        right, scores = brute_force(indexed.queries[split], indexed.keys, K)
        np.testing.assert_array_equal(schemas.to_matrix(table["neighbor_ids"]), indexed.ids[right])
        np.testing.assert_array_equal(schemas.to_matrix(table["scores"]), scores)
        assert set(table["num_valid"].to_pylist()) == {K} and set(table["num_excluded"].to_pylist()) == {0}
        assert table.num_rows == rows and table.schema.equals(schemas.neighbors(K))
    output = capsys.readouterr().out
    assert "163 in train, val, test" in output and "not measured at 7" in output


@pytest.mark.parametrize("sharding", slow.after(1, ["routed", "hash"]))
def test_lists_longer_than_the_memory_hold_all_its_rows(world: World, capsys, sharding):
    assert world.build(f"--config.index.sharding={sharding}", "--config.index.k=450") == 0
    assert "recall@450" in capsys.readouterr().out
    assert world.neighbors("--config.neighbors.k=450") == 0
    assert "450, of which 400 are filled: the memory has no more rows" in capsys.readouterr().out
    for split in SPLITS:
        table = lists(world).split(split)
        right, scores = brute_force(world.queries[split], world.keys, 400)
        found = schemas.to_matrix(table["neighbor_ids"])
        assert found.shape[1] == 450 and (found[:, 400:] == -1).all()
        assert set(table["num_valid"].to_pylist()) == {400}
        np.testing.assert_array_equal(found[:, :400], world.ids[right])
        np.testing.assert_array_equal(schemas.to_matrix(table["scores"])[:, :400], scores)


def test_lists_longer_than_the_part_that_is_visited_are_completed(world: World, monkeypatch):
    assert world.build("--config.index.sharding=routed", "--config.index.shards=5") == 0
    # As few leaves as if lists were short.
    monkeypatch.setattr(Index, "growth", lambda self, length: 1.0)
    assert world.neighbors("--config.neighbors.k=150") == 0
    index = Index.open(str(world.index))
    for split in SPLITS:
        found = schemas.to_matrix(lists(world).split(split)["neighbor_ids"])
        assert (found >= 0).all() and all(len(set(ids)) == 150 for ids in found.tolist())
        np.testing.assert_array_equal(found, index.search(world.queries[split], 150).ids)
    visited = (index.visits(world.queries["train"]).leaves > 0) @ index.rows_of_regions
    assert (visited < 150).any()


def test_dropped_rows_are_in_no_list(world: World):
    folder = f"{world.folder}/memory"
    _, whole = manifest.read_complete(folder, "pipelines.embed")
    markers = manifest.read_markers(folder, whole["config_hash"])
    kept = np.random.default_rng(0).random(len(world.keys)) < 0.6
    shards, _ = schemas.split_ids(world.ids)
    drops = {}
    for marker in markers.values():
        ids = world.ids[~kept & (shards == marker.number)]
        path = f"{folder}/{manifest.DROPPED}/{marker.name}.parquet"
        schemas.write(path, pa.table({"id": pa.array(ids)}), {"config_hash": whole["config_hash"]})
        drops[marker.name] = manifest.Drops(len(ids), storage.sha256(path))
    manifest.complete(folder, markers.values(), whole["config_hash"], drops)
    assert world.build(HASH) == 0 and world.neighbors() == 0
    opened = lists(world)
    for split in SPLITS:
        right, _ = brute_force(world.queries[split], world.keys[kept], K)
        found = schemas.to_matrix(opened.split(split)["neighbor_ids"])
        np.testing.assert_array_equal(found, world.ids[kept][right])
    named = opened.memory(["id", "key"])
    places = np.searchsorted(world.ids, named["id"].to_numpy())
    assert kept[places].all()
    np.testing.assert_array_equal(schemas.to_matrix(named["key"]), world.keys[places])


def test_named_rows_are_gathered_once_with_all_their_columns(pristine_listed: World):
    opened = lists(pristine_listed)
    named = np.unique(np.concatenate([schemas.to_matrix(opened.split(s)["neighbor_ids"]).ravel() for s in SPLITS]))
    places = np.searchsorted(pristine_listed.ids, named)
    table = opened.memory(["id", "caption", "key", "value_text"])
    np.testing.assert_array_equal(table["id"].to_numpy(), named)
    assert table["caption"].to_pylist() == [f"row {place}" for place in places]
    np.testing.assert_array_equal(schemas.to_matrix(table["key"]), pristine_listed.keys[places])
    np.testing.assert_array_equal(schemas.to_matrix(table["value_text"])[:, 0], places)
    whole = schemas.embeddings({"key": KEY.dim, "value_text": TEXT.dim}).names
    assert opened.memory(whole).num_rows == len(named) < 400
    with pytest.raises(UserError, match="no column 'value_image'"):
        opened.memory(["value_image"])
    with pytest.raises(UserError, match="no lists of 'validation'"):
        opened.split("validation")


def test_memory_shards_that_no_list_names_have_no_file(tmp_path):
    world = World(tmp_path)
    # The last shard of the memory looks away from every query.
    for split in SPLITS:
        world.queries[split] = np.abs(world.queries[split])
    world.keys = np.abs(world.keys)
    world.keys[266:] *= -1
    world.write()
    assert world.build(HASH) == 0 and world.neighbors() == 0
    names = {path.name for path in (home(world) / "memory").iterdir()}
    assert names == {"00000.parquet", "00001.parquet"}
    assert (lists(world).memory(["id"])["id"].to_numpy() >> 40).max() == 1


def columns(world: World) -> dict[str, list[bytes]]:
    opened = lists(world)
    tables = {split: opened.split(split) for split in SPLITS} | {"memory": opened.memory(["id", "key", "value_text"])}
    return {
        name: [np.asarray(c.combine_chunks().to_pylist()).tobytes() for c in table.columns]
        for name, table in tables.items()
    }


def test_lists_do_not_depend_on_shards_blocks_or_ties(tmp_path):
    found = []
    for shards, block_rows in [(1, 1000), (3, 16), (7, 5)]:
        world = World(tmp_path / str(shards))
        world.keys[150:220] = world.keys[100]
        world.queries["val"][:20] = world.keys[100]
        world.write()
        assert world.build(HASH, f"--config.index.shards={shards}") == 0
        assert world.neighbors(f"--config.neighbors.block_rows={block_rows}") == 0
        found.append(columns(world))
    assert found[0] == found[1] == found[2]
    tied = schemas.to_matrix(lists(world).split("val")["neighbor_ids"])[0]
    np.testing.assert_array_equal(tied, world.ids[[100, *range(150, 156)]])


def test_scann_lists_agree_with_exact_ones(pristine_listed: World, world: World):
    assert world.build(HASH, "--config.index.searcher=scann", "--config.index.leaves=8") == 0
    assert world.neighbors() == 0
    for split in SPLITS:
        right, found = (schemas.to_matrix(lists(w).split(split)["neighbor_ids"]) for w in (pristine_listed, world))
        assert np.mean([len(set(a) & set(b)) / K for a, b in zip(right, found, strict=True)]) > 0.9


def test_lists_that_the_own_image_leaves_short_are_padded(tmp_path):
    world = World(tmp_path, rows=9)
    world.images[4] = world.images[7] = world.query_images["test"][0]
    world.write()
    assert world.build(HASH) == 0 and world.neighbors("--config.neighbors.k=9") == 0
    table = lists(world).split("test")
    assert table["num_valid"].to_pylist() == [7] + [9] * 32
    ids, scores = schemas.to_matrix(table["neighbor_ids"]), schemas.to_matrix(table["scores"])
    assert (ids[0, 7:] == -1).all() and (scores[0, 7:] == -np.inf).all() and (ids[0, :7] >= 0).all()


def planned(world: World) -> NeighborJob:
    config = options.parse(world.args(), "")[0]
    return claim.claim_lists(config.places, config.neighbors, ())


def test_folder_with_glob_characters(pristine_listed: World, tmp_path):
    odd = World(tmp_path / "odd[1]").write()
    assert odd.build(HASH) == 0 and odd.neighbors() == 0
    assert columns(odd) == columns(pristine_listed)
    assert lists(odd).memory(["id"]).num_rows > 0
    job, folder = planned(odd), home(odd)
    assert neighbor_job.progress(job) == (1, 163) and not (folder / "_parts").exists()
    shutil.rmtree(folder / "_done")
    for group in job.groups:
        parts = folder / "_parts" / group.name
        parts.mkdir(parents=True)
        storage.write_json(str(parts / "routed.json"), {"rows": [group.rows, 0, 3, 2]})
        (parts / "lists-00002.parquet").touch()
    assert neighbor_job.progress(job) == (1 / 3 / 2, 54)


def test_splits_that_the_config_does_not_name_are_left_out(indexed: World, capsys):
    shutil.rmtree(indexed.folder / "queries" / "val")
    assert indexed.neighbors() == 0
    assert "in train, test" in capsys.readouterr().out
    assert set(lists(indexed).query_snapshots) == {"train", "test"}
    shutil.rmtree(indexed.folder / "queries")
    assert indexed.neighbors() == 2
    assert "train_set.path: is empty, as are val_set and test_set" in capsys.readouterr().err


def test_split_without_rows_has_no_lists(indexed: World):
    shutil.rmtree(indexed.folder / "queries" / "val")
    indexed.queries["val"], indexed.query_images["val"] = unit(0), []
    indexed.write_split("val")
    assert indexed.neighbors() == 0
    assert lists(indexed).split("val").num_rows == 0 and lists(indexed).split("test").num_rows == SPLITS["test"]


def test_config_lies_beside_the_lists(indexed: World):
    assert indexed.neighbors("--config.neighbors.k=6") == 0
    assert json.loads((indexed.folder / "neighbors" / "config.json").read_text())["neighbors"]["k"] == 6


def test_own_image_is_left_out_wherever_it_is(tmp_path):
    world = World(tmp_path)
    # Query 3 of train is in the memory three times, in two index shards; query 5 once.
    for place in (10, 11, 390):
        world.images[place], world.keys[place] = world.query_images["train"][3], world.queries["train"][3]
    world.images[200], world.keys[200] = world.query_images["train"][5], world.queries["train"][5]
    world.write()
    assert world.build(HASH) == 0 and world.neighbors() == 0
    table = lists(world).split("train")
    excluded = np.zeros(70, int)
    excluded[[3, 5]] = 3, 1
    assert table["num_excluded"].to_pylist() == excluded.tolist()
    ids = schemas.to_matrix(table["neighbor_ids"])
    for query, gone in [(3, [10, 11, 390]), (5, [200]), (4, [])]:
        kept = np.setdiff1d(np.arange(400), gone)
        right, _ = brute_force(world.queries["train"][query : query + 1], world.keys[kept], K)
        np.testing.assert_array_equal(ids[query], world.ids[kept[right[0]]])
    shutil.rmtree(tmp_path / "neighbors")
    assert world.neighbors("--config.neighbors.exclude_same_image=false") == 0
    table = lists(world).split("train")
    np.testing.assert_array_equal(schemas.to_matrix(table["neighbor_ids"])[3][:3], world.ids[[10, 11, 390]])
    assert set(table["num_excluded"].to_pylist()) == {0}


def test_own_set_leaves_out_the_query_and_keeps_its_copies(tmp_path):
    world = World(tmp_path, rows=70)
    world.keys = world.queries["train"]
    world.keys[20], world.images[20] = world.keys[8], world.images[8]
    world.query_images["train"] = world.images
    world.write()
    # The very images of train; those of val are other images of the same ids.
    for name in ("memory", "queries/train"):
        shutil.rmtree(tmp_path / name)
        write_embeddings(f"{tmp_path}/{name}", world.keys, world.images, shards=3)
    assert world.build(HASH, "--config.index.k=3") == 0
    assert world.neighbors("--config.neighbors.exclude_same_image=false", "--config.neighbors.k=70") == 0
    assert lists(world).identity["own_sets"] == ["train"]
    table = lists(world).split("train")
    ids = schemas.to_matrix(table["neighbor_ids"])
    assert set(table["num_valid"].to_pylist()) == {69} and set(table["num_excluded"].to_pylist()) == {1}
    for query in range(70):
        assert set(ids[query].tolist()) == {*world.ids.tolist(), -1} - {world.ids[query]}
    assert ids[8, 0] == world.ids[20] and ids[20, 0] == world.ids[8]
    assert set(lists(world).split("val")["num_valid"].to_pylist()) == {70}


@pytest.mark.parametrize("group_rows", slow.after(1, [40, 1 << 18]))
def test_queries_that_scan_every_leaf_find_what_brute_force_finds(world: World, monkeypatch, group_rows):
    monkeypatch.setattr(claim, "GROUP_ROWS", group_rows)
    assert world.build("--config.index.sharding=routed", "--config.index.shards=5") == 0
    facts = index_manifest.read(str(world.index))
    kept = {name: value for name, value in facts.items() if name not in ("fingerprint", "rates")}
    every = len(Index.open(str(world.index)).router.centres)
    few = min(point.parameters.leaves_to_search for point in Index.open(str(world.index)).shards[0].settings)
    found = {}
    for leaves in (few, every):
        index_manifest.write(str(world.index), kept | {"search": kept["search"] | {"leaves": leaves}}, {})
        shutil.rmtree(world.folder / "neighbors", ignore_errors=True)
        assert world.neighbors() == 0
        opened = Index.open(str(world.index))
        for split in SPLITS:
            table, hits = lists(world).split(split), opened.search(world.queries[split], K)
            found[leaves, split] = schemas.to_matrix(table["neighbor_ids"])
            np.testing.assert_array_equal(found[leaves, split], hits.ids)
            np.testing.assert_array_equal(schemas.to_matrix(table["scores"]), hits.scores)
    for split in SPLITS:
        right, _ = brute_force(world.queries[split], world.keys, K)
        np.testing.assert_array_equal(found[every, split], world.ids[right])
    assert any((found[few, split] != found[every, split]).any() for split in SPLITS)


def test_only_queries_that_visit_a_shard_are_searched_in_it(world: World, monkeypatch):
    assert world.build("--config.index.sharding=routed", "--config.index.shards=5") == 0
    searched = []
    search = Lookup.search
    monkeypatch.setattr(
        Lookup, "search", lambda self, q, *rest, **part: searched.append(len(q)) or search(self, q, *rest, **part)
    )
    assert world.neighbors() == 0
    opened = Index.open(str(world.index))
    visits = sum(int((opened.visits(world.queries[split], K / 5).leaves > 0).sum()) for split in SPLITS)
    assert sum(searched) == visits < 5 * sum(SPLITS.values())


def test_resumed_job_does_only_what_is_missing(listed: World, capsys, monkeypatch):
    folder = listed.folder / "neighbors"
    whole, noted = snapshot(folder), (listed.folder / "stages" / "neighbors.json").read_text()
    capsys.readouterr()
    assert listed.neighbors() == 0
    assert "already looked up" in capsys.readouterr().out
    assert (listed.folder / "stages" / "neighbors.json").read_text() == noted

    searched = []
    search = Lookup.search
    monkeypatch.setattr(
        Lookup, "search", lambda self, q, *rest, **part: searched.append(len(q)) or search(self, q, *rest, **part)
    )
    lists_of = home(listed)
    (folder / "complete.json").unlink()
    (lists_of / "_done" / "val-00001.json").unlink()
    (lists_of / "test-00000.parquet").unlink()
    (lists_of / "memory" / "00001.parquet").unlink()
    (lists_of / "train-00000.parquet.tmp-0123").write_bytes(b"left over")
    assert listed.neighbors() == 0
    # The groups of val and of test, each in three index shards.
    assert sum(searched) == 3 * (60 + 33)
    assert snapshot(folder) == whole

    # A file gone missing from a finished folder is made again, too.
    (lists_of / "val-00000.parquet").unlink()
    assert listed.neighbors() == 0
    assert snapshot(folder) == whole


def test_parts_that_are_there_are_not_searched_again(indexed: World, monkeypatch, capsys):
    folder = indexed.folder / "neighbors"
    merge = neighbor_job.MergeGroup.merge

    def stopped(self, group, shards):
        if group.name == "val-00001":
            raise UserError("stopped here")
        return merge(self, group, shards)

    monkeypatch.setattr(claim, "GROUP_ROWS", 32)
    monkeypatch.setattr(neighbor_job.MergeGroup, "merge", stopped)
    assert indexed.neighbors() == 2
    assert capsys.readouterr().err.endswith("error: stopped here\n")
    # Three groups of train, two of val and two of test, each in three index shards.
    assert len(list(home(indexed).glob("_parts/*/lists-*.parquet"))) == 3 * (3 + 2 + 2)
    assert not (folder / "complete.json").exists()
    monkeypatch.setattr(neighbor_job.MergeGroup, "merge", merge)
    monkeypatch.setattr(Index, "load", lambda self, number: pytest.fail("nothing is left to search"))
    assert indexed.neighbors() == 0
    assert not (home(indexed) / "_parts").exists()
    assert lists(indexed).split("val").num_rows == SPLITS["val"]


@pytest.mark.slow
def test_killed_job_goes_on_and_ends_with_the_same_bytes(indexed: World, tmp_path):
    again = World(tmp_path / "again").write()
    assert again.build(HASH) == 0
    flags = ["--config.neighbors.block_rows=2"]
    assert indexed.neighbors(*flags) == 0
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-m", "index.neighbors", *again.args(*flags)], env=environment, stdout=subprocess.DEVNULL
    )
    folder, deadline = again.folder / "neighbors", time.monotonic() + 60
    while len(list(folder.glob(PARTS))) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(folder.glob(PARTS)) and not (folder / "complete.json").exists()
    assert again.neighbors(*flags) == 0
    assert snapshot(folder) == snapshot(indexed.folder / "neighbors")


@pytest.mark.slow
def test_workers_in_processes_write_the_same_bytes(indexed: World, tmp_path):
    other = World(tmp_path / "other").write()
    assert other.build(HASH) == 0 and indexed.neighbors() == 0
    flags = other.args("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    flags.remove("--runner=FnApiRunner")
    assert neighbors.main(flags) == 0
    assert snapshot(other.folder / "neighbors") == snapshot(indexed.folder / "neighbors")


def test_files_are_listed_with_their_bytes(pristine_listed: World):
    opened, actual = lists(pristine_listed), snapshot(pristine_listed.folder / "neighbors")
    listed = {file["name"]: file["sha256"] for group in opened.files.values() for file in group}
    assert listed == {name: digest for name, digest in actual.items() if name.endswith(".parquet")}


def test_damaged_index_ends_in_one_sentence(indexed: World, capsys):
    path = indexed.index / "builds" / "00001" / "shard-00001-of-00003" / "exact" / "keys.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert indexed.neighbors() == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "keys.npy: is damaged; remove" in error


def test_damaged_lists_are_refused_by_their_reader(listed: World):
    path = home(listed) / "val-00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="val-00001.parquet"):
        lists(listed).split("val")
    path.unlink()
    with pytest.raises(UserError, match="val-00001.parquet: no such file"):
        lists(listed).split("val")


def test_what_does_not_belong_together(indexed: World, capsys):
    shutil.rmtree(indexed.folder / "queries" / "test")
    indexed.write_split("test", key=dataclasses.replace(KEY, fingerprint="other-encoder"))
    assert indexed.neighbors() == 2
    assert "is an index from another encoder than the queries in" in capsys.readouterr().err
    shutil.rmtree(indexed.folder / "queries" / "test")
    assert indexed.neighbors("--config.test_set.path=list.txt") == 2
    assert "queries/test: does not exist yet; run web-memory embed first" in capsys.readouterr().err
    write_embeddings(f"{indexed.folder}/memory", indexed.keys[::-1], indexed.images)
    assert indexed.neighbors() == 2
    assert "is an index of another memory than" in capsys.readouterr().err


def test_wrong_commands(world: World, capsys):
    assert world.neighbors() == 2
    assert "there is no finished index here; run web-memory build" in capsys.readouterr().err
    assert world.build(HASH) == 0 and world.neighbors("--no_such_flag=1") == 2
    assert "--no_such_flag=1: unknown flag" in capsys.readouterr().err
    assert world.neighbors("--config.neighbors.k=0") == 2
    assert "neighbors.k=0: must be at least 1" in capsys.readouterr().err
    assert world.neighbors("--config.neighbors.block_rows=0") == 2
    assert "neighbors.block_rows=0: must be at least 1" in capsys.readouterr().err
    assert not (world.folder / "neighbors").exists()
    assert world.neighbors() == 0 and world.neighbors("--config.neighbors.k=8") == 2
    assert "belongs to another configuration, k was 7 and is now 8" in capsys.readouterr().err
