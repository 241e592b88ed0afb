"""Other memories: exact search against brute force, and lists of the index that they must repeat."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data import datasets, memories
from model.data.memories import Memory
from pipelines import options
from pipelines.errors import UserError
from tests.world import World, brute_force


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    world = World(tmp_path_factory.mktemp("line"))
    # Some queries are in the memory, byte for byte.
    for place, query in ((5, 3), (7, 3), (9, 30)):
        world.images[place], world.keys[place] = world.query_images["train"][query], world.queries["train"][query]
    world.write()
    # Every query visits every shard.
    assert world.build("--config.index.sharding=hash") == 0 and world.neighbors("--config.index.sharding=hash") == 0
    return world


@pytest.fixture(scope="module")
def config(world):
    return options.parse([f"--config={world.config_file}", "--config.train.values=text"], "")[0]


@pytest.fixture(scope="module")
def task(config):
    return datasets.load(config.places, config.train)


@given(st.integers(0, 1000), st.integers(1, 300), st.integers(1, 12), st.integers(1, 9))
def test_search_finds_what_brute_force_finds(seed, queries, keys, k):
    rng = np.random.default_rng(seed)
    # Few different whole numbers: products are exact, and many tie.
    query = rng.integers(-1, 2, (queries, 3)).astype(np.float32)
    key = rng.integers(-1, 2, (keys, 3)).astype(np.float32)
    hidden = np.argwhere(rng.random((queries, keys)) < 0.2)
    rows, scores = memories.search(query, key, k, hidden)
    products = query @ key.T
    products[tuple(hidden.T)] = -np.inf
    for i in range(queries):
        order = [j for j in np.argsort(-products[i], kind="stable") if np.isfinite(products[i, j])][:k]
        padding = k - len(order)
        assert rows[i].tolist() == order + [-1] * padding
        assert scores[i].tolist() == products[i, order].tolist() + [-np.inf] * padding


def test_the_whole_memory_gives_the_lists_of_the_exact_index(config, task):
    memory = memories.load(config.places.memory, ("text",))
    again = memories.retrieve(config.places, task, memory, 7, exclude_same_image=True)
    for name, split in task.splits.items():
        mine = again.splits[name]
        np.testing.assert_array_equal(mine.mask, split.mask)
        np.testing.assert_array_equal(again.memory_ids[mine.neighbors], task.memory_ids[split.neighbors])
        np.testing.assert_allclose(mine.scores, split.scores, atol=1e-6)
        values = again.values["text"][mine.neighbors]
        np.testing.assert_array_equal(values, task.values["text"][split.neighbors])


def test_an_image_retrieves_itself_only_where_that_is_not_excluded(config, task, world):
    memory = memories.load(config.places.memory, ("text",))
    own = [number for number in range(len(memory)) if memory.images[number] == world.query_images["train"][3]]
    assert own == [5, 7]
    left_out = memories.retrieve(config.places, task, memory, 7, exclude_same_image=True).splits["train"]
    assert not np.isin(left_out.neighbors[3], own).any()
    kept = memories.retrieve(config.places, task, memory, 7, exclude_same_image=False).splits["train"]
    assert kept.neighbors[3, :2].tolist() == own and kept.scores[3, 0] == pytest.approx(1)


def test_a_memory_smaller_than_the_lists_pads_them(config, task):
    memory = memories.load(config.places.memory, ("text",)).take(np.arange(3))
    split = memories.retrieve(config.places, task, memory, 7, True).splits["val"]
    assert split.mask.sum(1).tolist() == [3] * 60
    assert (split.neighbors[~split.mask] == 0).all() and (split.scores[~split.mask] == 0).all()
    with pytest.raises(UserError, match="has no rows"):
        memories.retrieve(config.places, task, memory.take(np.arange(0)), 7, True)


def _named(task):
    names = np.eye(5, 3, dtype=np.float32)
    return dataclasses.replace(task, name_vectors={"text": names}, class_names=list("abcde"))


def test_the_training_set_as_memory_leaves_an_images_own_entry_out(config, task, world):
    task = _named(task)
    memory = memories.of_training_set(config.places, task)
    assert memory.captions.tolist() == ["abcde"[i % 5] for i in range(70)]
    np.testing.assert_array_equal(memory.values["text"], np.eye(5, 3)[np.arange(70) % 5])
    found = memories.retrieve(config.places, task, memory, 4, True)
    rows, _ = brute_force(world.queries["train"], world.queries["train"], 5)
    for i, row in enumerate(rows):
        assert found.splits["train"].neighbors[i].tolist() == [j for j in row if j != i][:4]
    expected, _ = brute_force(world.queries["test"], world.queries["train"], 4)
    np.testing.assert_array_equal(found.splits["test"].neighbors, expected)


def test_joined_memories_are_both(config, task):
    memory, images = (
        memories.load(config.places.memory, ("text",)),
        memories.of_training_set(config.places, _named(task)),
    )
    both = memory.join(images)
    assert len(both) == len(memory) + 70 and both.values["text"].shape == (len(both), 3)
    np.testing.assert_array_equal(both.take(np.arange(len(memory), len(both))).keys, images.keys)
    assert len(np.unique(both.ids)) == len(both)
    other = dataclasses.replace(images, values={"text": np.zeros((70, 4), np.float32)})
    with pytest.raises(UserError, match="no 'text' values of one encoder"):
        memory.join(other)


def test_a_random_memory_has_the_shape_of_the_other_and_nothing_else(config):
    memory = memories.load(config.places.memory, ("text",))
    found, same = memories.random(memory, 3), memories.random(memory, 3)
    np.testing.assert_array_equal(found.keys, same.keys)
    np.testing.assert_array_equal(found.ids, memory.ids)
    for mine, theirs in ((found.keys, memory.keys), (found.values["text"], memory.values["text"])):
        assert mine.shape == theirs.shape and mine.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(mine, axis=1), 1, rtol=1e-5)
        assert np.abs(mine - theirs).max(1).min() > 0
        assert np.abs(mine.mean(0)).max() < 0.2


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(1, 60))
def test_the_nearest_to_any_query_are_those_of_brute_force(seed, queries, keys):
    rng = np.random.default_rng(seed)
    query = rng.integers(-1, 2, (queries, 3)).astype(np.float32)
    key = rng.integers(-1, 2, (keys, 3)).astype(np.float32)
    best = (query @ key.T).max(0)
    expected = np.lexsort((np.arange(keys), -best))
    for count in (1, (keys + 1) // 2, keys):
        assert memories.nearest_to_any(query, key, count).tolist() == expected[:count].tolist()


def test_refusals(config, task, monkeypatch):
    with pytest.raises(UserError, match="names of the classes are not embedded"):
        memories.of_training_set(config.places, dataclasses.replace(task, name_vectors={}))
    both = dataclasses.replace(_named(task), values={"text": task.values["text"], "image": task.values["text"]})
    with pytest.raises(UserError, match="set --config.train.values=text"):
        memories.of_training_set(config.places, both)
    with pytest.raises(UserError, match="has no 'value_image' vectors"):
        memories.load(config.places.memory, ("image",))
    monkeypatch.setattr(memories, "MAX_ROWS", 399)
    with pytest.raises(UserError, match="has 400 rows; .* at most 399"):
        memories.load(config.places.memory, ("text",))


def test_rows_are_taken_with_all_their_columns():
    rng = np.random.default_rng(0)
    names = np.array([f"c{i}" for i in range(5)], object)
    memory = Memory(np.arange(5), names.astype("S32"), rng.random((5, 2)), {"text": rng.random((5, 3))}, names, names)
    some = memory.take(np.array([False, True, False, False, True]))
    assert some.ids.tolist() == [1, 4] and some.captions.tolist() == some.urls.tolist() == ["c1", "c4"]
    np.testing.assert_array_equal(some.keys, memory.keys[[1, 4]])
    np.testing.assert_array_equal(some.values["text"], memory.values["text"][[1, 4]])
