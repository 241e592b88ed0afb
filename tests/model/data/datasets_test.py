"""The task that is loaded from the folders of earlier stages, and what is refused."""

import dataclasses

import numpy as np
import pytest

from model.data import datasets
from model.data.datasets import Task
from pipelines import manifest, options, storage
from pipelines.errors import UserError
from tests.world import KEY, SPLITS, World, unit


def _load(world: World, k: int = 0) -> Task:
    flags = ("--config.train.values=text", f"--config.train.k={k}")
    config = options.parse([f"--config={world.config_file}", *flags], "")[0]
    return datasets.load(config.places, config.train)


def test_lists_of_other_queries_are_refused(looked_up, tmp_path):
    world = looked_up.copy(tmp_path, "queries")
    world.queries["val"] = world.queries["val"][::-1].copy()
    for split in SPLITS:
        world.write_split(split)
    with pytest.raises(UserError, match="was made from other queries than .*/queries/val holds now"):
        _load(world)


def test_lists_of_another_encoder_are_refused(looked_up, tmp_path):
    world = looked_up.copy(tmp_path, "queries")
    for split in SPLITS:
        world.write_split(split, key=dataclasses.replace(KEY, fingerprint="key-encoder-2"))
    with pytest.raises(
        UserError, match=r"another encoder than .*/queries/train \(fingerprint key-encoder against key-"
    ):
        _load(world)


def test_lists_of_another_dataset_are_refused(looked_up, tmp_path):
    world = looked_up.copy(tmp_path, "queries")
    world.queries = {split: unit(len(queries), seed=50) for split, queries in world.queries.items()}
    for split in SPLITS:
        world.write_split(split)
    with pytest.raises(UserError, match="was made from other queries than .*/queries/train holds now"):
        _load(world)


def test_lists_of_another_version_of_the_index_are_refused_and_no_index_is_needed(looked_up, tmp_path):
    world = looked_up.copy(tmp_path, "index", "memory")
    assert len(_load(world).memory_ids)
    facts = storage.read_json(f"{looked_up.folder}/index/manifest.json")
    facts = {name: value for name, value in facts.items() if name not in ("fingerprint", "rates")} | {"version": 2}
    another = {**facts, "fingerprint": manifest.fingerprint(facts)}
    storage.write_json(f"{tmp_path}/index/manifest.json", another, sealed=False)
    with pytest.raises(UserError, match="was looked up in another version of the index than .*/index holds now; run"):
        _load(world)


def test_k_is_the_first_of_each_list(world):
    whole, cut = (_load(world, k).splits["test"] for k in (0, 3))
    assert whole.neighbors.shape == (33, 7)
    for name in ("neighbors", "scores", "mask"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name)[:, :3])


def test_the_task_is_what_the_folders_hold(world):
    task = _load(world)
    for split, rows in SPLITS.items():
        loaded = task.splits[split]
        np.testing.assert_array_equal(loaded.queries, world.queries[split])
        np.testing.assert_array_equal(loaded.labels, np.arange(rows) % 5)
        scores = np.einsum("nd,nkd->nk", loaded.queries, task.keys[loaded.neighbors])
        np.testing.assert_allclose(loaded.scores, scores, atol=1e-6)
        assert loaded.mask.all()
    place = np.searchsorted(world.ids, task.memory_ids)
    np.testing.assert_array_equal(task.keys, world.keys[place])
    np.testing.assert_array_equal(np.array(task.values["text"])[:, 0], place)
    assert task.class_counts.tolist() == [14] * 5
