"""Embedding of class names through the embed command, with a text encoder whose answers NumPy knows."""

import hashlib
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs.base import Config
from pipelines import schemas
from pipelines.embedding.names import class_names
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


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with two encoders of one space and of one width, the word vectors, and a text encoder of its own."""
    folder = tmp_path_factory.mktemp("shared")
    tiny.save_image_encoder(folder / "image")
    words = tiny.save_text_encoder(folder / "text", dim=tiny.DIM)
    tiny.save_text_encoder(folder / "apart", seed=1)
    for kind in ("image", "text"):
        _set_space(folder / kind, "words")
    return folder, dict(zip(tiny.WORDS, words.astype(np.float64), strict=True))


def _set_space(encoder, space):
    path = encoder / "encoder.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "space": space}))


def _embed_shared(world: World, folder, out="out", *beam, **changes) -> int:
    towers = {"encoders__key": folder / "image", "encoders__value_text": f"apart={folder}/apart,{folder}/text"}
    return world.embed(out, *beam, **(towers | changes))


def _names_at_keys(world: World, out="out") -> np.ndarray:
    return schemas.to_matrix(schemas.read(_path(world, out), ["key"])["key"])


def test_names_in_the_space_of_the_keys_are_the_mean_over_prompts(named, shared, capsys):
    folder, word = shared
    assert _embed_shared(named, folder, "plain") == 0
    assert "also in the space of the keys, by value_text" in " ".join(capsys.readouterr().out.split())
    metadata = pq.read_schema(_path(named, "plain")).metadata
    assert metadata[schemas.KEY_SPACE.encode()] == b"value_text"
    table = schemas.read(_path(named, "plain"), ["key", "value_text"])
    np.testing.assert_array_equal(schemas.to_matrix(table["key"]), schemas.to_matrix(table["value_text"]))
    assert _embed_shared(named, folder, "prompted", encoders__prompts="a {},a {} dog") == 0
    texts = [["a red dog", "a red dog dog", "a cat", "a cat dog"], ["a blue cat", "a blue cat dog"]]
    texts.append(["a green", "a green dog"])
    vectors = [[_unit(sum(word[part] for part in text.split())) for text in of_class] for of_class in texts]
    expected = [_unit(np.sum(of_class, 0)) for of_class in vectors]
    np.testing.assert_allclose(_names_at_keys(named, "prompted"), expected, atol=1e-5)
    # What captions are compared with has no prompts.
    both = [schemas.read(_path(named, out), ["value_text", "value_text_apart"]) for out in ("plain", "prompted")]
    assert both[0].equals(both[1])


@pytest.mark.parametrize(
    "beam",
    [(), pytest.param(("--direct_num_workers=2", "--direct_running_mode=multi_processing"), marks=pytest.mark.slow)],
)
def test_the_synonym_that_most_captions_mention_is_embedded(named, shared, capsys, beam):
    """The fourteen captions are `a red dog` and `blue cat` four times, `green` four and `a a dog unknown` two times."""
    folder, word = shared
    (named.root / "names.txt").write_text("cat, dog\ngreen, Dogs, dog\nbird, mouse\nred dog, blue cat\nblue\n")
    assert _embed_shared(named, folder, "out", *beam, encoders__synonyms="frequent") == 0
    assert "there 2 by another synonym than the first" in " ".join(capsys.readouterr().out.split())
    chosen = [["dog"], ["[UNK]"], ["[UNK]"], ["red", "dog"], ["blue"]]
    expected = [_unit(sum(word[part] for part in text)) for text in chosen]
    np.testing.assert_allclose(_names_at_keys(named), expected, atol=1e-5)
    assert not [name for name in os.listdir(f"{named.root}/out") if "counts" in name]
    # Said again where nothing is to do.
    assert _embed_shared(named, folder, encoders__synonyms="frequent") == 0
    assert "there 2 by another synonym than the first" in " ".join(capsys.readouterr().out.split())


def test_without_a_shared_space_there_is_no_such_column_and_prompts_are_refused(named, shared, capsys):
    folder, _ = shared
    assert _embed_shared(named, folder, encoders__value_text=folder / "apart") == 0
    assert "key" not in pq.read_schema(_path(named)).names
    for name, value in (("prompts", "a {}"), ("synonyms", "frequent")):
        changes = {f"encoders__{name}": value, "encoders__value_text": folder / "apart"}
        assert _embed_shared(named, folder, **changes) == 2
        error = capsys.readouterr().err
        assert f"--config.encoders.{name}: is for names in the space of the keys, and no encoder" in error


@pytest.mark.parametrize("prompt", ["a photo", "{} and {}", "{0}"])
def test_a_prompt_without_one_place_for_the_name_is_refused_by_name(named, shared, capsys, prompt):
    assert _embed_shared(named, shared[0], encoders__prompts=prompt) == 2
    assert f"{prompt!r} must have {{}} once, in place of the class name" in capsys.readouterr().err


def test_a_changed_prompt_synonym_or_memory_embeds_the_names_again(named, shared):
    folder = shared[0]

    def stored(**changes) -> bytes:
        assert _embed_shared(named, folder, **changes) == 0
        return pq.read_schema(_path(named)).metadata[b"config_hash"]

    hashes = [stored(), stored(encoders__prompts="a {}"), stored(encoders__synonyms="frequent")]
    # A row less in the memory: its bytes are those of no other row.
    (named.root / "opt_out.txt").write_text(hashlib.sha256(tiny.image_bytes(3)).hexdigest() + "\n")
    hashes.append(stored(encoders__synonyms="frequent", filters__opt_out="opt_out.txt"))
    assert len(set(hashes)) == 4 and stored() == hashes[0]


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
