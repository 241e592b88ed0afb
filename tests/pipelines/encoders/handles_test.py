"""Handles of every kind, models of every form."""

import functools
import http.server
import json
import shutil
import sys
import tarfile
import threading

import fsspec
import numpy as np
import pytest
import tensorflow as tf

from configs.base import Encoders
from pipelines.encoders import handles, vit, vit_checkpoint
from pipelines.encoders.handles import EncoderSet, ImageEncoder, TextEncoder, columns, resolve
from pipelines.errors import UserError
from tests.pipelines import tiny_encoders as tiny
from tests.pipelines import vit_files

SIZE, DIM = 4, 3
IMAGE = {"name": "tiny", "kind": "image", "dim": DIM, "preprocess": {"size": SIZE}}
TEXT = {"name": "tiny", "kind": "text", "dim": DIM, "preprocess": {}}
TOKENS = {**TEXT, "preprocess": {"tokenizer": "tokenizer.json", "max_tokens": 8}}
BATCH = 4


class Model(tf.Module):
    """Each function gives the mean colour, or the length of texts, in another form; `factor` tells them apart."""

    def __init__(self):
        super().__init__()
        self.factor = tf.Variable([[1.0, 2.0, 3.0]])

    def _mean(self, images):
        return tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]) * self.factor

    def _lengths(self, texts):
        return tf.cast(tf.strings.length(texts), tf.float32)[:, None] * self.factor


class Plain(Model):
    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8)])
    def __call__(self, images):
        return self._mean(images)


class Signatures(Model):
    """Cannot be called itself."""

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8, "pixels")])
    def one(self, pixels):
        return {"only": self._mean(pixels)}

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, "pixels")])
    def scaled(self, pixels):
        mean = self._mean(pixels)
        return {"mean": mean, "negative": -mean, "wide": tf.concat([mean, mean], 1), "first": mean[:1]}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.int64, "mask"),
            tf.TensorSpec([None, None], tf.int64, "ids"),
        ]
    )
    def tokens(self, mask, ids):
        return {"sum": tf.cast(tf.reduce_sum(mask * ids, 1), tf.float32)[:, None] * self.factor}


class Tuple(Model):
    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8)])
    def __call__(self, images):
        return self._mean(images), -self._mean(images)


class Strings(Model):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        return (self._lengths(texts),)


class Named(Model):
    @tf.function(input_signature=[{"picture": tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8)}])
    def __call__(self, inputs):
        return self._mean(inputs["picture"])


class TokenIds(Model):
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64)] * 2)
    def __call__(self, ids, mask):
        return tf.cast(tf.reduce_sum(mask * ids, 1), tf.float32)[:, None] * self.factor


@functools.cache
def _saved(kind, root):
    folder = root / kind.__name__.lower()
    model = kind()
    names = ("one", "scaled", "tokens") if kind is Signatures else ()
    tf.saved_model.save(model, str(folder), signatures={name: getattr(model, name) for name in names})
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Saves a model at most once for all tests."""
    root = tmp_path_factory.mktemp("models")
    return lambda kind: _saved(kind, root)


@pytest.fixture
def describe(models, tmp_path):
    """Writes a copy of a model with a description, and returns its folder as a handle."""

    def write(kind, description, /, **change):
        folder = tmp_path / "encoder"
        shutil.copytree(models(kind), folder)
        tiny_tokenizer(folder)
        (folder / "encoder.json").write_text(json.dumps({**description, **change}))
        return str(folder)

    return write


def tiny_tokenizer(folder):
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 5, "red": 11, "dog": 7}, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WEB_MEMORY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))
    return tmp_path / "hub"


def _images(count=3):
    return list(np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8))


def _mean(images):
    return np.mean(np.asarray(images, np.float64), (1, 2)) * [1, 2, 3]


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _encode(handle, images, normalize=False):
    return ImageEncoder(resolve(handle, "float32", normalize)).encode(images, BATCH)


@pytest.mark.parametrize(
    ("kind", "change", "sign"),
    [
        (Plain, {}, 1),
        (Plain, {"output": 0}, 1),
        (Signatures, {"signature": "one"}, 1),
        (Signatures, {"signature": "one", "inputs": ["pixels"], "output": "only"}, 1),
        (Tuple, {"output": 0}, 1),
        (Tuple, {"output": 1}, -1),
        (Named, {"inputs": ["picture"]}, 1),
    ],
)
def test_image_models_of_every_form_give_their_vectors(describe, kind, change, sign):
    images = _images()
    vectors = _encode(describe(kind, IMAGE, **change), [images[0], None, images[2]])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, sign * _mean([images[0], 0 * images[1], images[2]]), rtol=1e-5)


def test_vectors_have_unit_length_unless_told_otherwise(describe):
    handle, images = describe(Plain, IMAGE), _images()
    np.testing.assert_allclose(_encode(handle, images, normalize=True), _unit(_mean(images)), rtol=1e-5)
    spec = resolve(handle, "float16", normalize=False)
    assert (spec.info.dtype, spec.info.normalized, spec.info.dim) == ("float16", False, DIM)
    assert resolve(handle, "float32").info.normalized
    with pytest.raises(UserError, match="float8.*did you mean 'float"):
        resolve(handle, "float8")


@pytest.mark.parametrize(("output", "sign"), [("mean", 1), ("negative", -1)])
def test_value_range_gives_floats_in_it(describe, output, sign):
    preprocess = {"size": SIZE, "crop": "squash", "value_range": [-1, 1]}
    handle = describe(Signatures, IMAGE, signature="scaled", output=output, preprocess=preprocess)
    encoder = ImageEncoder(resolve(handle, "float32", normalize=False))
    assert encoder.preprocess.crop == "squash"
    scaled = np.asarray(_images(), np.float64) / 255 * 2 - 1
    np.testing.assert_allclose(encoder.encode(_images(), BATCH), sign * _mean(scaled), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (Signatures, {}, r"cannot be called; name one of its signatures \(one, scaled, tokens\)"),
        (Signatures, {"signature": "scales"}, "no signature 'scales'; did you mean 'scaled'"),
        (Signatures, {"signature": "one", "inputs": ["pixel"]}, "one has no input 'pixel'; did you mean 'pixels'"),
        (Signatures, {"signature": "one", "output": "lonely"}, "gives only; name one of them as 'output'"),
        (Named, {"inputs": ["image"]}, r"does not take uint8 \[4, 4, 4, 3\]; see 'signature' and 'inputs'"),
        (Tuple, {}, r"gives 2 tensor\(s\) without names; 'output' must be the place"),
        (Tuple, {"output": 2}, r"gives 2 tensor\(s\)"),
        (Tuple, {"output": -1}, r"gives 2 tensor\(s\)"),
        (Plain, {"output": "mean"}, r"gives 1 tensor\(s\) without names"),
        (Plain, {"dim": 7}, r"gives \[3\], its description says \[7\]"),
        (Signatures, {"signature": "one", "preprocess": {"size": 5}}, r"\(pixels is \(None, 4, 4, 3\)\)"),
        (Plain, {"preprocess": {"size": 5}}, r"does not take uint8 \[4, 5, 5, 3\]"),
        (Plain, {"preprocess": {"size": SIZE, "value_range": [0, 1]}}, r"does not take float32 \[4, 4, 4, 3\]"),
        (Signatures, {"signature": "scaled", "output": "mean"}, "pixels is float32; of images, 'value_range'"),
        (
            Signatures,
            {"signature": "one", "preprocess": {"size": SIZE, "value_range": [0, 1]}},
            "pixels is uint8; of images, 'value_range'",
        ),
    ],
)
def test_a_model_that_is_not_as_described_is_worded(describe, kind, change, words):
    handle = describe(kind, IMAGE, **change)
    with pytest.raises(UserError, match=words):
        _encode(handle, [None])


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (None, "gives .*; name one of them as 'output'"),
        ("wide", r"gives \[6\], its description says \[3\]"),
        ("first", "no float tensor with a row for each of the batch"),
    ],
)
def test_outputs_of_the_wrong_shape_are_worded(describe, output, words):
    preprocess = {"size": SIZE, "value_range": [0, 1]}
    handle = describe(Signatures, IMAGE, signature="scaled", output=output, preprocess=preprocess)
    with pytest.raises(UserError, match=words):
        _encode(handle, _images())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": 1}, "'name' must be a text"),
        ({"dim": True}, "'dim' must be a number"),
        ({"dim": 0}, "'dim' must be a number"),
        ({"kind": "sound"}, "'kind' is 'sound', must be image or text"),
        ({"preprocess": [4]}, "'preprocess' must be an object"),
        ({"preprocess": {}}, "has no 'size'"),
        ({"preprocess": {"size": 4, "cropfraction": 1}}, "no field 'cropfraction'; did you mean 'crop_fraction'"),
        ({"preprocess": {"size": 4, "crop": "squash", "crop_fraction": 0.5}}, "must be 1 where 'crop' is squash"),
        ({"signature": {"a": 1}}, "'signature' must be the name of one"),
        ({"inputs": "pixels"}, "'inputs' must be a list of 1 name"),
        ({"inputs": ["a", "b"]}, "'inputs' must be a list of 1 name"),
        ({"output": [0]}, "'output' must be a name or a place"),
        ({"requires": "os"}, "'requires' can only be tensorflow_text"),
        ({"model": 3}, "whose 'model', if it has one, is a folder"),
        ({**TOKENS, "inputs": ["ids"]}, "'inputs' must be a list of 2 names"),
        ({**TEXT, "preprocess": {"tokenizer": "tokenizer.json"}}, "has no 'max_tokens'"),
        ({**TEXT, "preprocess": {"tokenizer": "tokenizer.json", "max_tokens": 0}}, "'max_tokens' must be"),
        ({**TEXT, "preprocess": {"tokenizer": "../tokenizer.json", "max_tokens": 8}}, "within the folder"),
        ({**TEXT, "preprocess": {"tokenizer": "/tokenizer.json", "max_tokens": 8}}, "within the folder"),
        ({**TEXT, "preprocess": {"tokenizer": "other.json", "max_tokens": 8}}, "holds no other.json"),
    ],
)
def test_a_wrong_description_is_worded_at_launch(describe, change, words):
    with pytest.raises(UserError, match=words):
        resolve(describe(Plain, IMAGE, **change), "float32")


@pytest.mark.parametrize("field", ["name", "kind", "dim", "preprocess"])
def test_a_field_that_is_missing_is_named(describe, field, tmp_path):
    handle = describe(Plain, IMAGE)
    (tmp_path / "encoder/encoder.json").write_text(json.dumps({k: v for k, v in IMAGE.items() if k != field}))
    with pytest.raises(UserError, match=f"encoder.json: has no '{field}'; docs/encoders.md"):
        resolve(handle, "float32")


def test_handles_that_name_nothing_are_worded(tmp_path, models):
    with pytest.raises(UserError, match="'resnet': is neither a SavedModel folder nor built in"):
        resolve("resnet", "float32")
    with pytest.raises(UserError, match="encoder.json: no such file"):
        resolve(str(models(Plain)), "float32")
    with pytest.raises(UserError, match="nothing is known of what this model takes"):
        resolve("https://127.0.0.1/model/1", "float32")
    (tmp_path / "encoder.json").write_text("[1]")
    with pytest.raises(UserError, match="encoder.json: must be an object"):
        resolve(str(tmp_path), "float32")
    (tmp_path / "encoder.json").write_text(json.dumps({**IMAGE, "model": "gone"}))
    with pytest.raises(UserError, match="gone: holds no saved_model.pb"):
        resolve(str(tmp_path / "encoder.json"), "float32")


def test_texts_go_in_as_strings_without_a_tokenizer(describe):
    spec = resolve(describe(Strings, TEXT), "float32", normalize=False)
    vectors = TextEncoder(spec).encode(["abc", None, "a red dog"], BATCH)
    np.testing.assert_array_equal(vectors, np.outer([3, 0, 9], [1, 2, 3]))


@pytest.mark.parametrize("names", [["ids", "mask"], ["mask", "ids"]])
def test_token_ids_take_the_type_of_the_signature(describe, names):
    handle = describe(Signatures, TOKENS, signature="tokens", inputs=names)
    vectors = TextEncoder(resolve(handle, "float32", normalize=False)).encode(["red dog", "cat", None], BATCH)
    np.testing.assert_array_equal(vectors, np.outer([11 + 7, 5, 0], [1, 2, 3]))


def test_two_inputs_of_a_signature_must_be_named(describe):
    spec = resolve(describe(Signatures, TOKENS, signature="tokens"), "float32")
    with pytest.raises(UserError, match="tokens has the inputs .*; name them in order as 'inputs'"):
        TextEncoder(spec)


def test_token_ids_take_the_type_of_a_call(describe):
    encoder = TextEncoder(resolve(describe(TokenIds, TOKENS), "float32", normalize=False))
    np.testing.assert_array_equal(encoder.encode(["dog", "red dog"], BATCH), np.outer([7, 18], [1, 2, 3]))


def test_broken_files_are_worded(describe, tmp_path):
    handle = describe(TokenIds, TOKENS)
    (tmp_path / "encoder/tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="tokenizer.json: is no tokenizer"):
        TextEncoder(resolve(handle, "float32"))
    (tmp_path / "encoder/saved_model.pb").write_bytes(b"\xff\xff")
    (tmp_path / "encoder/encoder.json").write_text(json.dumps(TEXT))
    with pytest.raises(UserError, match="TensorFlow cannot load this SavedModel"):
        TextEncoder(resolve(handle, "float32"))


def test_a_missing_tensorflow_text_is_said_before_the_download(describe, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_text", None)
    monkeypatch.setattr(handles, "_local_folder", lambda _: pytest.fail("downloads"))
    for handle in (
        describe(Strings, TEXT, requires="tensorflow_text"),
        "https://tfhub.dev/google/sentence-t5/st5-base/1",
    ):
        with pytest.raises(UserError, match=r"TensorFlow Text .*pip install 'tensorflow-text==2\.\d+\.\*'"):
            resolve(handle, "float32")


def test_a_description_elsewhere_names_its_model(describe, tmp_path, models):
    folder = describe(Plain, IMAGE)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**IMAGE, "model": "encoder"}))
    specs = [resolve(str(other), "float32"), resolve(folder, "float32"), resolve(f"{folder}/encoder.json", "float32")]
    assert len({spec.info.fingerprint for spec in specs}) == 1
    np.testing.assert_allclose(ImageEncoder(specs[0]).encode(_images(), BATCH), _unit(_mean(_images())), rtol=1e-5)
    apart = tmp_path / "apart"
    apart.mkdir()
    (apart / "encoder.json").write_text(json.dumps({**IMAGE, "model": str(models(Plain))}))
    np.testing.assert_allclose(_encode(str(apart), _images()), _mean(_images()), rtol=1e-5)


def test_a_remote_folder_is_fetched(describe):
    folder = describe(Plain, IMAGE)
    remote = fsspec.filesystem("memory")
    remote.put(folder + "/", "/encoders_test/model/", recursive=True)
    spec = resolve("memory://encoders_test/model", "float32")
    assert spec.info == resolve(folder, "float32").info
    np.testing.assert_allclose(ImageEncoder(spec).encode(_images(), BATCH), _unit(_mean(_images())), rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"preprocess": {"size": SIZE, "value_range": [0, 1]}},
        {"preprocess": {"size": SIZE, "value_range": [-1, 1]}},
        {"preprocess": {"size": SIZE, "crop": "squash"}},
        {"signature": "serving_default"},
        {"output": 0},
    ],
)
def test_what_decides_the_vectors_changes_the_fingerprint(describe, change, tmp_path):
    handle = describe(Plain, IMAGE)
    (tmp_path / "changed.json").write_text(json.dumps({**IMAGE, **change, "model": "encoder"}))
    assert (
        resolve(str(tmp_path / "changed.json"), "float32").info.fingerprint
        != resolve(handle, "float32").info.fingerprint
    )


def test_another_crop_is_what_images_get_and_enters_the_fingerprint(describe, tmp_path):
    handle = describe(Plain, {**IMAGE, "preprocess": {"size": SIZE, "crop_fraction": 0.5}})
    own, whole = resolve(handle, "float32"), resolve(handle, "float32", crop_fraction=1.0)
    assert resolve(handle, "float32", crop_fraction=0.5).info == own.info != whole.info
    assert ImageEncoder(own).preprocess.crop_fraction == 0.5
    assert ImageEncoder(whole).preprocess.crop_fraction == 1.0


def test_a_crop_that_cannot_be_is_refused(describe):
    handle = describe(Plain, {**IMAGE, "preprocess": {"size": SIZE, "crop": "squash"}})
    with pytest.raises(UserError, match="--config.encoders.crop_fraction=1.5: must be 0 to 1"):
        resolve(handle, "float32", crop_fraction=1.5)
    with pytest.raises(UserError, match="'crop_fraction'"):
        resolve(handle, "float32", crop_fraction=0.5)


def test_texts_have_no_crop(describe):
    handle = describe(Strings, TEXT)
    assert resolve(handle, "float32", crop_fraction=0.5).info == resolve(handle, "float32").info


def test_files_of_the_model_change_the_fingerprint(describe, tmp_path):
    handle = describe(Plain, IMAGE)
    before = resolve(handle, "float32").info.fingerprint
    assets = tmp_path / "encoder/assets/encoder.json"
    assets.write_text("{}")
    assert resolve(handle, "float32").info.fingerprint != before
    assets.unlink()
    assert resolve(handle, "float32").info.fingerprint == before


@pytest.fixture
def server(tmp_path):
    """Serves a folder and counts what was asked for."""
    asked = []
    root = tmp_path / "served"
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", root, asked
        listening.shutdown()
        thread.join()


def _serve(root, folder, name="model.tar.gz"):
    with tarfile.open(root / name, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            if path.name != "encoder.json":
                tar.add(path, path.relative_to(folder), recursive=False)


def test_a_url_is_downloaded_once_and_again_if_swept(describe, server, tmp_path, cache):
    url, root, asked = server
    folder = describe(Plain, IMAGE)
    _serve(root, tmp_path / "encoder")
    handle = tmp_path / "url.json"
    handle.write_text(json.dumps({**IMAGE, "model": f"{url}/model.tar.gz"}))
    spec = resolve(str(handle), "float32")
    assert spec.info == resolve(folder, "float32").info
    np.testing.assert_allclose(ImageEncoder(spec).encode(_images(), BATCH), _unit(_mean(_images())), rtol=1e-5)
    assert len(asked) == 1
    (swept,) = cache.glob("*/saved_model.pb")
    swept.unlink()
    assert resolve(str(handle), "float32").info == spec.info
    assert len(asked) == 2 and swept.exists()


def test_downloads_lie_in_our_cache_unless_told_otherwise(describe, server, tmp_path, monkeypatch):
    url, root, _ = server
    describe(Plain, IMAGE)
    _serve(root, tmp_path / "encoder")
    monkeypatch.delenv("TFHUB_CACHE_DIR")
    (tmp_path / "url.json").write_text(json.dumps({**IMAGE, "model": f"{url}/model.tar.gz"}))
    resolve(str(tmp_path / "url.json"), "float32")
    assert len([*(tmp_path / "cache/tfhub").glob("*/saved_model.pb")]) == 1


def test_downloads_that_fail_are_worded(server, tmp_path):
    url, root, _ = server
    (root / "text.tar.gz").write_text("no archive")
    (tmp_path / "note").mkdir()
    (tmp_path / "note/README").write_text("no model")
    _serve(root, tmp_path / "note", "empty.tar.gz")
    for name, words in (
        ("gone", "cannot be downloaded .*404.*fetch it elsewhere"),
        ("text.tar.gz", "cannot be downloaded"),
        ("empty.tar.gz", "holds no saved_model.pb"),
    ):
        (tmp_path / "url.json").write_text(json.dumps({**IMAGE, "model": f"{url}/{name}"}))
        with pytest.raises(UserError, match=words):
            resolve(str(tmp_path / "url.json"), "float32")


def test_a_vision_transformer_embeds_as_vit_does(tmp_path):
    path = tmp_path / "augreg.npz"
    vit_files.write(path, vit_files.LAYOUTS["augreg"], vit_files.TINY)
    spec = resolve(str(path), "float32", normalize=False)
    encoder = ImageEncoder(spec)
    assert (spec.kind, spec.info.dim, encoder.preprocess.size) == ("image", vit_files.TINY.width, 12)
    images = np.random.default_rng(1).integers(0, 256, (3, 12, 12, 3), np.uint8)
    expected = vit.VitEncoder(*vit_checkpoint.load(str(path)))(images)
    np.testing.assert_allclose(encoder.encode(list(images), BATCH), expected, rtol=1e-4, atol=1e-5)


def test_a_vision_transformer_has_the_fingerprint_of_its_weights_and_preprocess(tmp_path):
    path, described = tmp_path / "x.npz", tmp_path / "x.json"
    vit_files.write(path, vit_files.LAYOUTS["augreg"], vit_files.TINY)

    def fingerprint(handle, **description):
        described.write_text(json.dumps({"model": "x.npz", **description}))
        return resolve(str(handle), "float32").info.fingerprint

    plain = fingerprint(path)
    assert fingerprint(described) == plain
    squash = {"crop": "squash", "crop_fraction": 1.0}
    found = [plain, *(fingerprint(described, preprocess=changed) for changed in ({"size": 13}, squash))]
    vit_files.write(path, vit_files.LAYOUTS["augreg"], vit_files.TINY, seed=1)
    assert len({*found, fingerprint(path)}) == 4


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({"dim": 5}, "'dim' is 5, of these weights it is 24"),
        ({"kind": "text"}, "'kind' is 'text', of these weights it is 'image'"),
        ({"weights_sha256": "0"}, "'weights_sha256' is '0'"),
        ({"preprocess": {"size": 99}}, "99 pixels does not fit this ViT"),
        ({"preprocess": {"size": "12"}}, "'size' is a whole number"),
        ({"preprocess": []}, "'preprocess' must be an object"),
        ({"preprocess": {"value_range": [-1, 1]}}, "'value_range' is not for a Vision Transformer"),
    ],
)
def test_a_description_that_its_weights_deny_is_worded(tmp_path, description, words):
    vit_files.write(tmp_path / "x.npz", vit_files.LAYOUTS["augreg"], vit_files.TINY)
    (tmp_path / "x.json").write_text(json.dumps({"model": "x.npz", **description}))
    with pytest.raises(UserError, match=words):
        resolve(str(tmp_path / "x.json"), "float32")


def test_an_encoder_of_two_columns_is_loaded_once(tmp_path, describe):
    text = resolve(describe(Strings, TEXT), "float32")
    tiny.save_image_encoder(tmp_path / "image")
    image = resolve(str(tmp_path / "image"), "float32")
    brought = handles.precomputed("precomputed:clip", 5, "float32", True)
    loaded = EncoderSet({"key": image, "value_image": image, "value_image_clip": brought, "value_text": text}).columns
    assert list(loaded) == ["key", "value_image", "value_text"]
    assert loaded["key"] is loaded["value_image"] is not loaded["value_text"]


def test_precomputed_vectors_have_the_fingerprint_of_their_name_and_width():
    def fingerprint(name, dim):
        return handles.precomputed(f"precomputed:{name}", dim, "float32", True).info.fingerprint

    assert fingerprint("clip", 5) == fingerprint("clip", 5)
    assert len({fingerprint("clip", 5), fingerprint("clip", 6), fingerprint("siglip", 5)}) == 3


def test_columns_are_named_after_their_role_and_name():
    wanted = Encoders("a", ("b", "large=c"), ("t5=https://host/x?a=b", "https://host/y?a=b", "clip=precomputed:c"))
    assert columns(wanted) == {
        "key": ("a", "image"),
        "value_image": ("b", "image"),
        "value_image_large": ("c", "image"),
        "value_text_t5": ("https://host/x?a=b", "text"),
        "value_text": ("https://host/y?a=b", "text"),
        "value_text_clip": ("precomputed:c", "text"),
    }
    with pytest.raises(UserError, match="key: is empty"):
        columns(Encoders(key=""))
    with pytest.raises(UserError, match="value_text=a,b: two encoders for the column value_text; name one of them"):
        columns(Encoders(value_text=("a", "b")))
    with pytest.raises(UserError, match="two encoders for the column value_image_x"):
        columns(Encoders(value_image=("x=a", "x=b")))


def test_space_that_encoders_share(tmp_path):
    tiny.save_image_encoder(tmp_path / "image")
    path = tmp_path / "image/encoder.json"
    own = handles.resolve(str(tmp_path / "image"), "float32")
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "space": "clip"}))
    shared = handles.resolve(str(tmp_path / "image"), "float32")
    assert (own.space, shared.space) == ("", "clip")
    # It can be said of the encoder of a memory that is there already.
    assert own.info == shared.info
    assert handles.precomputed("precomputed:clip", 6, "float32", True).space == "clip"
    path.write_text(json.dumps({**described, "space": 3}))
    with pytest.raises(UserError, match="'space' must be a text; docs/encoders.md"):
        handles.resolve(str(tmp_path / "image"), "float32")
