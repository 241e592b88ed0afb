"""Handles of checkpoints: what they are, what is built of them, and every way in which a folder is refused."""

import dataclasses
import json
import pathlib
import shutil
import struct

import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from pipelines.encoders.handles import EncoderSpec, resolve
from pipelines.encoders.loaded import ImageEncoder, TextEncoder
from pipelines.encoders.towers import checkpoints
from pipelines.errors import UserError
from tests import slow
from tests.pipelines import vit_files
from tests.pipelines.encoders.towers import arrays, folders, npz_files
from tests.pipelines.encoders.towers.npz_files import Shape

_TEXTS = ["a red dog", "a dog", "", "the green cat on a photo of the blue dog " * 4]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> pathlib.Path:
    """A folder with both towers and a tokenizer, in a cache of its own."""
    root = tmp_path_factory.mktemp("checkpoints")
    folders.write("clip_gelu", root / "clip")
    folders.write_tokenizer(root / "clip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEB_MEMORY_CACHE", str(root / "cache"))
        yield root / "clip"


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _resolve(folder: pathlib.Path, kind: str) -> EncoderSpec:
    return resolve(f"hf:{folder}#{kind}", "float32")


@pytest.mark.slow
def test_images_have_the_vectors_of_transformers(clip):
    oracle, spec = folders.oracle("clip_gelu"), _resolve(clip, "image")
    assert (spec.kind, spec.info.dim) == ("image", 12)
    encoder = ImageEncoder(spec)
    assert (encoder.preprocess.size, encoder.preprocess.crop) == (24, "squash")
    found = encoder.encode(list(arrays.images(3, 24)), 4)
    np.testing.assert_allclose(found, _unit(np.array(oracle["image"])), atol=1e-5)


def test_texts_have_the_same_vectors_in_any_batch_and_share_the_space(clip):
    spec = _resolve(clip, "text")
    assert spec.space and spec.space == checkpoints.describe(f"hf:{clip}#image")["space"]
    encoder = TextEncoder(spec)
    together = encoder.encode(_TEXTS, 4)
    alone = np.concatenate([encoder.encode([text], 1) for text in _TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 0.01
    # Of 20 tokens two are the ends, so that words behind the eighteenth change nothing.
    words = "the green cat on a photo of the blue dog the green cat on a photo of the"
    np.testing.assert_allclose(encoder.encode([words], 1), together[3:], atol=1e-6)


@pytest.mark.slow
def test_a_fingerprint_is_of_the_contents_not_of_the_place(clip, tmp_path):
    before = _resolve(clip, "image")
    shutil.copytree(clip, tmp_path / "copy")
    assert _resolve(tmp_path / "copy", "image").info == before.info
    config = json.loads((clip / "preprocessor_config.json").read_text())
    (tmp_path / "copy/preprocessor_config.json").write_text(json.dumps({**config, "image_mean": [0, 0, 0]}))
    assert _resolve(tmp_path / "copy", "image").info != before.info
    tensors = safetensors.numpy.load_file(clip / "model.safetensors")
    tensors["logit_scale"] = np.asarray(tensors["logit_scale"] + 1, np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "copy/model.safetensors")
    assert _resolve(tmp_path / "copy", "text").info != _resolve(clip, "text").info


def test_a_tower_is_built_once(clip, monkeypatch):
    folder = checkpoints.ensure(f"hf:{clip}#text")
    monkeypatch.setattr(checkpoints, "_build", None)
    assert checkpoints.ensure(f"hf:{clip}#text") == folder


@pytest.mark.slow
def test_weights_in_several_files(clip, tmp_path):
    tensors = safetensors.numpy.load_file(clip / "model.safetensors")
    shutil.copytree(clip, tmp_path / "split")
    (tmp_path / "split/model.safetensors").unlink()
    names, files = sorted(tensors), {}
    for number in range(2):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        part = {name: tensors[name] for name in names[number::2]}
        safetensors.numpy.save_file(part, tmp_path / "split" / file)
        files |= dict.fromkeys(part, file)
    index = tmp_path / "split/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    encoders = [ImageEncoder(_resolve(folder, "image")) for folder in (clip, tmp_path / "split")]
    vectors = [encoder.encode(list(arrays.images(3, 24)), 4) for encoder in encoders]
    assert np.array_equal(*vectors)
    for wrong, sentence in (
        ("../x.safetensors", "names '../x.safetensors'"),
        ("y.safetensors", "has no y.safetensors"),
    ):
        index.write_text(json.dumps({"weight_map": {**files, names[0]: wrong}}))
        with pytest.raises(UserError, match=sentence):
            _resolve(tmp_path / "split", "image")


# -- Refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handle", "sentence"),
    [
        ("hf:/models/clip", "say which tower is meant, hf:/models/clip#image or hf:/models/clip#text"),
        ("hf:/models/clip#both", "say which tower is meant"),
        ("hf:#image", "say which tower is meant"),
        ("hf:/nowhere/at/all#image", "there is no folder /nowhere/at/all; name one, or ORG/NAME of the"),
    ],
)
def test_handles_that_name_nothing(handle, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve(handle, "float32")


def _config(**changes):
    def change(folder: pathlib.Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        for name, value in changes.items():
            part, _, field = name.rpartition("__")
            (config[part] if part else config)[field] = value
        (folder / "config.json").write_text(json.dumps(config))

    return change


def _weights(change):
    def changed(folder: pathlib.Path) -> None:
        tensors = safetensors.numpy.load_file(folder / "model.safetensors")
        change(tensors)
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")

    return changed


def _lying_header(folder: pathlib.Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def _pickle_only(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


_POSITIONS = "text_model.embeddings.position_embedding.weight"
_BAD = {
    "no config": (lambda f: (f / "config.json").unlink(), "text", "has no config.json, which says what model it is"),
    "no object": (lambda f: (f / "config.json").write_text("[]"), "text", "config.json: must be a JSON object"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "text", "config.json: "),
    "unknown": (_config(model_type="llama"), "text", "model_type is 'llama', not one of clip, metaclip_2"),
    "no such tower": (_config(model_type="dinov2"), "text", "is a dinov2 model, which has no tower of texts"),
    "wrong type": (_config(text_config__hidden_size="16"), "text", "hidden_size is '16', must be of type int"),
    "heads": (_config(text_config__num_attention_heads=3), "text", "3 heads do not divide the width, 16"),
    "activation": (_config(text_config__hidden_act="mish"), "text", "hidden_act is 'mish', not one of"),
    "channels": (_config(vision_config__num_channels=4), "image", "num_channels is not 3"),
    "patches": (_config(vision_config__patch_size=25), "image", "patches of 25 pixels do not fit into images of 24"),
    "other patches": (_config(vision_config__patch_size=7), "image", r"is \[8, 8, 3, 16\], its config says \[7, 7, 3"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "text", "has no model.safetensors; add the weights"),
    "pickle": (_pickle_only, "text", "a pickle is a program and is not loaded"),
    "missing": (_weights(lambda t: t.pop(_POSITIONS)), "text", "has no array for positions, which its config asks for"),
    "extra": (_weights(lambda t: t.update(x=np.ones(2, "f4"))), "text", "has the array x, which is not of the model"),
    "misshapen": (
        _weights(lambda t: t.update({_POSITIONS: np.ones((21, 16), "f4")})),
        "text",
        rf"{_POSITIONS} is \[21, 16\], its config says \[20, 16\]",
    ),
    "whole numbers": (_weights(lambda t: t.update({_POSITIONS: np.ones((20, 16), "i4")})), "text", "is of type I32"),
    "lying": (_lying_header, "text", "model.safetensors: is no whole safetensors file"),
    "cut": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        "image",
        "model.safetensors: is no whole safetensors file",
    ),
    "no preprocessing": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        "image",
        "has no preprocessor_config.json, which says how images are resized",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "text", "has no tokenizer.json, which says how"),
    "another tokenizer": (_config(text_config__vocab_size=70), "text", "has the id 89, the model has 70 tokens"),
    "another end": (_config(text_config__eos_token_id=7), "text", "does not end a text with the id 7"),
}
# Found while the tower is built, in a process of its own.
_BUILT = ("cut", "lying", "whole numbers", "misshapen", "other patches", "missing", "extra")


@pytest.mark.parametrize("case", slow.after(len(_BAD) - len(_BUILT), sorted(_BAD, key=lambda case: case in _BUILT)))
def test_a_folder_that_lacks_something_is_refused_in_a_sentence(clip, tmp_path, case):
    change, kind, sentence = _BAD[case]
    shutil.copytree(clip, tmp_path / "bad")
    change(tmp_path / "bad")
    with pytest.raises(UserError, match=sentence) as caught:
        _resolve(tmp_path / "bad", kind)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("case", _BUILT)
def test_weights_that_do_not_fit_are_refused_where_they_are_read(clip, tmp_path, case):
    change, kind, sentence = _BAD[case]
    shutil.copytree(clip, tmp_path / "bad")
    change(tmp_path / "bad")
    with pytest.raises(UserError, match=sentence):
        checkpoints._find(f"hf:{tmp_path}/bad#{kind}", None).tower()


def test_texts_alone_need_to_know_how_tokens_become_one_vector(tmp_path):
    folders.write("bert", tmp_path / "bert")
    (tmp_path / "bert/modules.json").unlink()
    with pytest.raises(UserError, match="has no modules.json, which says how the vectors of tokens become one"):
        _resolve(tmp_path / "bert", "text")
    folders.write("bert", tmp_path / "lstm", ("Pooling", "LSTM"))
    with pytest.raises(UserError, match="has a module 'LSTM', which is not known here"):
        _resolve(tmp_path / "lstm", "text")


# -- Files of big_vision -------------------------------------------------------------------------

_IMAGE, _TEXT = Shape(24, 2, 2, 40, 3, patch=4), Shape(16, 2, 2, 24, 6, tokens=80, out=24)


@pytest.fixture
def siglip(tmp_path, monkeypatch) -> pathlib.Path:
    """Both towers of a small SigLIP 2 in one file, and a tokenizer of single letters beside it."""
    monkeypatch.setenv("WEB_MEMORY_CACHE", str(tmp_path / "cache"))
    arrays = npz_files.siglip(npz_files.Random(), _IMAGE, _TEXT)
    (tmp_path / "models").mkdir()
    np.savez(tmp_path / "models/siglip.npz", **arrays)
    letters = [chr(number) for number in range(33, 97)]
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", "<unk>", *letters])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>"))
    made.save(str(tmp_path / "models/tokenizer.json"))
    return tmp_path / "models/siglip.npz"


@pytest.mark.slow
def test_both_towers_of_one_npz_share_a_space_and_have_the_vectors_of_numpy(siglip):
    arrays = dict(np.load(siglip))
    image, text = (resolve(f"{siglip}#{kind}", "float32") for kind in ("image", "text"))
    assert image.space and image.space == text.space and image.info.dim == 24 == text.info.dim
    encoder = ImageEncoder(image)
    assert (encoder.preprocess.size, encoder.preprocess.crop) == (12, "squash")
    pixels = npz_files.pixels(3, 12)
    expected = np.stack([npz_files.siglip_image(arrays, pixel, _IMAGE.depth) for pixel in pixels])
    np.testing.assert_allclose(encoder.encode(list(pixels), 4), _unit(expected), atol=1e-4)
    # Lower case is not in this vocabulary: unknown, then the end, then padding up to six.
    found = TextEncoder(text).encode(["A", "!?"], 2)
    rows = np.array([[2, 1, 0, 0, 0, 0], [3, 33, 1, 0, 0, 0]])
    expected = np.stack([npz_files.siglip_text(arrays, row, _TEXT.depth) for row in rows])
    np.testing.assert_allclose(found, _unit(expected), atol=1e-4)


def test_a_npz_without_a_tokenizer_or_of_no_model_is_refused(siglip):
    (siglip.parent / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer.json and no .spm or .model of sentencepiece"):
        resolve(f"{siglip}#text", "float32")
    with pytest.raises(UserError, match="there is no file /nowhere.npz"):
        resolve("/nowhere.npz#image", "float32")
    np.savez(siglip, x=np.ones(3, np.float32))
    with pytest.raises(UserError, match="must have one array embedding/kernel below one of"):
        resolve(f"{siglip}#image", "float32")


def test_a_npz_of_images_alone_has_no_texts_and_one_of_both_wants_its_own_tokenizer(siglip):
    file = siglip.parent / "vit.npz"
    vit_files.write(file, vit_files.LAYOUTS["augreg"], vit_files.TINY)
    with pytest.raises(
        UserError, match="vit.npz: must have one array Embed_0/embedding below one of .*, has 0; take a"
    ):
        resolve(f"{file}#text", "float32")
    assert resolve(str(file), "float32", is_run=False).space == ""
    np.savez(siglip, **npz_files.siglip(npz_files.Random(), _IMAGE, dataclasses.replace(_TEXT, tokens=60)))
    with pytest.raises(UserError, match="has the id 66, the model has 60 tokens; it is the tokenizer of another model"):
        resolve(f"{siglip}#text", "float32")
