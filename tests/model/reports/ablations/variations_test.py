"""What each value of each variation makes of the task."""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
import pytest

from configs.base import Config
from model.reports.ablations import false_captions, study, variations
from model.reports.ablations.base import Base
from model.reports.ablations.variations import VARY
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
    return Base(config)


@pytest.fixture(scope="module")
def base(config) -> Base:
    return _base(config)


def _point(base, name, text):
    (value,) = variations.read(base, name, [text])
    return VARY[name].point(base, value)


def test_k_is_the_first_of_each_list(base):
    whole = base.task((), 7)
    for k in (1, 3, 7):
        point = _point(base, "k", str(k))
        assert point.train.k == k
        np.testing.assert_array_equal(
            point.task.splits["test"].neighbors, base.task((), 7).splits["test"].neighbors[:, :k]
        )
    assert whole.splits["test"].neighbors.shape == (33, 7)
    assert variations.default_values("k", base) == ("1", "2", "4")
    assert variations.default_values("values", base) == ("text",)
    assert variations.default_values("layers", base) == ("1", "2", "3")


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
    point = _point(base, name, text)
    assert point.train == dataclasses.replace(base.train, **{field: value})
    np.testing.assert_array_equal(point.task.splits["val"].neighbors, base.task().splits["val"].neighbors)


def test_smaller_memories_lie_within_larger_ones_and_lists_stay_as_long(base):
    points = {text: _point(base, "memory_size", text) for text in ("1/16", "1/4", "0.5", "1")}
    assert {text: point.rows for text, point in points.items()} == {"1/16": 24, "1/4": 95, "0.5": 190, "1": 380}
    ids = [set(point.task.memory_ids.tolist()) for point in points.values()]
    assert ids[0] < ids[1] < ids[2] < ids[3]
    assert all(point.task.splits["test"].mask.all() for point in points.values())
    whole, lists = points["1"].task, base.task()
    np.testing.assert_array_equal(
        whole.memory_ids[whole.splits["test"].neighbors], lists.memory_ids[lists.splits["test"].neighbors]
    )


def test_named_and_unnamed_part_the_memory(base):
    named, unnamed = (_point(base, "memory", text) for text in ("named", "unnamed"))
    assert (named.rows, unnamed.rows) == (3, 377)
    assert not set(named.task.memory_ids) & set(unnamed.task.memory_ids)
    assert _point(base, "memory", "all").rows == 380


def test_a_pattern_chooses_by_url(base, monkeypatch):
    memory = base.memory()
    urls = np.array([f"http://x/{'f' if i % 4 == 0 else 'm'}{i}.jpg" for i in range(len(memory))], object)
    monkeypatch.setattr(base, "memory", lambda also=(): dataclasses.replace(memory, urls=urls))
    assert _point(base, "memory", "url:/f[0-9]").rows == 95


def test_noise_exchanges_texts_of_a_share_and_nothing_else(base):
    before = base.task()
    changed = {}
    for text in ("0", "0.25", "1"):
        after = _point(base, "noise", text).task
        changed[text] = set(np.flatnonzero((after.values["text"] != before.values["text"]).any(1)).tolist())
        np.testing.assert_array_equal(np.sort(after.values["text"], 0), np.sort(before.values["text"], 0))
        np.testing.assert_array_equal(after.keys, before.keys)
        assert after.splits is before.splits
    rows = len(before.memory_ids)
    assert len(changed["0"]) == 0 and 0.2 * rows < len(changed["0.25"]) <= round(0.25 * rows)
    assert len(changed["1"]) > 0.97 * rows


def _named(base: Base, monkeypatch) -> np.ndarray:
    """Gives the classes embedded names; returns them."""
    names = np.eye(5, 3, dtype=np.float32) + 1
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    task = dataclasses.replace(base.task(), name_vectors={"text": names})
    monkeypatch.setattr(base, "task", lambda *_: task)
    return names


def test_poison_rewrites_the_rows_nearest_to_the_victim_to_name_the_target(config, monkeypatch):
    base = _base(config)
    names = _named(base, monkeypatch)
    before, point = base.task(), _point(base, "poison", "3-1")
    assert point.victim == 3 and point.rows == 380 and point.task.splits is before.splits
    changed = np.flatnonzero((point.task.values["text"] != np.asarray(before.values["text"])).any(1))
    test = before.splits["test"]
    nearness = (test.queries[test.labels == 3] @ np.asarray(before.keys).T).max(0)
    # 1 % of 380 rows.
    assert sorted(changed) == sorted(np.argsort(-nearness, kind="stable")[:4])
    np.testing.assert_array_equal(point.task.values["text"][changed], np.tile(names[1], (4, 1)))
    np.testing.assert_array_equal(np.asarray(point.task.keys), np.asarray(before.keys))
    clean = _point(base, "poison", "0")
    assert clean.victim is None and clean.task is before
    monkeypatch.setattr(Base, "rows", 50)
    with pytest.raises(UserError, match="--vary=poison: 1% of the 50 rows of the memory is none"):
        _point(base, "poison", "3-1")


def test_victims_are_drawn_each_with_the_most_similar_name_and_another(config, monkeypatch):
    base = _base(config)
    names = _named(base, monkeypatch)
    first, *pairs = variations.default_values("poison", base)
    assert first == "0" and 4 <= len(pairs) <= 8
    assert len({pair.split("-")[0] for pair in pairs}) == 4
    for pair in pairs:
        victim, target = map(int, pair.split("-"))
        assert victim != target and max(victim, target) < len(names)
    assert variations.default_values("poison", base) == (first, *pairs)


def test_a_random_memory_is_searched_again(base):
    point = _point(base, "memory", "random")
    assert point.rows == 380
    np.testing.assert_array_equal(_point(base, "memory", "random").task.keys, point.task.keys)
    split = point.task.splits["test"]
    np.testing.assert_allclose(
        np.einsum("nkd,nd->nk", point.task.keys[split.neighbors], split.queries), split.scores, atol=1e-5
    )


def test_another_memory_of_the_same_encoders_takes_the_place_of_the_own(base, config, tmp_path):
    point = _point(base, "memory", f"folder:{config.places.memory}")
    whole = _point(base, "memory", "all")
    np.testing.assert_array_equal(point.task.splits["val"].neighbors, whole.task.splits["val"].neighbors)
    with pytest.raises(UserError, match="does not exist yet; run web-memory embed first"):
        _point(base, "memory", f"folder:{tmp_path}")


def test_the_table_of_poison_shows_what_victim_and_others_gain():
    def point(value, accuracies, **more):
        run = {"method": "mam", "seed": 0, "classes": accuracies}
        figures = {"mam": {name: {"mean": 0.5, "std": None} for name in ("all", "few")}}
        return {"value": value, "rows": 9, "neighbors": 2.0, "methods": figures, "runs": [run], **more}

    points = [point("0", [0.5, 0.5, None]), point("1-0", [0.75, 0.25, None], victim=1)]
    found = {"vary": "poison", "title": "poisoned class", "note": "", "points": points}
    grid = study.grid(found)
    assert "points gained (victim / other classes)" in grid.title
    assert [row[-1] for row in grid.rows] == ["50.0", "-25.0 / +25.00"]


def test_the_leakage_filter_off_lets_copies_in_but_not_a_querys_own_bytes(base):
    on, off, none = (_point(base, "leakage", text) for text in ("on", "off", "none"))
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
        ("memory_size", "1/1000", "--vary=memory_size=0.001: of 380 rows that is none; give a larger share"),
        ("noise", "much", "must be a number"),
        ("captions", "jnk", "is not known; did you mean 'junk'?, file: and a text file"),
        ("captions", "junk", "is not the encoder of the memory's text values"),
        ("memory", "nmed", "is not known; did you mean 'named'?, url: and"),
        ("memory", "url:(", "is not a regular expression"),
        ("memory", "url:x", "--vary=memory=url:x: matches the URL of no row of the memory"),
        ("memory", "train", "names of the classes are not embedded"),
        ("leakage", "of", "did you mean 'off'"),
        ("poison", "3", "must be 0, or the numbers of two classes below 5, the victim first, such as 3-7"),
        ("poison", "3-3", "must be 0, or the numbers of two classes"),
        ("poison", "3-5", "must be 0, or the numbers of two classes"),
        ("poison", "3-1", "set --config.train.values=text and --config.class_names"),
        ("values", "image", "--vary=values=image: is not known; known are text"),
    ],
)
def test_refusals(base, name, text, sentence):
    with pytest.raises(UserError) as error:
        _point(base, name, text)
    assert sentence in str(error.value)


def test_without_dropped_copies_there_is_no_filter_to_vary(tmp_path):
    world = World(pathlib.Path(tmp_path), rows=60).write()
    assert world.build() == 0 and world.neighbors() == 0
    config = options.parse([f"--config={world.config_file}", "--config.train.values=text"], "")[0]
    with pytest.raises(UserError, match="no rows of the memory were dropped for leakage"):
        _point(_base(config), "leakage", "off")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "nothing of this name can be varied; known are k, values"),
        ("layer=1", "did you mean 'layers'"),
    ],
)
def test_a_flag_that_makes_no_sense_is_refused(text, sentence):
    with pytest.raises(UserError) as error:
        variations.parse(text)
    assert sentence in str(error.value)


def test_own_captions_change_nothing_and_lists_by_name_are_refused(base, config):
    assert _point(base, "captions", "own").task is base.task()
    by_name = dataclasses.replace(config, neighbors=dataclasses.replace(config.neighbors, by="both"))
    with pytest.raises(UserError, match="are by both; ablations search the memory by keys alone"):
        _base(by_name)
    (found := _base(config)).lists.identity["by"] = "name"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="are by name; ablations search"):
        patch.setattr(manifest.Neighbors, "open", lambda folder: found.lists)
        _base(config)


def test_flags_are_parsed():
    assert variations.parse("k") == ("k", ())
    assert variations.parse("memory=named, url:/f[0-9]") == ("memory", ("named", "url:/f[0-9]"))
    assert variations.parse("memory=url:a{1,3}[b,c](d,e),all") == ("memory", ("url:a{1,3}[b,c](d,e)", "all"))


@pytest.mark.parametrize("values", [("1", "2", "1"), ("4", "04")])
def test_a_value_is_named_once(base, values):
    with pytest.raises(UserError, match=f"names a value twice, {values[-1]}"):
        variations.read(base, "k", values)


def test_what_is_in_a_file_or_folder_is_part_of_its_point(base, config, tmp_path, monkeypatch):
    monkeypatch.setattr(false_captions, "embed", lambda lines, *rest: np.zeros((len(lines), 1), np.float32))
    file = tmp_path / "lines.txt"
    made_of = []
    for text in ("a cat\n", "a dog\n", "a cat\n\n"):
        file.write_text(text)
        made_of.append(_point(base, "captions", f"file:{file}").made_of)
    assert made_of[0] == made_of[2] != made_of[1] and "" not in made_of
    folder = config.places.memory
    assert _point(base, "memory", f"folder:{folder}").made_of == manifest.Embeddings(folder).snapshot
    assert _point(base, "memory", "all").made_of == _point(base, "captions", "junk").made_of == ""
