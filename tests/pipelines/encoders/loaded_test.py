"""Models of every form as functions of images and texts."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tokenizers

from pipelines.encoders import handles
from pipelines.encoders.handles import resolve
from pipelines.encoders.loaded import EncoderSet, ImageEncoder, TextEncoder, unit
from pipelines.errors import UserError
from tests.pipelines import tiny_encoders as tiny
from tests.pipelines import vit_files
from tests.pipelines.encoders import made

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("kind", "change", "sign"),
    [
        (made.Plain, {}, 1),
        (made.Plain, {"output": 0}, 1),
        (made.Signatures, {"signature": "one"}, 1),
        (made.Signatures, {"signature": "one", "inputs": ["pixels"], "output": "only"}, 1),
        (made.Tuple, {"output": 0}, 1),
        (made.Tuple, {"output": 1}, -1),
        (made.Named, {"inputs": ["picture"]}, 1),
    ],
)
def test_image_models_of_every_form_give_their_vectors(describe, kind, change, sign):
    images = made.images()
    vectors = made.encode(describe(kind, made.IMAGE, **change), [images[0], None, images[2]])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, sign * made.mean([images[0], 0 * images[1], images[2]]), rtol=1e-5)


@pytest.mark.parametrize(("output", "sign"), [("mean", 1), ("negative", -1)])
def test_value_range_gives_floats_in_it(describe, output, sign):
    preprocess = {"size": made.SIZE, "crop": "squash", "value_range": [-1, 1]}
    handle = describe(made.Signatures, made.IMAGE, signature="scaled", output=output, preprocess=preprocess)
    encoder = ImageEncoder(resolve(handle, "float32", normalize=False))
    assert encoder.preprocess.crop == "squash"
    scaled = np.asarray(made.images(), np.float64) / 255 * 2 - 1
    np.testing.assert_allclose(encoder.encode(made.images(), made.BATCH), sign * made.mean(scaled), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (made.Signatures, {}, r"cannot be called; name one of its signatures \(one, scaled, tokens\)"),
        (made.Signatures, {"signature": "scales"}, "no signature 'scales'; did you mean 'scaled'"),
        (made.Signatures, {"signature": "one", "inputs": ["pixel"]}, "one has no input 'pixel'; did you mean 'pixels'"),
        (made.Signatures, {"signature": "one", "output": "lonely"}, "gives only; name one of them as 'output'"),
        (made.Named, {"inputs": ["image"]}, r"does not take uint8 \[4, 4, 4, 3\]; see 'signature' and 'inputs'"),
        (made.Tuple, {}, r"gives 2 tensor\(s\) without names; 'output' must be the place"),
        (made.Tuple, {"output": 2}, r"gives 2 tensor\(s\)"),
        (made.Tuple, {"output": -1}, r"gives 2 tensor\(s\)"),
        (made.Plain, {"output": "mean"}, r"gives 1 tensor\(s\) without names"),
        (made.Plain, {"dim": 7}, r"gives \[3\], its description says \[7\]"),
        (made.Signatures, {"signature": "one", "preprocess": {"size": 5}}, r"\(pixels is \(None, 4, 4, 3\)\)"),
        (made.Plain, {"preprocess": {"size": 5}}, r"does not take uint8 \[4, 5, 5, 3\]"),
        (
            made.Plain,
            {"preprocess": {"size": made.SIZE, "value_range": [0, 1]}},
            r"does not take float32 \[4, 4, 4, 3\]",
        ),
        (made.Signatures, {"signature": "scaled", "output": "mean"}, "pixels is float32; of images, 'value_range'"),
        (
            made.Signatures,
            {"signature": "one", "preprocess": {"size": made.SIZE, "value_range": [0, 1]}},
            "pixels is uint8; of images, 'value_range'",
        ),
    ],
)
def test_a_model_that_is_not_as_described_is_worded(describe, kind, change, words):
    handle = describe(kind, made.IMAGE, **change)
    with pytest.raises(UserError, match=words):
        made.encode(handle, [None])


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (None, "gives .*; name one of them as 'output'"),
        ("wide", r"gives \[6\], its description says \[3\]"),
        ("first", "not a float tensor with a row for each input"),
    ],
)
def test_outputs_of_the_wrong_shape_are_worded(describe, output, words):
    preprocess = {"size": made.SIZE, "value_range": [0, 1]}
    handle = describe(made.Signatures, made.IMAGE, signature="scaled", output=output, preprocess=preprocess)
    with pytest.raises(UserError, match=words):
        made.encode(handle, made.images())


def test_texts_go_in_as_strings_without_a_tokenizer(describe):
    spec = resolve(describe(made.Strings, made.TEXT), "float32", normalize=False)
    vectors = TextEncoder(spec).encode(["abc", None, "a red dog"], made.BATCH)
    np.testing.assert_array_equal(vectors, np.outer([3, 0, 9], [1, 2, 3]))


@pytest.mark.parametrize("names", [["ids", "mask"], ["mask", "ids"]])
def test_token_ids_take_the_type_of_the_signature(describe, names):
    handle = describe(made.Signatures, made.TOKENS, signature="tokens", inputs=names)
    vectors = TextEncoder(resolve(handle, "float32", normalize=False)).encode(["red dog", "cat", None], made.BATCH)
    np.testing.assert_array_equal(vectors, np.outer([11 + 7, 5, 0], [1, 2, 3]))


def test_two_inputs_of_a_signature_must_be_named(describe):
    spec = resolve(describe(made.Signatures, made.TOKENS, signature="tokens"), "float32")
    with pytest.raises(UserError, match="tokens has the inputs .*; name them in order as 'inputs'"):
        TextEncoder(spec)


def test_token_ids_take_the_type_of_a_call(describe):
    encoder = TextEncoder(resolve(describe(made.TokenIds, made.TOKENS), "float32", normalize=False))
    np.testing.assert_array_equal(encoder.encode(["dog", "red dog"], made.BATCH), np.outer([7, 18], [1, 2, 3]))


def test_broken_files_are_worded(describe, tmp_path):
    handle = describe(made.TokenIds, made.TOKENS)
    (tmp_path / "encoder/tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="tokenizer.json: is not a tokenizer"):
        TextEncoder(resolve(handle, "float32"))
    (tmp_path / "encoder/saved_model.pb").write_bytes(b"\xff\xff")
    (tmp_path / "encoder/encoder.json").write_text(json.dumps(made.TEXT))
    with pytest.raises(UserError, match="TensorFlow cannot load this SavedModel"):
        TextEncoder(resolve(handle, "float32"))


@pytest.mark.slow
@pytest.mark.parametrize("size", [14, 12])
def test_a_vision_transformer_embeds_as_numpy_does_images_of_any_size_with_its_grid(tmp_path, size):
    file = vit_files.write(tmp_path / "augreg.npz", vit_files.LAYOUTS["augreg"], vit_files.TINY)
    path = tmp_path / "augreg.json"
    path.write_text(json.dumps({"model": "augreg.npz", "preprocess": {"size": size}}))
    spec = resolve(str(path), "float32", normalize=False)
    encoder = ImageEncoder(spec)
    assert (spec.kind, spec.info.dim, encoder.preprocess.size) == ("image", vit_files.TINY.width, size)
    images = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), np.uint8)
    expected = vit_files.reference(file, vit_files.LAYOUTS["augreg"], images)
    np.testing.assert_allclose(encoder.encode(list(images), made.BATCH), expected, rtol=1e-4, atol=1e-5)


def test_an_encoder_of_two_columns_is_loaded_once(tmp_path, describe):
    text = resolve(describe(made.Strings, made.TEXT), "float32")
    tiny.save_image_encoder(tmp_path / "image")
    image = resolve(str(tmp_path / "image"), "float32")
    given = handles.precomputed("precomputed:clip", 5, "float32", True)
    loaded = EncoderSet({"key": image, "value_image": image, "value_image_clip": given, "value_text": text}).columns
    assert list(loaded) == ["key", "value_image", "value_text"]
    assert loaded["key"] is loaded["value_image"] is not loaded["value_text"]


def test_vectors_of_any_length_get_unit_length():
    """Also where float32 has no square of them; what is nearly zero is no direction and becomes zero."""
    rows = np.array([[3, 4], [3e30, 4e30], [3e-11, 4e-11], [3e38, 3e38], [1e-13, 0], [1e-40, 0], [0, 0]], np.float32)
    half = 0.5**0.5
    expected = [[0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [half, half], [0, 0], [0, 0], [0, 0]]
    found = unit(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.isnan(unit(np.array([[np.nan, 1]], np.float32))).any()
    assert not np.isfinite(unit(np.array([[np.inf, 1]], np.float32))).all()


class _FixedIds(tf.Module):
    """Gives ids and mask of a text of 7 tokens back, three numbers of each, however it is called."""

    @tf.function(input_signature=[tf.TensorSpec([None, 7], tf.int32)] * 2)
    def __call__(self, ids, mask):
        return tf.cast(tf.concat([ids, mask], 1), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 7], tf.int64, name) for name in ("mask", "ids")])
    def tokens(self, mask, ids):
        return {"both": tf.cast(tf.concat([ids, mask], 1), tf.float32)}


class _NamedIds(tf.Module):
    @tf.function(input_signature=[{name: tf.TensorSpec([None, 7], tf.int32) for name in ("mask", "ids")}])
    def __call__(self, inputs):
        return tf.cast(tf.concat([inputs["ids"], inputs["mask"]], 1), tf.float32)


@pytest.mark.parametrize("max_tokens", [4, 7, 8, 77])
@pytest.mark.parametrize("pad", [None, 5])
@pytest.mark.parametrize(
    ("model", "change"),
    [
        (_FixedIds, {}),
        (_FixedIds, {"signature": "tokens", "inputs": ["ids", "mask"]}),
        (_NamedIds, {"inputs": ["ids", "mask"]}),
    ],
)
def test_texts_have_the_length_that_the_signature_states(tmp_path, max_tokens, pad, model, change):
    made_model = model()
    signatures = made_model.tokens if model is _FixedIds else None
    tf.saved_model.save(made_model, str(tmp_path), signatures and {"tokens": signatures})
    words = {word: number for number, word in enumerate(["[UNK]", "a", "red", "dog"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if pad:
        tokenizer.enable_padding(pad_id=pad, pad_token="a", length=3)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    preprocess = {"tokenizer": "tokenizer.json", "max_tokens": max_tokens}
    description = {"name": "fixed", "kind": "text", "dim": 14, "preprocess": preprocess, **change}
    (tmp_path / "encoder.json").write_text(json.dumps(description))
    encoder = TextEncoder(resolve(str(tmp_path), "float32", normalize=False))
    found = encoder.encode(["a red dog", "", None, "dog " * 9], 5)
    most = min(max_tokens, 7)
    expected = [[1, 2, 3], [], [], [3] * most]
    for row, ids in zip(found.tolist(), expected, strict=True):
        assert row == ids + [pad or 0] * (7 - len(ids)) + [1] * len(ids) + [0] * (7 - len(ids))
