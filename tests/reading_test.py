"""The snippets of docs/reading.md, on a small line of each type of vectors."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest

from model import train
from pipelines.schemas import EncoderInfo
from tests.docs_test import example
from tests.isolated import python_with
from tests.world import DIM, SPLITS, World, write_embeddings

_DATASETS = "datasets==5.2.0"
# Prints what a snippet found.
_TOLD = """
import json, sys
captions = {int(query): str(caption) for query, caption in captions.items()}
json.dump({"captions": captions, "vectors": vectors.astype("float32").tolist(), "rows": len(predictions)}, sys.stdout)
"""


@pytest.fixture(scope="module", params=["float32", "float16"])
def world(request, tmp_path_factory):
    """Returns a line up to predictions, whose workdir is out/demo in a folder."""
    key = EncoderInfo("key-encoder", DIM, True, request.param)
    world = World(tmp_path_factory.mktemp("reading") / "out/demo")
    write_embeddings(f"{world.folder}/memory", world.keys, world.images, key=key)
    for split in SPLITS:
        world.write_split(split, key=key)
    # One shard, since a query does not visit all of several.
    world.config_file.write_text(world.config_file.read_text().replace("shards=3", "shards=1"))
    assert world.build() == 0 and world.neighbors() == 0
    small = ("heads=linear", "seeds=0", "steps=2", "batch_size=10", "values=text")
    flags = (*small, "learning_rates=0.1", "weight_decays=0", "dropouts=0")
    assert train.main([f"--config={world.config_file}", *(f"--config.train.{flag}" for flag in flags)]) == 0
    _leave(world)
    world.keys = world.keys.astype(request.param).astype(np.float32)
    world.queries["test"] = world.queries["test"].astype(request.param).astype(np.float32)
    return world


def _leave(world):
    """Adds files that no list names: of a source shard that is gone, and of lists that are being computed."""
    shutil.copy(world.folder / "memory/00001.parquet", world.folder / "memory/00000-gone.parquet")
    versions = world.folder / "neighbors/versions"
    shutil.copytree(next(versions.iterdir()), versions / "0123456789abcdef")


def _check(world, captions, vectors, rows):
    assert rows == SPLITS["test"]
    assert np.array_equal(vectors, world.keys)
    half = SPLITS["test"] // 2
    ids = [*range(half), *((1 << 40) + row for row in range(SPLITS["test"] - half))]
    best = (world.queries["test"].astype(np.float64) @ world.keys.T.astype(np.float64)).argmax(1)
    assert captions == {query: f"row {row}" for query, row in zip(ids, best, strict=True)}


def _snippet(name):
    return example("docs/reading.md", "files") + example("docs/reading.md", name)


def _run(world, name, monkeypatch):
    monkeypatch.chdir(world.folder.parents[1])
    names: dict = {}
    exec(_snippet(name), names)
    return names


def test_pandas(world, monkeypatch):
    found = _run(world, "pandas", monkeypatch)
    _check(world, found["captions"].to_dict(), found["vectors"], len(found["predictions"]))


def test_polars(world, monkeypatch):
    found = _run(world, "polars", monkeypatch)
    captions = dict(found["captions"].iter_rows())
    _check(world, captions, found["vectors"], found["predictions"].collect().height)


def test_duckdb(world, monkeypatch):
    found = _run(world, "duckdb", monkeypatch)
    captions = dict(zip(found["captions"]["query_id"].tolist(), found["captions"]["caption"], strict=True))
    _check(world, captions, found["vectors"], found["duckdb"].sql("FROM predictions").shape[0])


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Returns a Python with `datasets`, which needs another dill than Beam."""
    return python_with(tmp_path_factory.mktemp("tools"), _DATASETS)


@pytest.mark.slow
def test_datasets(world, python, tmp_path):
    code = _snippet("datasets") + _TOLD
    env = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, "-c", code], cwd=world.folder.parents[1], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    captions = {int(query): caption for query, caption in told["captions"].items()}
    _check(world, captions, np.array(told["vectors"], np.float32), told["rows"])
