"""What each value of each variation makes of the task."""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
import pytest

from configs.base import Config
from model.reports import ablations
from model.reports.ablations import VARY, Base
from pipelines import manifest, options, schemas, storage
from pipelines.errors import UserError
from tests.world import World

_DROPPED = 20


def _drop(world: World) -> None:
    """Drops the first rows of the first shard for leakage but for one, and completes the folder again."""
    folder = f"{world.folder}/memory"
    _, whole = manifest.read_complete(folder, "pipelines.embed")
    reasons = ["leakage"] * (_DROPPED - 1) + ["opt_out"]
    path = storage.join(folder, manifest.DROPPED, "00000.parquet")
    table = pa.table({"id": pa.array(range(_DROPPED), pa.int64()), "reason": reasons})
    schemas.write(path, table, {"config_hash": whole["config_hash"]})
    drops = {"00000": manifest.Drops(_DROPPED, storage.sha256(path))}
    manifest.complete(
        folder, list(manifest.read_markers(folder, whole["config_hash"]).values()), whole["config_hash"], drops
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    world = World(tmp_path_factory.mktemp("line"))
    # A row that is dropped has the bytes of a test image, another is near to it.
    world.images[0] = world.query_images["test"][4]
    world.keys[0] = world.keys[1] = world.queries["test"][4]
    world.write()
    _drop(world)
    assert world.build() == 0 and world.neighbors() == 0
    return world


@pytest.fixture(scope="module")
def config(world):
    names = world.folder / "names.txt"
    # Captions are `row N`: two classes are named, by two rows and one.
    names.write_text("row 130, row 131\nrow 300\nnone c\nnone d\nnone e\n")
    flags = ["--config.train.values=text", f"--config.class_names={names}", "--config.train.k=4"]
    return options.parse([f"--config={world.config_file}", *flags], "")[0]


def _base(config: Config) -> Base:
    return Base(config.places, config.train, config.seed, config.neighbors.exclude_same_image)


@pytest.fixture(scope="module")
def base(config) -> Base:
    return _base(config)


def test_k_is_the_first_of_each_list(base):
    whole = base.task((), 7)
    for k in (1, 3, 7):
        point = VARY["k"].point(base, str(k))
        assert point.train.k == k
        np.testing.assert_array_equal(
            point.task.splits["test"].neighbors, base.task((), 7).splits["test"].neighbors[:, :k]
        )
    assert whole.splits["test"].neighbors.shape == (33, 7)
    assert ablations.default_values("k", base) == ("1", "2", "4")
    assert ablations.default_values("values", base) == ("text",)
    assert ablations.default_values("layers", base) == ("1", "2", "3")


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("layers", "2", "layers", 2),
        ("start", "random", "start", "random"),
        ("similarity", "whitened", "similarity", "whitened"),
        ("value_scale", "5/2", "value_scale", 2.5),
        ("values", "text", "values", ("text",)),
    ],
)
def test_settings_change_alone(base, name, text, field, value):
    point = VARY[name].point(base, text)
    assert point.train == dataclasses.replace(base.train, **{field: value})
    np.testing.assert_array_equal(point.task.splits["val"].neighbors, base.task().splits["val"].neighbors)


def test_smaller_memories_lie_within_larger_ones_and_lists_stay_as_long(base):
    points = {text: VARY["memory_size"].point(base, text) for text in ("1/16", "1/4", "0.5", "1")}
    assert {text: point.rows for text, point in points.items()} == {"1/16": 24, "1/4": 95, "0.5": 190, "1": 380}
    ids = [set(point.task.memory_ids.tolist()) for point in points.values()]
    assert ids[0] < ids[1] < ids[2] < ids[3]
    assert all(point.task.splits["test"].mask.all() for point in points.values())
    whole, lists = points["1"].task, base.task()
    np.testing.assert_array_equal(
        whole.memory_ids[whole.splits["test"].neighbors], lists.memory_ids[lists.splits["test"].neighbors]
    )


def test_named_and_unnamed_part_the_memory(base):
    named, unnamed = (VARY["memory"].point(base, text) for text in ("named", "unnamed"))
    assert (named.rows, unnamed.rows) == (3, 377)
    assert not set(named.task.memory_ids) & set(unnamed.task.memory_ids)
    assert VARY["memory"].point(base, "all").rows == 380


def test_a_pattern_chooses_by_url(base, monkeypatch):
    memory = base.memory()
    urls = np.array([f"http://x/{'f' if i % 4 == 0 else 'm'}{i}.jpg" for i in range(len(memory))], object)
    monkeypatch.setattr(base, "memory", lambda also=(): dataclasses.replace(memory, urls=urls))
    assert VARY["memory"].point(base, "url:/f[0-9]").rows == 95


def test_noise_exchanges_texts_of_a_share_and_nothing_else(base):
    before = base.task()
    changed = {}
    for text in ("0", "0.25", "1"):
        after = VARY["noise"].point(base, text).task
        changed[text] = set(np.flatnonzero((after.values["text"] != before.values["text"]).any(1)).tolist())
        np.testing.assert_array_equal(np.sort(after.values["text"], 0), np.sort(before.values["text"], 0))
        np.testing.assert_array_equal(after.keys, before.keys)
        assert after.splits is before.splits
    rows = len(before.memory_ids)
    assert len(changed["0"]) == 0 and 0.2 * rows < len(changed["0.25"]) <= round(0.25 * rows)
    assert len(changed["1"]) > 0.97 * rows


def test_the_leakage_filter_off_lets_copies_in_but_not_a_querys_own_bytes(base):
    on, off, none = (VARY["leakage"].point(base, text) for text in ("on", "off", "none"))
    # One row was dropped for another reason and stays away.
    assert (on.rows, off.rows, none.rows) == (380, 399, 399)
    scores = [point.task.splits["test"].scores[4] for point in (on, off, none)]
    near = [np.sum(row > 0.9999) for row in scores]
    assert near == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("k", "0", "--vary=k=0: must be a whole number from 1 to 7"),
        ("k", "8", "from 1 to 7"),
        ("k", "1.5", "must be a whole number"),
        ("memory_size", "2", "must be a number from 0 to 1"),
        ("memory_size", "1/0", "must be a number, such as 2 or 1/2"),
        ("noise", "much", "must be a number"),
        ("memory", "nmed", "no such memory; did you mean 'named'?, or url:"),
        ("memory", "url:(", "is not a regular expression"),
        ("memory", "url:x", "this memory has no rows"),
        ("memory", "train", "names of the classes are not embedded"),
        ("leakage", "of", "did you mean 'off'"),
        ("values", "image", "the memory has no 'image' values"),
    ],
)
def test_refusals(base, name, text, sentence):
    with pytest.raises(UserError) as error:
        VARY[name].point(base, text)
    assert sentence in str(error.value)


def test_without_dropped_copies_there_is_no_filter_to_vary(tmp_path):
    world = World(pathlib.Path(tmp_path), rows=60).write()
    assert world.build() == 0 and world.neighbors() == 0
    config = options.parse([f"--config={world.config_file}", "--config.train.values=text"], "")[0]
    with pytest.raises(UserError, match="no rows of the memory were dropped for leakage"):
        VARY["leakage"].point(_base(config), "off")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "nothing of this name can be varied; known are k, values"),
        ("layer=1", "did you mean 'layers'"),
        ("k=1,2,1", "names a value twice"),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused(text, sentence):
    with pytest.raises(UserError) as error:
        ablations.parse(text)
    assert sentence in str(error.value)


def test_flags_are_parsed():
    assert ablations.parse("k") == ("k", ())
    assert ablations.parse("memory=named, url:/f[0-9]") == ("memory", ("named", "url:/f[0-9]"))
