"""Vectors and neighbour lists for other tools, read by NumPy, PyArrow and our own source."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs.base import Embed, Source
from pipelines import sources
from tests.world import DIM, SPLITS, ChangingMemory, World, brute_force
from workflow import arrays


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("arrays")).write()
    # One shard, since a query does not visit all of several.
    world.config_file.write_text(world.config_file.read_text().replace("shards=3", "shards=1"))
    assert world.build() == 0 and world.neighbors() == 0
    return world


def _write(world, output, what=""):
    flags = [f"--output={output}", *([f"--what={what}"] if what else [])]
    return arrays.main([f"--config={world.config_file}", *flags])


def _digests(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_vectors_are_in_the_layout_of_clip_retrieval(world, tmp_path, capsys):
    assert _write(world, tmp_path / "out") == 0
    memory = tmp_path / "out/memory"
    keys = [np.load(memory / f"img_emb/img_emb_000{shard}.npy") for shard in range(3)]
    assert keys[0].dtype == np.float32 and np.array_equal(np.concatenate(keys), world.keys)
    texts = np.concatenate([np.load(memory / f"text_emb/text_emb_000{shard}.npy") for shard in range(3)])
    assert np.array_equal(texts, np.repeat(np.arange(400), 3).reshape(400, 3))
    tables = [pq.read_table(memory / f"metadata/metadata_000{shard}.parquet").to_pydict() for shard in range(3)]
    assert sum((table["caption"] for table in tables), []) == [f"row {row}" for row in range(400)]
    assert sum((table["image_path"] for table in tables), []) == [f"{row}.jpg" for row in range(400)]
    assert sum((table["id"] for table in tables), []) == world.ids.tolist()
    assert tables[0]["sha256"][5] == world.images[5].hex() and tables[0]["label"][:6] == [0, 1, 2, 3, 4, 0]
    for split, rows in SPLITS.items():
        keys = [np.load(path) for path in sorted((tmp_path / "out" / split / "img_emb").iterdir())]
        assert (
            len(keys) == 2
            and np.array_equal(np.concatenate(keys), world.queries[split])
            and rows == sum(map(len, keys))
        )
    said = capsys.readouterr().out
    assert "400 rows, key in img_emb, value_text in text_emb" in said and "163 lists of 7" in said


def test_lists_are_those_of_brute_force(world, tmp_path):
    assert _write(world, tmp_path / "out", "neighbors") == 0
    for split in SPLITS:
        folder = tmp_path / "out/neighbors" / split
        ids, scores = np.load(folder / "ids.npy"), np.load(folder / "scores.npy")
        wanted = brute_force(world.queries[split], world.keys, 7)[1]
        assert (ids.dtype, scores.dtype) == (np.int64, np.float32)
        np.testing.assert_allclose(scores, wanted, rtol=1e-5)
        keys = world.keys[np.searchsorted(world.ids, ids)]
        np.testing.assert_allclose(np.einsum("nd,nkd->nk", world.queries[split], keys), scores, rtol=1e-5)
        assert all(len(set(row)) == 7 and set(row) <= set(world.ids) for row in ids.tolist())
        queries = pq.read_table(folder / "queries.parquet").to_pydict()
        half = SPLITS[split] // 2
        assert queries["image_path"] == [f"{row}.jpg" for row in range(SPLITS[split])]
        assert queries["label"] == [row % 5 for row in range(SPLITS[split])]
        assert queries["id"][:2] == [0, 1] and queries["id"][half] == 1 << 40


def test_a_list_that_is_too_short_ends_in_minus_one(tmp_path):
    world = World(tmp_path / "world", rows=7)
    world.query_images["test"][4] = world.images[2]
    world.write(shards=1)
    world.config_file.write_text(world.config_file.read_text().replace("shards=3, k=5", "shards=1, k=2"))
    assert world.build() == 0 and world.neighbors() == 0 and _write(world, tmp_path / "out", "neighbors") == 0
    ids, scores = (np.load(tmp_path / f"out/neighbors/test/{name}.npy") for name in ("ids", "scores"))
    assert ids.shape == scores.shape == (33, 7)
    assert sorted(ids[4].tolist()) == [-1, 0, 1, 3, 4, 5, 6] and (ids[4, 6], scores[4, 6]) == (-1, -np.inf)
    assert (np.sort(np.delete(ids, 4, 0)) == np.arange(7)).all() and np.isfinite(np.delete(scores, 4, 0)).all()


def test_our_own_source_reads_the_same_vectors_back(world, tmp_path):
    assert _write(world, tmp_path / "out", "memory") == 0
    shards = sources.plan(Source("vectors", "img_emb/*.npy"), str(tmp_path / "out/memory"), Embed(), "")
    zero, *found = [sample for shard in shards for sample in sources.read(shard, Embed())]
    # The texts of the first row are zero.
    assert zero.error_type == "BadVector"
    assert np.array_equal([sample.vectors["key"] for sample in found], world.keys[1:])
    assert [sample.vectors["value_text"].tolist() for sample in found] == [[row] * 3 for row in range(1, 400)]
    assert [sample.caption for sample in found] == [f"row {row}" for row in range(1, 400)]
    assert [sample.label for sample in found] == [row % 5 for row in range(1, 400)]
    assert [sample.metadata["sha256"] for sample in found] == [image.hex() for image in world.images[1:]]


def test_dropped_rows_and_empty_shards_are_left_out(world, tmp_path):
    memory = ChangingMemory(f"{tmp_path}/memory")
    for number, rows in ((0, 6), (1, 4), (12345, 5)):
        memory.put(number, rows)
    memory.dropped |= {2, *memory.ids(1).tolist()}
    memory.finish()
    argv = [
        f"--config={world.config_file}",
        f"--config.workdir={tmp_path}",
        f"--output={tmp_path}/out",
        "--what=memory",
    ]
    assert arrays.main(argv) == 0
    files = sorted(path.name for path in (tmp_path / "out/memory/img_emb").iterdir())
    assert files == ["img_emb_00000.npy", "img_emb_12345.npy"]
    keys = np.concatenate([np.load(tmp_path / "out/memory/img_emb" / file) for file in files])
    assert keys.shape == (10, DIM) and np.array_equal(keys, memory.live[1])


def test_what_a_killed_command_left_is_finished_to_the_same_bytes(world, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert _write(world, whole, "memory,neighbors") == 0 and _write(world, resumed, "memory,neighbors") == 0
    (resumed / "memory/complete.json").unlink()
    (resumed / "memory/_done/0001.json").unlink()
    (resumed / "memory/text_emb/text_emb_0001.npy").unlink()
    (resumed / "memory/metadata/metadata_0002.parquet").unlink()
    (resumed / "memory/img_emb/img_emb_0002.npy.tmp-1").write_bytes(b"cut short")
    (resumed / "neighbors/val/ids.npy").write_bytes(b"cut short")
    kept = (resumed / "memory/img_emb/img_emb_0000.npy").stat().st_mtime_ns
    assert _write(world, resumed, "memory,neighbors") == 0
    assert (resumed / "memory/img_emb/img_emb_0000.npy").stat().st_mtime_ns == kept
    assert _digests(resumed) == _digests(whole)
    parts = json.loads((whole / "memory/complete.json").read_text())["parts"]
    for name, part in parts.items():
        assert (
            part["files"][f"img_emb/img_emb_{name}.npy"]["sha256"]
            == _digests(whole)[f"memory/img_emb/img_emb_{name}.npy"]
        )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "--output is missing: name the folder to write"),
        (["--output=x", "--what=memroy"], "--what=memroy: memroy is unknown; did you mean 'memory'?"),
        (["--output=x", "--config.workdir=nowhere"], "nowhere/memory"),
    ],
)
def test_mistakes(world, capsys, monkeypatch, tmp_path, flags, sentence):
    monkeypatch.chdir(tmp_path)
    assert arrays.main([f"--config={world.config_file}", *flags]) == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused(world, tmp_path, capsys):
    other = World(tmp_path / "other", rows=50).write()
    assert _write(world, tmp_path / "out", "memory") == 0 and _write(other, tmp_path / "out", "memory") == 2
    assert "remove the folder" in capsys.readouterr().err


def test_lists_of_other_queries_are_refused(world, tmp_path, capsys):
    copy = world.copy(tmp_path / "copy", "queries")
    for split in SPLITS:
        copy.queries[split] = copy.queries[split][::-1] if split == "val" else copy.queries[split]
        copy.write_split(split)
    assert _write(copy, tmp_path / "out", "neighbors") == 2
    assert "has no lists of val as it is; run web-memory neighbors again" in capsys.readouterr().err
