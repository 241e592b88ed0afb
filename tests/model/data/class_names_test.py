"""What the trainer takes of the embedded class names, and what it refuses."""

import numpy as np
import pyarrow as pa
import pytest

from configs.base import Config
from model.data import class_names
from pipelines import manifest, schemas
from pipelines.errors import UserError
from pipelines.schemas import EncoderInfo

_ENCODERS = {
    "key": EncoderInfo("key", 9, True, "float32"),
    "value_image": EncoderInfo("image", 4, True, "float32"),
    "value_text": EncoderInfo("text", 3, True, "float32"),
    "value_text_large": EncoderInfo("large", 5, True, "float32"),
}
_NAMES = ["a dog", "a cat"]


def _write(path, fingerprints=None, names=_NAMES, columns=("value_text", "value_text_large")):
    dims = {column: _ENCODERS[column].dim for column in columns}
    schema = schemas.classes(dims)
    rng = np.random.default_rng(0)
    vectors = {column: rng.normal(size=(len(names), dim)).astype(np.float32) for column, dim in dims.items()}
    arrays = [pa.array(range(len(names)), pa.int32()), pa.array(names)]
    arrays += [schemas.fixed_list(vectors[column], schema.field(column)) for column in sorted(dims)]
    made_by = {column: _ENCODERS[column].fingerprint for column in columns} | (fingerprints or {})
    space = made_by.pop("key_space", "")
    metadata = {"config_hash": "0", "key_space": space}
    metadata |= {f"{column}.fingerprint": value for column, value in made_by.items()}
    schemas.write(str(path), pa.Table.from_arrays(arrays, schema=schema), metadata)
    return vectors


def test_names_of_each_kind_of_text_are_read(tmp_path):
    path = tmp_path / "classes.parquet"
    vectors = _write(path)
    found = class_names.load(str(path), _ENCODERS, ("image", "text", "text_large"), ["a dog"])
    assert sorted(found) == ["text", "text_large"]
    for kind in ("text", "text_large"):
        vector = vectors[f"value_{kind}"][:1].astype(np.float64)
        np.testing.assert_allclose(found[kind], vector / np.linalg.norm(vector), rtol=1e-6)


_WITH_KEYS = ("key", "value_text", "value_text_large")


def test_names_in_the_space_of_the_keys_are_read_whatever_is_trained_on(tmp_path):
    path = tmp_path / "classes.parquet"
    vectors = _write(path, {"key_space": "value_text_large"}, columns=_WITH_KEYS)
    for kinds in ((), ("text",)):
        found = class_names.load(str(path), _ENCODERS, kinds, _NAMES)
        assert set(found) == {*kinds, class_names.KEYS}
        norms = np.linalg.norm(vectors["key"], axis=1, keepdims=True)
        np.testing.assert_allclose(found[class_names.KEYS], vectors["key"] / norms, rtol=1e-5)


@pytest.mark.parametrize(
    ("made_by", "sentence"),
    [
        ({"key": "other"}, "its key are of encoder other, those of the memory of key; run web-memory embed again"),
        ({"value_text_large": "t5"}, "its value_text_large are of encoder t5, those of the memory of large; run"),
        ({"key_space": "value_text_gone"}, "its value_text_gone are of encoder , those of the memory of none; run"),
    ],
)
def test_names_of_the_keys_of_another_memory_or_text_encoder_are_refused(tmp_path, made_by, sentence):
    path = tmp_path / "classes.parquet"
    _write(path, {"key_space": "value_text_large"} | made_by, columns=_WITH_KEYS)
    with pytest.raises(UserError, match=sentence):
        class_names.load(str(path), _ENCODERS, (), _NAMES)


def test_the_fingerprint_is_that_of_what_decides_the_vectors(tmp_path):
    path = tmp_path / "classes.parquet"
    assert class_names.fingerprint(str(path)) == ""
    _write(path)
    assert class_names.fingerprint(str(path)) == "0"


def test_there_are_none_without_a_file_or_text_values(tmp_path):
    path = tmp_path / "classes.parquet"
    assert class_names.load(str(path), _ENCODERS, ("text",), _NAMES) == {}
    _write(path)
    assert class_names.load(str(path), _ENCODERS, ("image",), _NAMES) == {}


def test_a_kind_that_the_file_lacks_is_left_out(tmp_path):
    path = tmp_path / "classes.parquet"
    _write(path, columns=("value_text",))
    assert list(class_names.load(str(path), _ENCODERS, ("text", "text_large"), _NAMES)) == ["text"]


@pytest.mark.parametrize(
    ("written", "wanted", "sentence"),
    [
        ({"fingerprints": {"value_text": "t5"}}, _NAMES, "its value_text are of encoder t5, .* of text; run web-m"),
        ({"names": ["a dog", "a cow"]}, _NAMES, "holds other class names than --config.class_names; run web-memory"),
        ({}, [*_NAMES, "a cow"], "holds other class names"),
    ],
)
def test_names_of_another_memory_are_refused(tmp_path, written, wanted, sentence):
    path = tmp_path / "classes.parquet"
    _write(path, **written)
    with pytest.raises(UserError, match=sentence):
        class_names.load(str(path), _ENCODERS, ("text",), wanted)


def test_without_a_file_the_names_are_those_that_train_was_embedded_with(tmp_path):
    folder = str(tmp_path / "queries/train")
    config_hash = manifest.claim(folder, "pipelines.embed", {"encoders": {}, "classes": ["ant", "bee"]})
    manifest.complete(folder, [], config_hash)
    (tmp_path / "names.txt").write_text("Ameise\nBiene\n")
    places = Config(workdir=str(tmp_path), data=str(tmp_path)).places
    assert class_names.read(places, 2) == ["ant", "bee"]
    with pytest.raises(UserError, match="queries/train: names 2 classes, the labels go up to 2"):
        class_names.read(places, 3)
    named = Config(workdir=str(tmp_path), data=str(tmp_path), class_names="names.txt").places
    assert class_names.read(named, 2) == ["Ameise", "Biene"]


def test_without_any_names_classes_are_called_by_their_numbers(tmp_path):
    folder = str(tmp_path / "queries/train")
    manifest.complete(folder, [], manifest.claim(folder, "pipelines.embed", {"encoders": {}}))
    assert class_names.read(Config(workdir=str(tmp_path)).places, 2) == ["class 0", "class 1"]
