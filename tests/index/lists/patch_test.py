"""An index that is updated: patched lists are those of a job in an empty folder, byte for byte."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pytest

from index.engines.exact import ExactSearcher
from index.engines.planner import NO_TREE
from index.lists import claim, neighbor_job
from index.lists.patch import is_successor
from index.store import index_manifest, shard_store
from index.store.lookup import Lookup
from index.store.reader import TOMBSTONES_FILE, Index
from index.store.records import ShardRecord
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings, Neighbors
from tests import slow
from tests.world import SPLITS, World, brute_force, snapshot, unit, write_embeddings

K = 7
SHARDS = 6


class Living(World):
    """A memory of six shards, of which some are there, without rows that are removed; its index follows."""

    def write(self, shards: int = 3) -> "Living":
        write_embeddings(f"{self.folder}/memory", self.keys, self.images, shards=SHARDS)
        complete = storage.read_json(f"{self.folder}/memory/complete.json")
        self.markers = manifest.read_markers(f"{self.folder}/memory", complete["config_hash"])
        for split in SPLITS:
            self.write_split(split)
        self.shards, self.gone = shards, np.empty(0, np.int64)
        self.complete()
        return self

    @property
    def ids(self) -> np.ndarray:
        bounds = [s * len(self.keys) // SHARDS for s in range(SHARDS + 1)]
        return np.concatenate([schemas.make_id(s, np.arange(bounds[s + 1] - bounds[s])) for s in range(SHARDS)])

    @property
    def live(self) -> np.ndarray:
        """Rows, in the global order, that can be found."""
        return (schemas.split_ids(self.ids)[0] < self.shards) & ~np.isin(self.ids, self.gone)

    def complete(self) -> None:
        folder, drops = f"{self.folder}/memory", {}
        there = [marker for marker in self.markers.values() if marker.number < self.shards]
        for marker in there:
            ids = self.gone[schemas.split_ids(self.gone)[0] == marker.number]
            if len(ids):
                path = f"{folder}/{manifest.DROPPED}/{marker.name}.parquet"
                schemas.write(path, pa.table({"id": pa.array(ids)}), {"config_hash": marker.config_hash})
                drops[marker.name] = manifest.Drops(len(ids), storage.sha256(path))
        manifest.complete(folder, there, there[0].config_hash, drops)

    def update(self, shards: int, removed: np.ndarray, deltas: int = 1) -> None:
        """Lets the memory grow to so many shards, takes rows away, and publishes the next version of the index."""
        index, old = Index.open(str(self.index)), self.live
        self.shards, self.gone = shards, np.union1d(self.gone, removed)
        self.complete()
        number = index.version + 1
        build, build_hash = storage.join(str(self.index), shard_store.build_path(number)), f"{number:016d}"
        lists = shard_store.read_lists(str(self.index), index.shards[0])
        records = [dataclasses.asdict(record) for record in index.shards]
        for delta, rows in enumerate(np.array_split(np.flatnonzero(self.live & ~old), max(deltas, 1))[:deltas]):
            name = f"shard-{delta:05d}-of-{deltas:05d}"
            with shard_store.new_shard(build, name) as local:
                pathlib.Path(local, "exact").mkdir()
                ExactSearcher(self.keys[rows]).save(f"{local}/exact")
                images = np.array(self.images, "S32")[rows]
                shard_store.write_contents(local, self.ids[rows], images, lists, build_hash)
                files = shard_store.digests(local)
            path = storage.join(shard_store.build_path(number), name)
            settings = index.shards[0].settings
            record = ShardRecord(path, len(rows), files, build_hash, "exact", NO_TREE, settings, True)
            records.append(dataclasses.asdict(record))
        facts = {name: value for name, value in index.facts.items() if name not in ("fingerprint", "rates")}
        files = {path: known for path, known in facts["files"].items() if storage.name(path) != TOMBSTONES_FILE}
        if len(self.gone):
            path = storage.join(shard_store.build_path(number), TOMBSTONES_FILE)
            schemas.write(storage.join(str(self.index), path), self._tombstones(index), {"config_hash": build_hash})
            files[path] = shard_store.file_facts(storage.join(str(self.index), path))
        memory = {**facts["memory"], "snapshot": Embeddings(f"{self.folder}/memory").snapshot}
        facts |= {"version": number, "shards": records, "files": files, "memory": memory}
        index_manifest.write(str(self.index), facts, {})

    def _tombstones(self, index: Index) -> pa.Table:
        tables = []
        for record in index.shards:
            ids, images = shard_store.read_names(index.folder, record)
            rows = np.flatnonzero(np.isin(ids, self.gone))
            names = {"shard": pa.array([record.path] * len(rows), pa.string()), "row": rows, "id": ids[rows]}
            digests = pa.array([image.ljust(32, b"\0") for image in images[rows].tolist()], pa.binary(32))
            tables.append(pa.table({**names, "content_key": digests}))
        return pa.concat_tables(tables)

    def lists(self) -> Neighbors:
        return Neighbors.open(f"{self.folder}/neighbors")

    def from_scratch(self, *flags: str) -> dict[str, str]:
        """Returns what a job in an empty folder makes."""
        folder = self.folder / "neighbors"
        folder.rename(self.folder / "aside")
        assert self.neighbors(*flags) == 0
        found = snapshot(folder)
        shutil.rmtree(folder)
        (self.folder / "aside").rename(folder)
        return found


def check_brute_force(world: Living, flags: tuple[str, ...] = ()) -> None:
    opened, excludes = world.lists(), "--config.neighbors.exclude_same_image=false" not in flags
    rows, images = np.flatnonzero(world.live), np.array(world.images, "S32")
    for split in SPLITS:
        table = opened.split(split)
        ids, own = schemas.to_matrix(table["neighbor_ids"]), np.array(world.query_images[split], "S32")
        for query in range(len(own)):
            same = images[rows] == own[query] if excludes else np.zeros(len(rows), bool)
            right, scores = brute_force(world.queries[split][query : query + 1], world.keys[rows[~same]], K)
            found = ids[query][: right.shape[1]]
            np.testing.assert_array_equal(found, world.ids[rows[~same]][right[0]])
            assert table["num_excluded"][query].as_py() == same.sum()
            assert table["num_valid"][query].as_py() == right.shape[1]
    named = np.unique(np.concatenate([schemas.to_matrix(opened.split(s)["neighbor_ids"]).ravel() for s in SPLITS]))
    np.testing.assert_array_equal(opened.memory(["id"])["id"].to_numpy(), named[named >= 0])


def with_copies(folder: pathlib.Path, seed: int, rows: int = 240) -> Living:
    """Returns a world with ties and with queries' own images all over the memory."""
    world, rng = Living(folder, rows), np.random.default_rng(seed)
    world.keys = unit(rows, seed=seed)
    tied = rng.choice(rows, 20, replace=False)
    world.keys[tied] = world.keys[tied[0]]
    for split, queries in world.queries.items():
        queries[:3] = world.keys[tied[0]]
        for query in range(3, 15):
            for place in rng.choice(rows, rng.integers(1, 4), replace=False):
                world.images[place] = world.query_images[split][query]
                world.keys[place] = queries[query]
    return world.write()


@pytest.fixture(scope="module")
def pristine_copies(tmp_path_factory) -> Living:
    """A world with copies, its index, and its lists."""
    world = with_copies(tmp_path_factory.mktemp("copies") / "world", 3)
    assert world.build("--config.index.sharding=hash") == 0 and world.neighbors() == 0
    return world


@pytest.fixture
def copies(pristine_copies: Living, tmp_path) -> Living:
    return pristine_copies.twin(tmp_path / "world")


@pytest.mark.parametrize(
    ("seed", "sharding", "shards", "sizes"),
    slow.after(
        1,
        [
            (1, "routed", 4, (4, 4)),
            (1, "routed", 4, (4, 4, 6)),
            (0, "hash", 2, (4, 4, 6)),
            *((seed, "routed", 1 + seed, (4, 4, 6)) for seed in range(2, 8)),
        ],
    ),
)
def test_patched_lists_are_those_of_an_empty_folder(tmp_path, monkeypatch, seed, sharding, shards, sizes):
    monkeypatch.setattr(claim, "GROUP_ROWS", 32)
    world, rng = with_copies(tmp_path, seed), np.random.default_rng(seed)
    flags = f"--config.index.sharding={sharding}", f"--config.index.shards={shards}"
    assert world.build(*flags) == 0 and world.neighbors() == 0
    searched = []
    search = Lookup.search
    monkeypatch.setattr(
        Lookup, "search", lambda self, q, *rest, **part: searched.append(len(q)) or search(self, q, *rest, **part)
    )
    for size in sizes:
        live = world.ids[world.live]
        removed = rng.choice(live, int(rng.integers(0, 8)), replace=False)
        world.update(size, removed, deltas=int(rng.integers(1, 3)) if size > world.shards else 0)
        searched.clear()
        assert world.neighbors() == 0
        patched, cost = snapshot(world.folder / "neighbors"), sum(searched)
        searched.clear()
        assert patched == world.from_scratch()
        assert cost < sum(searched)
        if sharding == "hash" or shards == 1:
            check_brute_force(world)


def test_unchanged_lists_are_searched_in_new_shards_only(tmp_path, monkeypatch):
    world = Living(tmp_path).write()
    assert world.build("--config.index.sharding=hash") == 0 and world.neighbors() == 0
    lost = schemas.to_matrix(world.lists().split("val")["neighbor_ids"])[5, 2]
    queries = sum(
        (schemas.to_matrix(world.lists().split(split)["neighbor_ids"]) == lost).any(axis=1).sum() for split in SPLITS
    )
    world.update(4, np.array([lost]))
    searched = []
    search = Lookup.search
    monkeypatch.setattr(
        Lookup, "search", lambda self, q, *rest, **part: searched.append(len(q)) or search(self, q, *rest, **part)
    )
    assert world.neighbors() == 0
    # Every query in the delta; those that had named the row in the three shards, too.
    assert sum(searched) == sum(SPLITS.values()) + 3 * queries
    check_brute_force(world)


@pytest.mark.parametrize(
    "step", slow.after(1, ["MergeGroup.write_block", "Route.process", "SearchShard.search", "GatherRows.gather"])
)
def test_stopped_patch_leaves_the_lists_before(copies, monkeypatch, step):
    before, folder = copies.lists(), copies.folder / "neighbors"
    train = before.split("train")
    copies.update(5, copies.ids[copies.live][::9])
    name, method = step.split(".")
    owner, calls = getattr(neighbor_job, name), []
    original = getattr(owner, method)

    def stopped(self, *args):
        calls.append(1)
        if len(calls) > 1:
            raise UserError("stopped here")
        return original(self, *args)

    monkeypatch.setattr(owner, method, stopped)
    assert copies.neighbors() == 2
    assert copies.lists() == before and copies.lists().split("train").equals(train)
    monkeypatch.undo()
    assert copies.neighbors() == 0
    assert snapshot(folder) == copies.from_scratch() and len(list((folder / "versions").iterdir())) == 1
    check_brute_force(copies)


@pytest.mark.slow
def test_stopped_between_the_two_last_files(copies, monkeypatch):
    copies.update(4, copies.ids[copies.live][::20])
    write, folder = storage.write_json, copies.folder / "neighbors"

    def stopped(uri, value):
        if uri == f"{folder}/complete.json":
            raise UserError("stopped here")
        write(uri, value)

    monkeypatch.setattr(storage, "write_json", stopped)
    assert copies.neighbors() == 2
    with pytest.raises(UserError, match="another configuration than stage.json; run web-memory neighbors again"):
        copies.lists()
    monkeypatch.undo()
    assert copies.neighbors() == 0 and snapshot(folder) == copies.from_scratch()


@pytest.mark.slow
def test_two_updates_and_a_stopped_patch_between(copies, monkeypatch):
    copies.update(4, copies.ids[copies.live][::11])
    monkeypatch.setattr(neighbor_job.MergeGroup, "merge", lambda *_: (_ for _ in ()).throw(UserError("stopped")))
    assert copies.neighbors() == 2
    monkeypatch.undo()
    copies.update(5, copies.ids[copies.live][::13])
    assert copies.neighbors() == 0 and snapshot(copies.folder / "neighbors") == copies.from_scratch()
    check_brute_force(copies)


def test_purged_tombstones_cost_searches_only(copies):
    shutil.rmtree(copies.folder / "neighbors")
    copies.update(3, copies.ids[copies.live][::7], deltas=0)
    assert copies.neighbors() == 0
    copies.update(4, copies.ids[copies.live][::11])
    (copies.index / "builds" / "00002" / TOMBSTONES_FILE).unlink()
    assert copies.neighbors() == 0 and snapshot(copies.folder / "neighbors") == copies.from_scratch()


def test_only_a_successor_is_patched(tmp_path):
    world = Living(tmp_path).write()
    assert world.build() == 0
    old = Index.open(str(world.index)).facts
    world.update(4, world.ids[:3])
    new = Index.open(str(world.index)).facts
    assert is_successor(new, old) and not is_successor(old, new)
    changes = {
        "base": 2,
        "regions": 2,
        "search": {**new["search"], "leaves": new["search"]["leaves"] + 1},
        "shards": new["shards"][1:],
        "files": {f"builds/00009/{storage.name(path)}": known for path, known in new["files"].items()},
    }
    assert not any(is_successor({**new, name: value}, old) for name, value in changes.items())
    assert not is_successor({**new, "search": {**new["search"], "level": new["search"]["level"] + 0.1}}, old)


@pytest.mark.slow
def test_another_point_of_the_curve_is_looked_up_from_scratch(copies):
    copies.update(4, copies.ids[copies.live][:4])
    facts = {n: v for n, v in index_manifest.read(str(copies.index)).items() if n not in ("fingerprint", "rates")}
    index_manifest.write(str(copies.index), facts | {"base": 2}, {})
    assert copies.neighbors() == 0 and snapshot(copies.folder / "neighbors") == copies.from_scratch()
    check_brute_force(copies)


def test_version_that_is_planned_is_searched(copies, monkeypatch, capsys):
    right = snapshot(copies.folder / "neighbors")
    shutil.rmtree(copies.folder / "neighbors")
    published, route = [], neighbor_job.Route.route

    def updated(self, group):
        if not published:
            facts = index_manifest.read(str(copies.index))
            published.append({n: v for n, v in facts.items() if n not in ("fingerprint", "rates")})
            index_manifest.write(str(copies.index), published[0] | {"version": 2}, {})
        return route(self, group)

    monkeypatch.setattr(neighbor_job.Route, "route", updated)
    assert copies.neighbors() == 0
    assert snapshot(copies.folder / "neighbors") == right
    shutil.rmtree(copies.folder / "neighbors")
    monkeypatch.setattr(neighbor_job.Route, "route", lambda self, group: vanish() or route(self, group))

    def vanish() -> None:
        index_manifest.write(str(copies.index), published[0] | {"version": 3}, {})
        shutil.rmtree(copies.index / "builds", ignore_errors=True)

    capsys.readouterr()
    assert copies.neighbors() == 2
    assert "was updated while neighbours were looked up; run web-memory neighbors again" in capsys.readouterr().err


def test_memory_that_changes_under_the_job_is_refused(copies, monkeypatch, capsys):
    shutil.rmtree(copies.folder / "neighbors")
    merge = neighbor_job.MergeGroup.merge

    def changed(self, group, shards):
        copies.shards = 5
        copies.complete()
        return merge(self, group, shards)

    monkeypatch.setattr(neighbor_job.MergeGroup, "merge", changed)
    assert copies.neighbors() == 2
    assert "has changed while its neighbours were looked up; run web-memory neighbors again" in capsys.readouterr().err
    assert not (copies.folder / "neighbors" / "complete.json").exists()


def test_damaged_lists_are_not_patched(copies, capsys):
    version = next((copies.folder / "neighbors" / "versions").iterdir())
    shutil.copy(version / "train-00001.parquet", version / "train-00000.parquet")
    copies.update(4, copies.ids[:2])
    assert copies.neighbors() == 2
    assert "train-00000.parquet: is damaged or of another run; remove it" in capsys.readouterr().err
    (version / "train-00000.parquet").unlink()
    assert copies.neighbors() == 0 and snapshot(copies.folder / "neighbors") == copies.from_scratch()
