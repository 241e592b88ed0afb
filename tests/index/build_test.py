import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import fsspec
import numpy as np
import pytest

from index import build, build_job, measurement, scann_searcher
from index.keys import read_places
from index.measurement import Lists, read_queries
from index.shard_store import Index
from pipelines import schemas
from pipelines.manifest import Embeddings
from tests.index.world import KEY, REPOSITORY, World, brute_force, snapshot, unit

SCANN = ["--config.index.searcher=scann", "--config.index.leaves=12"]


def manifest(world: World) -> dict:
    return json.loads((world.index / "manifest.json").read_text())


def test_shards_are_contiguous_and_balanced(world: World):
    assert world.build() == 0
    index = Index(str(world.index))
    assert [shard.rows for shard in index.shards] == [133, 133, 134]
    np.testing.assert_array_equal(np.concatenate([index.load(s).ids for s in range(3)]), world.ids)
    assert index.key_encoder == KEY
    assert index.memory_snapshot == Embeddings(f"{world.folder}/memory").snapshot


def test_exact_index_has_recall_one_on_half_of_val(world: World, capsys):
    assert world.build() == 0
    recall = manifest(world)["recall"]
    assert recall == {"k": 5, "mean": 1.0, "target": 0.95, "queries": 30, "tuning_queries": 0, "of": "the val split"}
    assert "recall@5     1.0000, target 0.95 reached" in capsys.readouterr().out


def test_scann_is_tuned_to_the_target_and_its_recall_is_measured(tmp_path, capsys):
    world = World(tmp_path, rows=3000)
    world.queries["val"] = unit(1000, seed=8)
    world.query_images["val"] = [bytes([i % 256]) * 32 for i in range(1000)]
    world.write()
    assert world.build(*SCANN, "--config.index.target_recall=0.8", "--config.index.leaves=40") == 0
    facts = manifest(world)
    assert facts["recall"]["queries"] == facts["recall"]["tuning_queries"] == 500
    assert 0.8 <= facts["recall"]["mean"] < 1
    searched = [shard["parameters"]["leaves_to_search"] for shard in facts["shards"]]
    assert all(1 <= leaves < 40 for leaves in searched)
    # The same recall, by other means: searched anew, against a brute force of the test's own.
    queries = read_queries(Embeddings(f"{world.folder}/queries/val"), False, 2000, 0)
    reported = queries.keys[queries.tuning :]
    index = Index(str(world.index))
    found, scores = [], []
    for number in range(3):
        shard = index.load(number)
        rows, shard_scores = shard.search(reported, 5)
        found.append(shard.ids_of(rows))
        scores.append(shard_scores)
    order = np.argsort(-np.concatenate(scores, 1), axis=1, kind="stable")[:, :5]
    lists = np.take_along_axis(np.concatenate(found, 1), order, 1)
    right = world.ids[brute_force(reported, world.keys, 5)[0]]
    again = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(lists, right, strict=True)])
    assert abs(again - facts["recall"]["mean"]) < 2e-3
    output = capsys.readouterr().out
    assert "target 0.8 reached" in output and "tuned on 500 others" in output and "of 40 searched" in output


def test_recall_below_the_target_is_said(world: World, capsys, monkeypatch):
    # Full search finds all, so a miss can only be played: the searcher loses its last row of every list.
    search = scann_searcher.ScannSearcher.search

    def forgetful(self, queries, k):
        rows, scores = search(self, queries, k)
        rows[:, 0], scores[:, 0] = -1, -np.inf
        return rows, scores

    monkeypatch.setattr(scann_searcher.ScannSearcher, "search", forgetful)
    assert world.build(*SCANN) == 0
    facts = manifest(world)
    assert facts["recall"]["mean"] < 0.95
    assert "target 0.95 NOT REACHED" in capsys.readouterr().out
    for shard in facts["shards"]:
        assert shard["parameters"] == {
            "k": 5,
            "leaves_to_search": 12,
            "pre_reorder_num_neighbors": shard["rows"],
        }


def test_without_val_rows_of_the_memory_are_searched_without_themselves(world: World, capsys):
    shutil.rmtree(world.folder / "queries" / "val")
    assert world.build("--config.index.max_queries=100") == 0
    recall = manifest(world)["recall"]
    assert (recall["queries"], recall["mean"]) == (50, 1.0)
    assert recall["of"] == "rows of the memory, each searched without itself"
    memory = Embeddings(f"{world.folder}/memory")
    queries = read_queries(memory, True, 100, 0)
    assert len(set(queries.own_ids)) == 100
    places = np.flatnonzero(np.isin(world.ids, queries.own_ids))
    ids, keys = read_places(memory, places)
    order = np.argsort(queries.own_ids)
    np.testing.assert_array_equal(queries.own_ids[order], ids)
    np.testing.assert_array_equal(queries.keys[order], keys)
    for shard in world.index.glob("shard-*"):
        lists = Lists.from_table(schemas.read(str(shard / "measured.parquet"), Lists.COLUMNS))
        own = queries.own_ids[50:, None]
        assert not (lists.exact[0] == own).any() and not (lists.found[0] == own).any()


def test_val_without_rows_is_as_no_val(world: World):
    shutil.rmtree(world.folder / "queries" / "val")
    world.queries["val"], world.query_images["val"] = unit(0), []
    world.write_split("val")
    assert world.build("--config.index.max_queries=100") == 0
    recall = manifest(world)["recall"]
    assert (recall["queries"], recall["mean"]) == (50, 1.0)
    assert recall["of"] == "rows of the memory, each searched without itself"


def test_one_query_is_enough(world: World):
    assert world.build("--config.index.max_queries=1", *SCANN) == 0
    recall = manifest(world)["recall"]
    assert (recall["queries"], recall["tuning_queries"], recall["mean"]) == (1, 0, 1.0)


def test_memory_without_rows(tmp_path, capsys):
    world = World(tmp_path, rows=0).write()
    assert world.build() == 2
    assert "memory: holds no rows to index" in capsys.readouterr().err
    assert not world.index.exists()


def test_config_lies_beside_the_index(world: World):
    assert world.build("--config.index.k=4") == 0
    config = json.loads((world.index / "config.json").read_text())
    assert (config["index"]["k"], config["workdir"]) == (4, str(world.folder))


def test_shards_are_built_in_the_index_under_a_temporary_name(world: World, monkeypatch):
    seen = []
    measure = measurement.tune_and_measure

    def watched(*args):
        seen.extend(path.parent.name for path in world.index.glob("*.tmp-*/exact"))
        return measure(*args)

    monkeypatch.setattr(measurement, "tune_and_measure", watched)
    monkeypatch.setattr(tempfile, "TemporaryDirectory", lambda **_: pytest.fail("left behind where a build is killed"))
    assert world.build() == 0
    assert len(seen) == 3 and not list(world.index.glob("*.tmp-*"))


@pytest.mark.parametrize("flags", [[], SCANN], ids=["exact", "scann"])
def test_resumed_builds_do_only_what_is_missing(world: World, capsys, flags):
    assert world.build(*flags) == 0
    whole = snapshot(world.index)
    kept = world.index / "shard-00000-of-00003" / "rows.parquet"
    written = kept.stat().st_mtime_ns
    noted = (world.folder / "stages" / "index.json").read_text()
    capsys.readouterr()
    assert world.build(*flags) == 0
    assert "already built" in capsys.readouterr().out
    assert (world.folder / "stages" / "index.json").read_text() == noted

    (world.index / "manifest.json").unlink()
    (world.index / "_done" / "shard-00001-of-00003.json").unlink()
    (world.index / "shard-00002-of-00003" / "rows.parquet").unlink()
    (world.index / "shard-00000-of-00003.tmp-0123").mkdir()
    assert world.build(*flags) == 0
    assert "3, of which 1 were done before" in capsys.readouterr().out
    assert snapshot(world.index) == whole
    assert kept.stat().st_mtime_ns == written


def test_manifest_is_written_last(world: World, monkeypatch):
    def stopped(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(build_job, "finish", stopped)
    assert world.build() == 130
    assert len(list(world.index.glob("_done/*.json"))) == 3
    assert not (world.index / "manifest.json").exists()


def test_killed_build_goes_on_and_ends_with_the_same_bytes(tmp_path):
    world, again = World(tmp_path / "a", rows=6000).write(), World(tmp_path / "b", rows=6000).write()
    flags = ["--config.index.shards=12"]
    assert world.build(*flags) == 0
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-m", "index.build", *again.args(*flags)], env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(again.index.glob("_done/*.json")) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 <= len(list(again.index.glob("_done/*.json"))) < 12
    assert again.build(*flags) == 0
    assert snapshot(again.index) == snapshot(world.index)


def test_workers_in_processes_write_the_same_bytes(world: World, tmp_path):
    other = World(tmp_path / "other").write()
    assert world.build() == 0
    process = [*other.args("--direct_num_workers=2", "--direct_running_mode=multi_processing")]
    process.remove("--runner=FnApiRunner")
    assert build.main(process) == 0
    assert snapshot(other.index) == snapshot(world.index)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--direct_num_wrkers=2"], "unknown flag; did you mean '--direct_num_workers'?"),
        (["--config.index.searcher=scan"], "unknown; did you mean 'scann'"),
        (["--config.index.shards=401"], "index.shards=401: must be 1 to 400, the rows of the memory"),
        (["--config.index.shards=0"], "index.shards=0: must be 1 to 400"),
        (["--config.index.k=401"], "index.k=401: must be 1 to 400, the rows of the memory"),
        (["--config.index.k=0"], "index.k=0: must be 1 to 400"),
        (["--config.index.target_recall=1.5"], "target_recall=1.5: must be above 0 and at most 1"),
        (["--config.index.target_recall=0"], "target_recall=0.0: must be above 0 and at most 1"),
        (["--config.index.target_recall=nan"], "target_recall=nan: must be finite"),
        (["--config.train.learning_rates=0.1,inf"], "must be finite"),
        (["--config.index.leaves=-1"], "index.leaves=-1: must be at least 0"),
        (["--config.index.max_queries=0"], "index.max_queries=0: must be at least 1"),
        (["--config.seed=-1"], "seed=-1: must be at least 0"),
        (["--config.index.leafs=3"], "did you mean 'leaves'"),
    ],
)
def test_wrong_flags(world: World, capsys, flags, sentence):
    assert world.build(*flags) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.startswith("error: ") and error.count("\n") == 1
    assert not world.index.exists()


def test_queries_of_another_encoder(world: World, capsys):
    shutil.rmtree(world.folder / "queries" / "val")
    world.write_split("val", key=dataclasses.replace(KEY, fingerprint="other-encoder"))
    assert world.build() == 2
    assert "is an index from another encoder than the queries in" in capsys.readouterr().err


def test_other_config_in_the_same_folder(world: World, capsys):
    assert world.build() == 0
    before = snapshot(world.index)
    assert world.build("--config.index.k=6") == 2
    assert "belongs to another configuration, k was 5 and is now 6" in capsys.readouterr().err
    assert snapshot(world.index) == before


def test_memory_that_is_not_finished(world: World, capsys):
    pathlib.Path(world.folder / "memory" / "complete.json").unlink()
    assert world.build() == 2
    assert "is not finished; run pipelines.embed again" in capsys.readouterr().err


def test_worker_s_error_comes_out_as_its_sentence(world: World, capsys):
    path = world.folder / "memory" / "00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert world.build() == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "00001.parquet" in error


def test_memory_without_the_column(world: World, capsys):
    path = str(world.folder / "memory" / "00001.parquet")
    with schemas.open_parquet(path, ["id"]) as parquet:
        table = parquet.read()
        metadata = {k.decode(): v.decode() for k, v in parquet.schema_arrow.metadata.items()}
    schemas.write(path, table.drop_columns(["key"]), metadata)
    assert world.build() == 2
    assert "00001.parquet: has no column 'key'" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], SCANN], ids=["exact", "scann"])
def test_object_store(world: World, flags):
    memory = fsspec.filesystem("memory")
    root = f"/bucket-{'scann' if flags else 'exact'}"
    for path in world.folder.rglob("*"):
        if path.is_file():
            memory.pipe(f"{root}/{path.relative_to(world.folder)}", path.read_bytes())
    remote = [f"--config.workdir=memory:/{root}", *flags]
    assert world.build(*flags) == 0 and world.build(*remote) == 0
    assert world.neighbors(*flags) == 0 and world.neighbors(*remote) == 0
    for stage in ("index", "neighbors"):
        local = snapshot(world.folder / stage)
        there = {
            name.removeprefix(f"{root}/{stage}/"): hashlib.sha256(memory.cat(name)).hexdigest()
            for name in memory.find(f"{root}/{stage}")
        }
        assert {name: digest for name, digest in there.items() if name in local} == local
        assert not [name for name in there if ".tmp-" in name or "_parts" in name]
