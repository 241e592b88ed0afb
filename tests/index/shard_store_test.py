import json
import pathlib
import shutil

import fsspec
import numpy as np
import pytest

from index.shard_store import Index
from pipelines import storage
from pipelines.errors import UserError
from tests.index.world import World, brute_force, unit

FLAGS = ["--config.index.shards=2", "--config.index.leaves=8"]


@pytest.fixture(scope="module", params=["exact", "scann"])
def built(request, tmp_path_factory) -> World:
    world = World(tmp_path_factory.mktemp(request.param)).write()
    assert world.build(f"--config.index.searcher={request.param}", *FLAGS) == 0
    return world


@pytest.fixture
def copied(built: World, tmp_path: pathlib.Path) -> pathlib.Path:
    """The index alone, in another place."""
    return pathlib.Path(shutil.copytree(built.index, tmp_path / "moved"))


def load_all(folder: pathlib.Path) -> None:
    index = Index(str(folder))
    for number in range(len(index.shards)):
        index.load(number)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """What an index needs once it is built."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.parent.name != "_done" and p.name != "config.json")


def flip(path: pathlib.Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    path.write_bytes(bytes(data))


def test_moved_folder_finds_the_same(built: World, copied: pathlib.Path):
    queries = unit(9, seed=5)
    for number in range(2):
        here, there = Index(str(built.index)).load(number), Index(str(copied)).load(number)
        for found, right in zip(there.search(queries, 4), here.search(queries, 4), strict=True):
            np.testing.assert_array_equal(found, right)
        own = world_rows(built, number)
        np.testing.assert_array_equal(there.ids, built.ids[own])
        rows, _ = brute_force(queries, built.keys[own], 4)
        assert (there.search(queries, 4)[0] == rows).mean() > 0.8


def world_rows(world: World, number: int) -> slice:
    return slice(number * len(world.keys) // 2, (number + 1) * len(world.keys) // 2)


def test_ids_of_padding_is_padding(copied: pathlib.Path):
    shard = Index(str(copied)).load(0)
    rows, _ = shard.search(unit(2), 250)
    assert shard.ids_of(rows)[:, -1].tolist() == [-1, -1]


def test_every_missing_file_is_named(copied: pathlib.Path):
    assert len(files(copied)) >= 8
    for path in files(copied):
        aside = path.rename(path.parent / "aside")
        with pytest.raises(UserError, match="index.build") as error:
            load_all(copied)
        assert "\n" not in str(error.value)
        assert path.name in str(error.value) or path.name in ("manifest.json", "stage.json")
        aside.rename(path)
    load_all(copied)


@pytest.mark.parametrize("place", [0.0, 0.4, 0.9])
def test_every_flipped_bit_is_found(copied: pathlib.Path, place: float):
    for path in files(copied):
        data = path.read_bytes()
        flip(path, place)
        with pytest.raises(UserError) as error:
            load_all(copied)
        assert "\n" not in str(error.value) and "again" in str(error.value)
        path.write_bytes(data)
    load_all(copied)


def test_every_truncated_file_is_found(copied: pathlib.Path):
    for path in files(copied):
        data = path.read_bytes()
        for kept in (0, len(data) // 2):
            path.write_bytes(data[:kept])
            with pytest.raises(UserError):
                load_all(copied)
        path.write_bytes(data)
    load_all(copied)


def test_number_changed_in_the_manifest(copied: pathlib.Path):
    facts = json.loads((copied / "manifest.json").read_text())
    facts["shards"][0]["parameters"]["leaves_to_search"] += 1
    (copied / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="manifest.json: is damaged"):
        Index(str(copied))


def test_shard_of_another_index(built: World, copied: pathlib.Path, tmp_path: pathlib.Path):
    name = "shard-00000-of-00002"
    other = World(tmp_path / "other").write()
    other.keys = unit(400, seed=9)
    kind = json.loads((copied / "manifest.json").read_text())["searcher"]
    assert other.build(f"--config.index.searcher={kind}", "--config.index.k=4", *FLAGS) == 0
    shutil.rmtree(copied / name)
    shutil.copytree(other.index / name, copied / name)
    with pytest.raises(UserError, match="is damaged; remove"):
        load_all(copied)
    shutil.copy(other.index / "manifest.json", copied / "manifest.json")
    with pytest.raises(UserError, match="belongs to another index"):
        Index(str(copied))


def test_index_on_an_object_store(built: World):
    target = fsspec.filesystem("memory")
    for path in files(built.index):
        target.pipe(f"/bucket/index/{path.relative_to(built.index)}", path.read_bytes())
    queries = unit(9, seed=5)
    shard = Index("memory://bucket/index").load(1)
    np.testing.assert_array_equal(shard.search(queries, 4)[0], Index(str(built.index)).load(1).search(queries, 4)[0])
    storage.remove("memory://bucket/index/shard-00001-of-00002/rows.parquet")
    with pytest.raises(UserError, match="rows.parquet"):
        Index("memory://bucket/index").load(1)
