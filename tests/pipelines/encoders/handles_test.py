"""Handles of every kind: what they resolve to, and what is wrong with a description."""

import json

import numpy as np
import pytest

from configs.base import Encoders
from pipelines.encoders import handles
from pipelines.encoders.handles import columns, resolve
from pipelines.encoders.loaded import ImageEncoder
from pipelines.errors import UserError
from tests.pipelines import tiny_encoders as tiny
from tests.pipelines import vit_files
from tests.pipelines.encoders import made

pytestmark = pytest.mark.usefixtures("cache")


def test_vectors_have_unit_length_unless_told_otherwise(describe):
    handle, images = describe(made.Plain, made.IMAGE), made.images()
    np.testing.assert_allclose(made.encode(handle, images, normalize=True), made.unit(made.mean(images)), rtol=1e-5)
    spec = resolve(handle, "float16", normalize=False)
    assert (spec.info.dtype, spec.info.normalized, spec.info.dim) == ("float16", False, made.DIM)
    assert resolve(handle, "float32").info.normalized


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
        ({"model": "https://me:secret@host/m"}, "'model' is a URL with a name or a password; leave it out"),
        ({"model": "hf:/models/clip#image"}, "'model' is 'hf:/models/clip#image'; give it as the encoder itself"),
        ({"model": 3}, "whose 'model', if it has one, is a folder"),
        ({**made.TOKENS, "inputs": ["ids"]}, "'inputs' must be a list of 2 names"),
        ({**made.TEXT, "preprocess": {"tokenizer": "tokenizer.json"}}, "has no 'max_tokens'"),
        ({**made.TEXT, "preprocess": {"tokenizer": "tokenizer.json", "max_tokens": 0}}, "'max_tokens' must be"),
        ({**made.TEXT, "preprocess": {"tokenizer": "../tokenizer.json", "max_tokens": 8}}, "within the folder"),
        ({**made.TEXT, "preprocess": {"tokenizer": "/tokenizer.json", "max_tokens": 8}}, "within the folder"),
        ({**made.TEXT, "preprocess": {"tokenizer": "other.json", "max_tokens": 8}}, "has no other.json"),
    ],
)
def test_a_wrong_description_is_worded_at_launch(describe, change, words):
    with pytest.raises(UserError, match=words):
        resolve(describe(made.Plain, made.IMAGE, **change), "float32")


@pytest.mark.parametrize("field", ["name", "kind", "dim", "preprocess"])
def test_a_field_that_is_missing_is_named(describe, field, tmp_path):
    handle = describe(made.Plain, made.IMAGE)
    (tmp_path / "encoder/encoder.json").write_text(json.dumps({k: v for k, v in made.IMAGE.items() if k != field}))
    with pytest.raises(UserError, match=f"encoder.json: has no '{field}'; docs/encoders.md"):
        resolve(handle, "float32")


def test_handles_that_name_nothing_are_worded(tmp_path, models):
    with pytest.raises(UserError, match="'resnet': is neither a SavedModel folder nor built in"):
        resolve("resnet", "float32")
    with pytest.raises(UserError, match="encoder.json: no such file"):
        resolve(str(models(made.Plain)), "float32")
    with pytest.raises(UserError, match="its inputs and outputs are unknown"):
        resolve("https://127.0.0.1/model/1", "float32")
    (tmp_path / "encoder.json").write_text("[1]")
    with pytest.raises(UserError, match="encoder.json: must be an object"):
        resolve(str(tmp_path), "float32")
    (tmp_path / "encoder.json").write_text(json.dumps({**made.IMAGE, "model": "gone"}))
    with pytest.raises(UserError, match="gone: has no saved_model.pb"):
        resolve(str(tmp_path / "encoder.json"), "float32")


def test_a_description_elsewhere_names_its_model(describe, tmp_path, models):
    folder = describe(made.Plain, made.IMAGE)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**made.IMAGE, "model": "encoder"}))
    specs = [resolve(str(other), "float32"), resolve(folder, "float32"), resolve(f"{folder}/encoder.json", "float32")]
    assert len({spec.info.fingerprint for spec in specs}) == 1
    np.testing.assert_allclose(
        ImageEncoder(specs[0]).encode(made.images(), made.BATCH), made.unit(made.mean(made.images())), rtol=1e-5
    )
    apart = tmp_path / "apart"
    apart.mkdir()
    (apart / "encoder.json").write_text(json.dumps({**made.IMAGE, "model": str(models(made.Plain))}))
    np.testing.assert_allclose(made.encode(str(apart), made.images()), made.mean(made.images()), rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"preprocess": {"size": made.SIZE, "value_range": [0, 1]}},
        {"preprocess": {"size": made.SIZE, "value_range": [-1, 1]}},
        {"preprocess": {"size": made.SIZE, "crop": "squash"}},
        {"signature": "serving_default"},
        {"output": 0},
    ],
)
def test_what_decides_the_vectors_changes_the_fingerprint(describe, change, tmp_path):
    handle = describe(made.Plain, made.IMAGE)
    (tmp_path / "changed.json").write_text(json.dumps({**made.IMAGE, **change, "model": "encoder"}))
    assert (
        resolve(str(tmp_path / "changed.json"), "float32").info.fingerprint
        != resolve(handle, "float32").info.fingerprint
    )


def test_another_crop_is_what_images_get_and_enters_the_fingerprint(describe, tmp_path):
    handle = describe(made.Plain, {**made.IMAGE, "preprocess": {"size": made.SIZE, "crop_fraction": 0.5}})
    own, whole = resolve(handle, "float32"), resolve(handle, "float32", crop_fraction=1.0)
    assert resolve(handle, "float32", crop_fraction=0.5).info == own.info != whole.info
    assert ImageEncoder(own).preprocess.crop_fraction == 0.5
    assert ImageEncoder(whole).preprocess.crop_fraction == 1.0


def test_a_crop_that_cannot_be_is_refused(describe):
    handle = describe(made.Plain, {**made.IMAGE, "preprocess": {"size": made.SIZE, "crop": "squash"}})
    with pytest.raises(UserError, match="'crop_fraction'"):
        resolve(handle, "float32", crop_fraction=0.5)


def test_texts_have_no_crop(describe):
    handle = describe(made.Strings, made.TEXT)
    assert resolve(handle, "float32", crop_fraction=0.5).info == resolve(handle, "float32").info


def test_files_of_the_model_change_the_fingerprint(describe, tmp_path):
    handle = describe(made.Plain, made.IMAGE)
    before = resolve(handle, "float32").info.fingerprint
    assets = tmp_path / "encoder/assets/encoder.json"
    assets.write_text("{}")
    assert resolve(handle, "float32").info.fingerprint != before
    assets.unlink()
    assert resolve(handle, "float32").info.fingerprint == before


def test_a_vision_transformer_has_the_fingerprint_of_its_weights_and_preprocess(tmp_path):
    path, described = tmp_path / "x.npz", tmp_path / "x.json"
    vit_files.write(path, vit_files.LAYOUTS["augreg"], vit_files.TINY)

    def fingerprint(handle, **description):
        described.write_text(json.dumps({"model": "x.npz", **description}))
        return resolve(str(handle), "float32", is_run=False).info.fingerprint

    plain = fingerprint(path)
    assert fingerprint(described) == fingerprint(f"{path}#image") == plain
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
        ({"preprocess": {"value_range": [-1, 1]}}, "'value_range' is not for a checkpoint, which scales its pixels"),
        ({"preprocess": {"mean": [0, 0, 0]}}, "'mean' is not for a checkpoint"),
        ({"preprocess": {"std": [1, 1, 1]}}, "'std' is not for a checkpoint"),
        ({"preprocess": {"layout": "channels_first"}}, "'layout' is not for a checkpoint"),
        ({"preprocess": {"crop": "middle"}}, "'crop' must be one of center"),
        ({"signature": "serving_default"}, "'signature' is not for a checkpoint"),
        ({"model": "y.npz"}, "there is no file .*y.npz"),
    ],
)
def test_a_description_that_its_weights_deny_is_worded(tmp_path, description, words):
    vit_files.write(tmp_path / "x.npz", vit_files.LAYOUTS["augreg"], vit_files.TINY)
    (tmp_path / "x.json").write_text(json.dumps({"model": "x.npz", **description}))
    with pytest.raises(UserError, match=words):
        resolve(str(tmp_path / "x.json"), "float32")


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
