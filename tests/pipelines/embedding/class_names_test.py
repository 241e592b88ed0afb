"""Embedding of class names through the embed command, with a text encoder whose answers NumPy knows."""

import dataclasses
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs.base import Config
from pipelines import schemas
from pipelines.embedding import class_names
from pipelines.encoders.handles import resolve
from pipelines.encoders.loaded import TextEncoder
from pipelines.errors import UserError
from tests.pipelines import tiny_encoders as tiny
from tests.pipelines.embed_test import World

_NAMES = "n01\tred_dog, cat\nn02\tblue cat\nn03\tgreen\n"


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    tiny.save_image_encoder(folder / "image")
    return folder, tiny.save_text_encoder(folder / "text")


@pytest.fixture
def named(tmp_path, encoders) -> World:
    """A world whose classes have names."""
    world = World(tmp_path, encoders[0])
    (tmp_path / "names.txt").write_text(_NAMES)
    world.flags["class_names"] = "names.txt"
    return world


def _unit(vector):
    return vector / np.linalg.norm(vector)


def _path(world: World, out: str = "out") -> str:
    return f"{world.root}/{out}/classes.parquet"


def test_names_are_the_mean_of_their_synonyms(named, encoders, capsys):
    assert named.embed() == 0
    assert "class names 3, in" in " ".join(capsys.readouterr().out.split())
    table = schemas.read(_path(named), ["label", "name", "value_text"])
    assert table["label"].to_pylist() == [0, 1, 2]
    assert table["name"].to_pylist() == ["red_dog, cat", "blue cat", "green"]
    word = dict(zip(tiny.WORDS, encoders[1].astype(np.float64), strict=True))
    expected = [
        _unit(_unit(word["red"] + word["dog"]) + _unit(word["cat"])),
        _unit(word["blue"] + word["cat"]),
        _unit(word["green"]),
    ]
    np.testing.assert_allclose(schemas.to_matrix(table["value_text"]), expected, atol=1e-5)


@pytest.mark.parametrize(("space", "shared"), [("words", "value_text"), ("", ""), ("others", "")])
def test_the_column_in_the_space_of_the_keys_is_noted(tmp_path, space, shared):
    tiny.save_image_encoder(tmp_path / "image")
    tiny.save_text_encoder(tmp_path / "text")
    for kind, name in (("image", "words"), ("text", space)):
        path = tmp_path / kind / "encoder.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "space": name}))
    specs = {
        "key": resolve(str(tmp_path / "image"), "float32"),
        "value_text": resolve(str(tmp_path / "text"), "float32"),
    }
    if specs["key"].info.dim != specs["value_text"].info.dim:
        info = dataclasses.replace(specs["key"].info, dim=specs["value_text"].info.dim)
        specs["key"] = dataclasses.replace(specs["key"], info=info)
    path = str(tmp_path / "classes.parquet")
    class_names.write(["a red dog", "a cat"], specs, path, 4)
    assert (pq.read_schema(path).metadata[schemas.KEY_SPACE.encode()].decode()) == shared


@pytest.mark.parametrize(("value", "said"), [(0, "a vector of zeros"), (np.nan, "values that are not finite")])
def test_a_name_without_a_vector_is_told(named, capsys, monkeypatch, value, said):
    """The encoder of the names alone is changed: the memory's captions have been embedded before."""
    assert named.embed(class_names="") == 0
    whole = TextEncoder.encode

    def encode(self, texts, batch_size):
        return np.where([[text == "green"] for text in texts], value, whole(self, texts, batch_size)).astype(np.float32)

    monkeypatch.setattr(TextEncoder, "encode", encode)
    assert named.embed() == 2
    assert f"returns {said} for the class name 'green'" in capsys.readouterr().err
    assert not os.path.exists(_path(named))


def test_they_are_embedded_again_only_if_names_or_encoder_change(named):
    named.embed()
    path = _path(named)
    before, first = os.stat(path).st_mtime_ns, open(path, "rb").read()
    assert named.embed() == 0
    assert os.stat(path).st_mtime_ns == before
    (named.root / "names.txt").write_text(_NAMES.replace("green", "red"))
    assert named.embed() == 0
    assert schemas.read(path, ["name"])["name"].to_pylist()[2] == "red"
    (named.root / "names.txt").write_text(_NAMES)
    assert named.embed() == 0
    assert open(path, "rb").read() == first


def test_a_damaged_file_is_written_again(named):
    named.embed()
    path = _path(named)
    whole = open(path, "rb").read()
    with open(path, "wb") as file:
        file.write(whole[: len(whole) // 2])
    assert named.embed() == 0
    assert open(path, "rb").read() == whole


@pytest.mark.slow
def test_workers_do_not_change_the_vectors(named):
    assert named.embed("one") == 0
    assert named.embed("two", "--direct_num_workers=2", "--direct_running_mode=multi_processing") == 0
    assert open(_path(named, "one"), "rb").read() == open(_path(named, "two"), "rb").read()


def test_nothing_is_written_without_names_or_text_encoder(named):
    assert named.embed("unnamed", class_names="") == 0
    assert named.embed("textless", encoders__value_text="", encoders__value_image=named.flags["encoders.key"]) == 0
    assert not os.path.exists(_path(named, "unnamed")) and not os.path.exists(_path(named, "textless"))


def test_a_missing_file_is_told_before_anything_is_embedded(named, capsys):
    assert named.embed(class_names="other.txt") != 0
    assert "other.txt" in capsys.readouterr().err
    assert not os.path.exists(f"{named.root}/out/memory")


def test_names_that_are_no_text_are_told(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(UserError, match="line 2: is not UTF-8"):
        class_names.read(Config(data=str(tmp_path), class_names="names.txt").places)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("goldfish, Carassius auratus", ["goldfish", "Carassius auratus"]),
        ("airport_terminal", ["airport terminal"]),
        ("pay-phone", ["pay-phone"]),
        (" , ", [" , "]),
        ("", [""]),
    ],
)
def test_phrases(name, texts):
    assert class_names.phrases(name) == texts
