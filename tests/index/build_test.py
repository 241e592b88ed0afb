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

from index import build
from index.building import claim, publication
from index.engines import scann_searcher
from index.measure import measurement
from index.measure.measurement import Queries
from index.store import shard_store
from index.store.reader import Index
from pipelines import schemas
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from tests import slow
from tests.world import KEY, REPOSITORY, World, snapshot, unit, without_rates

SCANN = ["--config.index.searcher=scann", "--config.index.leaves=12"]


@pytest.fixture(scope="module")
def pristine_built(pristine: World, tmp_path_factory) -> World:
    """A world with an index of three regions."""
    world = pristine.twin(tmp_path_factory.mktemp("built") / "world")
    assert world.build() == 0
    return world


@pytest.fixture
def built(pristine_built: World, tmp_path) -> World:
    return pristine_built.twin(tmp_path / "world")


def manifest(world: World) -> dict:
    return json.loads((world.index / "manifest.json").read_text())


def test_what_the_manifest_says(pristine_built: World):
    index, facts = Index.open(str(pristine_built.index)), manifest(pristine_built)
    memory = Embeddings(f"{pristine_built.folder}/memory")
    assert (index.key_encoder, index.memory_snapshot, index.version) == (KEY, memory.snapshot, 1)
    assert (facts["rows"], facts["base"], facts["regions"], facts["sharding"]) == (400, 1, 3, "routed")
    assert sum(shard["rows"] for shard in facts["shards"]) == 400
    assert set(facts["files"]) == {"builds/00001/queries.parquet", "builds/00001/router.parquet"}
    assert facts["memory"] == {"snapshot": memory.snapshot, "rows": 400, "shards": memory.shard_facts}
    assert not list(pristine_built.index.rglob("_parts"))


def test_exact_index_has_recall_one_on_half_of_val(world: World, capsys):
    assert world.build("--config.index.sharding=hash") == 0
    recall = manifest(world)["recall"]
    assert recall == {"k": 5, "mean": 1.0, "target": 0.95, "queries": 30, "tuning_queries": 30, "of": "the val split"}
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
    # All shards are searched with the parameters of the whole index, which has 40 leaves for each.
    assert sum(shard["plan"]["leaves"] for shard in facts["shards"]) == 120
    parameters = [[setting["parameters"] for setting in shard["settings"]] for shard in facts["shards"]]
    assert parameters[0] == parameters[1] == parameters[2] and 1 <= facts["search"]["leaves"] < 120
    output = capsys.readouterr().out
    assert "target 0.8 reached" in output and "tuned on 500 others" in output and " a shard" in output


@pytest.mark.parametrize("shards", slow.after(1, [3, 1]))
def test_jax_is_tuned_to_the_target_and_finds_what_exact_search_finds(shards, tmp_path):
    world = World(tmp_path, rows=3000)
    world.queries["val"] = unit(1000, seed=8)
    world.query_images["val"] = [bytes([i % 256]) * 32 for i in range(1000)]
    world.write()
    jax = ["--config.index.searcher=jax", "--config.index.leaves=40", f"--config.index.shards={shards}"]
    assert world.build(*jax, "--config.index.target_recall=0.8") == 0
    facts = manifest(world)
    assert 0.8 <= facts["recall"]["mean"] < 1
    assert {shard["searcher"] for shard in facts["shards"]} == {"jax"}
    queries = unit(400, seed=9)
    hits = Index.open(str(world.index)).search(queries, 5)
    right = np.argsort(-(queries @ unit(3000).T), axis=1)[:, :5]
    keys = Embeddings(f"{world.folder}/memory")
    rows = np.concatenate([keys.read(shard, ["id"])["id"].to_numpy() for shard in keys.shard_rows])
    assert np.mean([np.isin(found, rows[best]).mean() for found, best in zip(hits.ids, right, strict=True)]) > 0.75


def test_recall_below_the_target_is_said(world: World, capsys, monkeypatch):
    # Full search finds all, so a miss can only be played: the searcher loses its last row of every list.
    search = scann_searcher.ScannSearcher.search

    def forgetful(self, queries, k, more=0, **part):
        rows, scores = search(self, queries, k, more, **part)
        rows[:, 0], scores[:, 0] = -1, -np.inf
        return rows, scores

    monkeypatch.setattr(scann_searcher.ScannSearcher, "search", forgetful)
    assert world.build(*SCANN) == 0
    facts = manifest(world)
    assert facts["recall"]["mean"] < 0.95
    assert "target 0.95 NOT REACHED" in capsys.readouterr().out
    assert facts["search"] == max(facts["curve"], key=lambda point: point["cost"])


def test_without_val_rows_of_the_memory_are_searched_without_themselves(world: World, capsys):
    shutil.rmtree(world.folder / "queries" / "val")
    assert world.build("--config.index.max_queries=100", "--config.index.sharding=hash") == 0
    recall = manifest(world)["recall"]
    assert (recall["queries"], recall["mean"]) == (50, 1.0)
    assert recall["of"] == "rows of the memory, each searched without itself"
    queries = Queries.from_table(schemas.read(f"{world.index}/builds/00001/queries.parquet", Queries.COLUMNS))
    assert queries.of_memory and len(set(queries.own_ids)) == 100
    np.testing.assert_array_equal(queries.keys, world.keys[np.searchsorted(world.ids, queries.own_ids)])
    for record in Index.open(str(world.index)).shards:
        lists = shard_store.read_lists(str(world.index), record)
        own = queries.own_ids[:, None]
        assert not (lists.exact[0] == own).any()
        assert not (lists.found[0].ids == own[lists.found[0].queries]).any()


def test_val_without_rows_is_as_no_val(world: World):
    shutil.rmtree(world.folder / "queries" / "val")
    world.queries["val"], world.query_images["val"] = unit(0), []
    world.write_split("val")
    assert world.build("--config.index.max_queries=100", "--config.index.sharding=hash") == 0
    recall = manifest(world)["recall"]
    assert (recall["queries"], recall["mean"]) == (50, 1.0)
    assert recall["of"] == "rows of the memory, each searched without itself"


def test_one_query_is_enough(world: World):
    assert world.build("--config.index.max_queries=1", *SCANN) == 0
    recall = manifest(world)["recall"]
    assert (recall["queries"], recall["tuning_queries"]) == (1, 0)
    assert recall["mean"] >= 0.8


def test_memory_without_rows(tmp_path, capsys):
    world = World(tmp_path, rows=0).write()
    assert world.build() == 2
    assert "memory: has no rows to index" in capsys.readouterr().err
    assert not world.index.exists()


def test_config_lies_beside_the_index(world: World):
    assert world.build("--config.index.k=4") == 0
    config = json.loads((world.index / "config.json").read_text())
    assert (config["index"]["k"], config["workdir"]) == (4, str(world.folder))


def test_shards_are_built_in_the_index_under_a_temporary_name(world: World, monkeypatch):
    seen = []
    measure = measurement.measure_shard

    def watched(*args):
        seen.extend(path.parent.name for path in world.index.rglob("*.tmp-*/exact"))
        return measure(*args)

    monkeypatch.setattr(measurement, "measure_shard", watched)
    monkeypatch.setattr(tempfile, "TemporaryDirectory", lambda **_: pytest.fail("left behind where a build is killed"))
    assert world.build() == 0
    assert len(seen) == 3 and not list(world.index.rglob("*.tmp-*"))


@pytest.mark.parametrize("flags", [[], SCANN], ids=["exact", "scann"])
def test_resumed_builds_do_only_what_is_missing(world: World, capsys, flags):
    assert world.build(*flags) == 0
    whole = snapshot(world.index)
    build_folder = world.index / "builds/00001"
    kept = build_folder / "shard-00000-of-00003/rows.parquet"
    written = kept.stat().st_mtime_ns
    noted = (world.folder / "stages" / "index.json").read_text()
    capsys.readouterr()
    assert world.build(*flags) == 0
    assert "already built" in capsys.readouterr().out
    assert (world.folder / "stages" / "index.json").read_text() == noted

    (world.index / "manifest.json").unlink()
    (build_folder / "_done/shard-00001-of-00003.json").unlink()
    (build_folder / "shard-00002-of-00003/rows.parquet").unlink()
    (build_folder / "shard-00000-of-00003.tmp-0123").mkdir()
    assert world.build(*flags) == 0
    assert "3 (routed), 1 of them finished before" in capsys.readouterr().out
    assert snapshot(world.index) == whole
    assert kept.stat().st_mtime_ns == written


def test_manifest_is_written_last(world: World, monkeypatch):
    def stopped(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(publication, "publish", stopped)
    assert world.build() == 130
    assert len(list(world.index.glob("builds/00001/_done/*.json"))) == 3
    assert not (world.index / "manifest.json").exists()


def kill_when(again: World, flags: list[str], pattern: str) -> bool:
    """Starts a build, kills it once a file is there, and tells whether it was still running."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-m", "index.build", *again.args(*flags)], env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(again.index.glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)
    was_running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return was_running


POINTS = {
    "claimed": "builds/00001/stage.json",
    "queries drawn": "builds/00001/queries.parquet",
    "regions cut": "builds/00001/router.parquet",
    "dealing": "builds/00001/_parts/shard-*/*",
    "dealt": "builds/00001/_parts/_done/*.json",
    "building": "builds/00001/shard-*.tmp-*/exact",
    "first shard": "builds/00001/_done/*.json",
    "published": "manifest.json",
}


@pytest.mark.slow
def test_build_killed_anywhere_goes_on_and_ends_with_the_same_bytes(tmp_path):
    world = World(tmp_path / "a", rows=6000).write()
    flags = ["--config.index.shards=8"]
    assert world.build(*flags) == 0
    whole, killed = snapshot(world.index), 0
    for number, (point, pattern) in enumerate(POINTS.items()):
        again = World(tmp_path / f"b{number}", rows=6000).write()
        killed += kill_when(again, flags, pattern)
        assert again.build(*flags) == 0
        assert snapshot(again.index) == whole, point
        shutil.rmtree(again.folder)
    assert killed >= 5


@pytest.mark.slow
def test_build_that_fails_at_any_write_goes_on(world: World, monkeypatch):
    """Each rename that publishes a file or folder fails in turn; what is left behind is built upon."""
    assert world.build() == 0
    whole = snapshot(world.index)
    move, moves, allowed = os.replace, 0, 0

    def failing(source, target):
        nonlocal moves
        if str(world.index) in str(target):
            moves += 1
            if moves > allowed:
                raise UserError("stopped")
        move(source, target)

    code = 2
    while code:
        shutil.rmtree(world.index)
        moves = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing)
            code = world.build()
        assert (world.index / "manifest.json").exists() == (code == 0)
        assert world.build() == 0
        assert snapshot(world.index) == whole
        allowed += 1
    # Two identities, config, queries, cells, the digest of the drawn rows, three parts and their marker, three shards
    # of three tables and their markers, the manifest.
    assert allowed - 1 == 26


def test_memory_that_changed_is_left_to_reindexing(built: World, capsys):
    before = snapshot(built.index)
    other = World(built.folder.parent / "other")
    other.keys = unit(400, seed=77)
    other.write()
    shutil.rmtree(built.folder / "memory")
    shutil.copytree(other.folder / "memory", built.folder / "memory")
    assert built.build() == 2
    assert f"memory: has changed since {built.index} was built; run web-memory reindex" in capsys.readouterr().err
    assert snapshot(built.index) == before


def test_more_index_shards_than_memory_shards_are_read_for_the_regions(tmp_path, monkeypatch):
    world = World(tmp_path, rows=80).write(shards=20)
    monkeypatch.setattr(claim, "SAMPLED_SHARDS", 2)
    # Two shards of the memory have not rows enough for ten regions.
    assert world.build("--config.index.shards=10", "--config.index.k=1") == 0
    assert manifest(world)["rows"] == 80 and len(manifest(world)["shards"]) == 10


@pytest.mark.slow
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
        (["--config.index.shards=401"], "index.shards=401: must be at most 400, the rows of the memory"),
        (["--config.index.k=0"], "index.k=0: must be at least 1"),
        (["--config.index.target_recall=1.5"], "target_recall=1.5: must be above 0 and at most 1"),
        (["--config.index.target_recall=0"], "target_recall=0.0: must be above 0 and at most 1"),
        (["--config.index.target_recall=nan"], "target_recall=nan: must be finite"),
        (["--config.train.learning_rates=0.1,inf"], "must be finite"),
        (["--config.index.leaves=-1"], "index.leaves=-1: must be at least 0"),
        (["--config.index.max_queries=0"], "index.max_queries=0: must be at least 1"),
        (["--config.seed=-1"], "seed=-1: must be at least 0 and less than"),
        (["--config.index.leafs=3"], "did you mean 'leaves'"),
        (["--config.index.sharding=random"], "sharding=random: unknown; known are hash, routed"),
        (["--config.index.searcher=jax", "--config.index.reorder=int8"], "reorder=int8: the JAX searcher keeps"),
        (["--config.index.reorder_on=disk"], "reorder_on=disk: exact search holds all keys in memory; set"),
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


def test_other_config_in_the_same_folder(built: World, capsys):
    before = snapshot(built.index)
    assert built.build("--config.index.k=6") == 2
    assert "belongs to another configuration, k was 5 and is now 6" in capsys.readouterr().err
    assert built.build("--config.index.searcher=scann", "--config.index.reorder_on=disk") == 2
    assert "reorder_on was 'memory' and is now 'disk'" in capsys.readouterr().err
    assert snapshot(built.index) == before


def test_memory_that_is_not_finished(world: World, capsys):
    pathlib.Path(world.folder / "memory" / "complete.json").unlink()
    assert world.build() == 2
    assert "is not finished; run web-memory embed again" in capsys.readouterr().err


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
    assert "00001.parquet: is damaged or of another run" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], pytest.param(SCANN, marks=pytest.mark.slow)], ids=["exact", "scann"])
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
            name.removeprefix(f"{root}/{stage}/"): hashlib.sha256(
                without_rates(pathlib.Path(name).name, memory.cat(name))
            )
            for name in memory.find(f"{root}/{stage}")
        }
        there = {name: digest.hexdigest() for name, digest in there.items()}
        assert {name: digest for name, digest in there.items() if name in local} == local
        assert not [name for name in there if ".tmp-" in name or "_parts" in name]
