import json
import pathlib
import shutil
import tempfile

import fsspec
import numpy as np
import pytest

from index.store import shard_store
from index.store.reader import Index
from pipelines import manifest, storage
from pipelines.errors import UserError
from tests import slow
from tests.world import World, brute_force, everywhere, snapshot, unit, without_rates

FLAGS = ["--config.index.shards=2", "--config.index.leaves=8"]
FIRST = "builds/00001/shard-00000-of-00002"


@pytest.fixture(scope="module", params=slow.after(2, ["exact memory", "scann disk", "scann memory"]))
def built(request, tmp_path_factory) -> World:
    searcher, place = request.param.split()
    world = World(tmp_path_factory.mktemp(searcher)).write()
    assert world.build(f"--config.index.searcher={searcher}", f"--config.index.reorder_on={place}", *FLAGS) == 0
    return world


@pytest.fixture
def copied(built: World, tmp_path: pathlib.Path) -> pathlib.Path:
    """The index alone, in another place."""
    return pathlib.Path(shutil.copytree(built.index, tmp_path / "moved"))


def use_all(folder: pathlib.Path) -> None:
    """Reads all that searching and measuring an index read."""
    index = Index.open(str(folder))
    index.search(unit(3), 4)
    for number, record in enumerate(index.shards):
        index.load(number)
        shard_store.read_lists(str(folder), record)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns what is read of a finished index; what only builds read is `index.build`'s affair."""
    unread = ("config.json", "queries.parquet")
    found = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "_done"]
    return sorted(p for p in found if p.name not in unread and p != folder / "builds/00001/stage.json")


def flip(path: pathlib.Path, place: float) -> bytes:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    path.write_bytes(bytes(data))
    return bytes(data)


def is_harmless(before: bytes, after: bytes) -> bool:
    """Tells whether JSON files differ in nothing but blanks and what was timed, which no answer depends on."""
    try:
        return without_rates("manifest.json", before) == without_rates("manifest.json", after)
    except ValueError:
        return False


def refused(folder: pathlib.Path) -> str:
    with pytest.raises(UserError) as error:
        use_all(folder)
    sentence = str(error.value)
    assert "\n" not in sentence and ("again" in sentence or "run web-memory build" in sentence)
    return sentence


def test_moved_folder_finds_the_same(built: World, copied: pathlib.Path):
    queries = unit(9, seed=5)
    here, there = Index.open(str(built.index)), Index.open(str(copied))
    for left, right in zip(there.search(queries, 4).ids, here.search(queries, 4).ids, strict=True):
        np.testing.assert_array_equal(left, right)
    everywhere(there)
    rows, _ = brute_force(queries, built.keys, 4)
    found = there.search(queries, 4).ids
    assert np.mean([np.isin(a, b).mean() for a, b in zip(found, built.ids[rows], strict=True)]) > 0.8


def test_ids_of_padding_is_padding(copied: pathlib.Path):
    shard = Index.open(str(copied)).load(0)
    rows, scores = shard.search(unit(2), 350)
    assert len(shard.ids) < 350
    assert shard.ids_of(rows)[:, -1].tolist() == [-1, -1] and (scores[:, -1] == -np.inf).all()


def test_every_missing_file_is_named(copied: pathlib.Path):
    assert len(files(copied)) >= 11
    for path in files(copied):
        aside = path.rename(path.parent / "aside")
        sentence = refused(copied)
        assert path.name in sentence or path.name in ("manifest.json", "stage.json")
        aside.rename(path)
    use_all(copied)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.95, 1.0])
def test_every_flipped_bit_is_found(copied: pathlib.Path, place: float):
    for path in files(copied):
        data = path.read_bytes()
        if not is_harmless(data, flip(path, place)):
            assert path.name in refused(copied)
        path.write_bytes(data)
    use_all(copied)


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_every_truncated_file_is_found(copied: pathlib.Path, kept: float):
    for path in files(copied):
        data = path.read_bytes()
        cut = data[: int(kept * (len(data) - 1))]
        path.write_bytes(cut)
        if not is_harmless(data, cut):
            assert path.name in refused(copied)
        path.write_bytes(data)
    use_all(copied)


def test_number_changed_in_the_manifest(copied: pathlib.Path):
    facts = json.loads((copied / "manifest.json").read_text())
    facts["shards"][0]["settings"][0]["parameters"]["leaves_to_search"] += 1
    (copied / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="manifest.json: is damaged"):
        Index.open(str(copied))


@pytest.fixture(scope="module")
def others(built: World, tmp_path_factory) -> list[pathlib.Path]:
    """An index of other rows with the same config, and one of the same rows with another."""
    kind = json.loads((built.index / "manifest.json").read_text())["shards"][0]["searcher"]
    rows, config = (World(tmp_path_factory.mktemp("other")) for _ in range(2))
    rows.keys = unit(400, seed=9)
    assert rows.write().build(f"--config.index.searcher={kind}", *FLAGS) == 0
    assert config.write().build(f"--config.index.searcher={kind}", "--config.index.k=4", *FLAGS) == 0
    return [rows.index, config.index]


def test_every_file_of_another_index_is_refused(others, copied: pathlib.Path):
    taken = 0
    for other in others:
        for path in files(copied):
            data, theirs = path.read_bytes(), other / path.relative_to(copied)
            if theirs.exists() and theirs.read_bytes() != data:
                shutil.copy(theirs, path)
                refused(copied)
                path.write_bytes(data)
                taken += 1
    assert taken >= 12
    use_all(copied)


def test_whole_shard_of_another_index(others, copied: pathlib.Path):
    shutil.rmtree(copied / FIRST)
    shutil.copytree(others[0] / FIRST, copied / FIRST)
    assert "is damaged; remove it and run web-memory build again" in refused(copied)


@pytest.mark.parametrize("file", ["router.parquet", "queries.parquet", "shard-00001-of-00002/rows.parquet"])
def test_index_build_mends_what_is_removed(built: World, file: str, capsys):
    whole = snapshot(built.index)
    shard = json.loads((built.index / "manifest.json").read_text())["shards"][0]
    place = shard["plan"]["reorder_on"]
    flags = [f"--config.index.searcher={shard['searcher']}", f"--config.index.reorder_on={place}", *FLAGS]
    path = built.index / "builds/00001" / file
    if file == "queries.parquet":
        flip(path, 0.5)
        assert built.build(*flags) == 2
        assert f"{path}: is damaged; remove it and run web-memory build again" in capsys.readouterr().err
    path.unlink()
    assert built.build(*flags) == 0
    assert snapshot(built.index) == whole


def test_marker_that_is_broken_or_of_another_build(built: World, tmp_path):
    build = str(shutil.copytree(built.index / "builds/00001", tmp_path / "build"))
    name = "shard-00000-of-00002"
    path = pathlib.Path(shard_store.marker_path(build, name))
    marker = json.loads(path.read_text())
    build_hash = marker["shard"]["build_hash"]
    record, secs = shard_store.read_marker(build, name, build_hash)
    assert record == Index.open(str(built.index)).shards[0] and set(secs) == {"build", "tune", "exact", "search"}
    with pytest.raises(UserError, match="belongs to another index; remove it and run web-memory build again"):
        shard_store.read_marker(build, name, "another")
    for broken in ({}, [], {"shard": {}, "secs": {}}, {**marker, "shard": {**marker["shard"], "more": 1}}):
        storage.write_json(str(path), broken)
        with pytest.raises(UserError, match=r"of-00002.json: is .+; remove it and run web-memory build again"):
            shard_store.read_marker(build, name, build_hash)
    assert shard_store.read_marker(build, "shard-00009-of-00002", build_hash) is None


def test_index_on_an_object_store(built: World):
    target = fsspec.filesystem("memory")
    for path in files(built.index):
        target.pipe(f"/bucket/index/{path.relative_to(built.index)}", path.read_bytes())
    queries = unit(9, seed=5)
    found = Index.open("memory://bucket/index").search(queries, 4)
    np.testing.assert_array_equal(found.ids, Index.open(str(built.index)).search(queries, 4).ids)
    storage.remove(f"memory://bucket/index/{FIRST}/rows.parquet")
    with pytest.raises(UserError, match="rows.parquet"):
        Index.open("memory://bucket/index").load(0)


@pytest.mark.parametrize("name", ["exact/../../../../out", "/out", "exact\\..\\out", "memory://out", "../out"])
def test_an_index_at_a_url_writes_nothing_outside(built: World, tmp_path, monkeypatch, name):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "deep" / "er"))
    (tmp_path / "deep" / "er").mkdir(parents=True)
    target = fsspec.filesystem("memory")
    for path in files(built.index):
        target.pipe(f"/evil/index/{path.relative_to(built.index)}", path.read_bytes())
    facts = json.loads((built.index / "manifest.json").read_text())
    known = facts["shards"][0]["files"]
    known[name] = known.pop("exact/keys.npy") if "exact/keys.npy" in known else next(iter(known.values()))
    contents = {field: value for field, value in facts.items() if field not in ("fingerprint", "rates")}
    facts["fingerprint"] = manifest.fingerprint(contents)
    target.pipe("/evil/index/manifest.json", json.dumps(facts).encode())
    with pytest.raises(UserError, match="which is not in that folder"):
        Index.open("memory://evil/index").search(unit(9, seed=5), 4)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
