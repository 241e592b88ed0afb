"""Flax checkpoints give the towers that NumPy computes of the same file, or are refused by a sentence."""

import dataclasses
import io
import math
import pathlib
import pickle
import subprocess
import sys
import zipfile

import fsspec
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from pipelines.encoders.towers import graph
from pipelines.encoders.towers.npz_files import big_vision, npz
from pipelines.encoders.towers.tower import Dense
from pipelines.errors import UserError
from tests.pipelines import vit_files
from tests.pipelines.encoders.towers import npz_files
from tests.pipelines.encoders.towers.npz_files import Shape

IMAGE = Shape(width=24, depth=2, heads=3, hidden=40, grid=3, patch=4)
# Like g-opt's: another width, depth and number of heads, and a head that leads to the width of the image tower.
TEXT = Shape(width=16, depth=3, heads=2, hidden=20, grid=6, tokens=50, out=24)
BLOCK = "params/img/Transformer/encoderblock_1"
NEEDED = "the shape of its other arrays"


@pytest.fixture(scope="module")
def siglip():
    return npz_files.siglip(npz_files.Random(), IMAGE, TEXT)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.npz"


def _save(path, arrays):
    np.savez(path, **arrays)
    return str(path)


def _refused(path, sentence, kind="image", size=None):
    for read in (big_vision.read_form, big_vision.read):
        with pytest.raises(UserError, match=sentence) as caught:
            read(str(path), kind, size)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def _ids(count, seed=0):
    return np.random.default_rng(seed).integers(0, TEXT.tokens, (count, TEXT.grid), np.int32)


@pytest.mark.parametrize("is_stacked", [False, True])
def test_both_towers_of_siglip_are_those_of_numpy(siglip, path, tmp_path, is_stacked):
    _save(path, npz_files.stacked(siglip) if is_stacked else siglip)
    images, ids = npz_files.pixels(3, 12), _ids(3)
    embed = npz_files.exported(big_vision.read(str(path), "image"), tmp_path / "image")
    npz_files.agrees(embed(images), [npz_files.siglip_image(siglip, image, IMAGE.depth) for image in images])
    embed = npz_files.exported(big_vision.read(str(path), "text"), tmp_path / "text")
    # Tokens behind the end of a text count, and no mask hides them.
    mask = np.zeros_like(ids)
    npz_files.agrees(embed(ids, mask), [npz_files.siglip_text(siglip, row, TEXT.depth) for row in ids])


def test_second_positions_are_added(siglip, path):
    second = npz_files.Random(9)("pos", 1, TEXT.grid, TEXT.width)
    old = {**siglip, "params/txt/Encoder_0/pos_embedding": second}
    embed = npz_files.called(big_vision.read(_save(path, old), "text"))
    ids = _ids(3)
    npz_files.agrees(embed(ids, np.ones_like(ids)), [npz_files.siglip_text(old, row, TEXT.depth) for row in ids])
    _save(path, {**old, "params/txt/Encoder_0/pos_embedding": second[:, :3]})
    _refused(path, r"Encoder_0/pos_embedding, which is added to .* is \[1, 3, 16\], must be \[1, 6, 16\]", "text")


@pytest.mark.parametrize("layout", vit_files.LAYOUTS)
def test_image_towers_of_every_layout_are_those_of_numpy(layout, path):
    file = vit_files.write(path, vit_files.LAYOUTS[layout], vit_files.TINY)
    images = npz_files.pixels(3, 14)
    embed = npz_files.called(big_vision.read(str(path), "image", 14))
    npz_files.agrees(embed(images), vit_files.reference(file, vit_files.LAYOUTS[layout], images))


@pytest.mark.slow
def test_another_process_embeds_the_same(siglip, path, tmp_path):
    tower = big_vision.read(_save(path, siglip), "image")
    tf.saved_model.save(graph.module(tower), str(tmp_path / "saved"))
    images = npz_files.pixels(2, 12)
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys, numpy as np, tensorflow as tf; place = sys.argv[1];"
        "model = tf.saved_model.load(place + '/saved'); images = np.load(place + '/images.npy');"
        "np.save(place + '/vectors.npy', model(tf.constant(images)).numpy())"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, timeout=120)
    expected = [npz_files.siglip_image(siglip, image, IMAGE.depth) for image in images]
    npz_files.agrees(np.load(tmp_path / "vectors.npy"), expected)


@pytest.mark.parametrize(
    ("layout", "has_class", "is_mean", "layers"),
    [
        ("augreg", True, False, ()),
        ("augreg pre_logits", True, False, (Dense(24, 24, True, "tanh"),)),
        ("big_vision gap", False, True, ()),
        ("big_vision tok", True, False, ()),
        ("siglip 2", False, False, ()),
    ],
)
def test_the_form_is_read_without_the_weights(layout, has_class, is_mean, layers, path, monkeypatch):
    vit_files.write(path, vit_files.LAYOUTS[layout], vit_files.TINY)
    whole = big_vision.read(str(path), "image")
    monkeypatch.setattr(np.lib.format, "read_array", None)
    form = big_vision.read_form(str(path), "image")
    assert form == whole.form
    assert (form.has_class, form.is_mean, form.layers) == (has_class, is_mean, layers)
    assert (form.size, form.patch, form.blocks.depth, form.blocks.heads, form.vector_width) == (12, 4, 3, 3, 24)
    assert {name: array.shape for name, array in whole.arrays.items()} == form.shapes()
    assert {array.dtype for array in whole.arrays.values()} == {np.dtype(np.float32)}


B16 = Shape(width=768, depth=12, heads=12, hidden=3072, grid=14, patch=16)
B16_TEXT = Shape(width=768, depth=12, heads=12, hidden=3072, grid=64, tokens=32000, out=768)
SO400M = Shape(width=1152, depth=27, heads=16, hidden=4304, grid=27, patch=14)
SO400M_TEXT = dataclasses.replace(SO400M, patch=0, grid=64, tokens=32000, out=1152)
G_OPT = Shape(width=1536, depth=40, heads=16, hidden=6144, grid=16, patch=16)


@pytest.mark.parametrize(
    ("image", "text", "millions"),
    [(B16, B16_TEXT, 203.2), (B16, dataclasses.replace(B16_TEXT, tokens=256_000), 375.2), (SO400M, SO400M_TEXT, 878.0)],
    ids=["SigLIP B/16", "SigLIP 2 B/16", "SigLIP So400m/14-384"],
)
def test_published_models_have_the_published_numbers_of_parameters(image, text, millions, monkeypatch):
    arrays = npz_files.siglip(npz_files.empty, image, text)
    monkeypatch.setattr(npz, "read", lambda path, choose, is_whole: {name: arrays[name] for name in choose({*arrays})})
    forms = [big_vision.read_form("x.npz", kind) for kind in ("image", "text")]
    assert round(sum(_count(form) for form in forms) / 1e6, 1) == millions
    if image is SO400M:
        assert _count(forms[0]) == 428_225_600
    assert forms[0].vector_width == forms[1].vector_width == image.width
    assert (forms[0].blocks.heads, forms[1].blocks.heads, forms[1].length) == (image.heads, text.heads, 64)


def _count(form):
    return sum(math.prod(shape) for shape in form.shapes().values())


def test_the_text_tower_of_g_opt_leads_to_the_width_of_its_image_tower(monkeypatch):
    text = dataclasses.replace(SO400M_TEXT, tokens=256_000, out=1536)
    arrays = npz_files.siglip(npz_files.empty, G_OPT, text)
    monkeypatch.setattr(npz, "read", lambda path, choose, is_whole: {name: arrays[name] for name in choose({*arrays})})
    forms = [big_vision.read_form("x.npz", kind) for kind in ("image", "text")]
    assert [form.vector_width for form in forms] == [1536, 1536]
    assert [form.blocks.depth for form in forms] == [40, 27]
    assert sum(_count(form) for form in forms) == pytest.approx(1.87e9, rel=0.005)


def test_an_input_may_be_larger_than_its_patches(siglip, path):
    _save(path, siglip)
    assert [big_vision.read_form(str(path), "image", size).size for size in (None, 12, 15)] == [12, 12, 15]
    for size in (11, 16, 0, -4):
        _refused(path, f"an input of {size} pixels does not fit this ViT; take 12 to 15", size=size)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_two_byte_arrays_are_read_as_what_they_mean(siglip, path, dtype):
    rounded = {name: array.astype(dtype) for name, array in siglip.items()}
    tower = big_vision.read(_save(path, rounded), "image")
    np.testing.assert_array_equal(
        tower.arrays["patch.kernel"], rounded["params/img/embedding/kernel"].astype(np.float32)
    )


def test_compressed_files_on_any_storage_are_read(siglip):
    url = "memory://checkpoints/siglip.npz"
    with fsspec.open(url, "wb") as file:
        np.savez_compressed(file, **siglip)
    tower = big_vision.read(url, "text")
    np.testing.assert_array_equal(tower.arrays["tokens"], siglip["params/txt/Embed_0/embedding"])


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("is_stacked", [False, True])
def test_every_missing_array_is_noticed(siglip, kind, is_stacked, monkeypatch):
    arrays = npz_files.stacked(siglip) if is_stacked else siglip
    root = f"params/{'img' if kind == 'image' else 'txt'}/"
    given = {}
    monkeypatch.setattr(npz, "read", lambda path, choose, is_whole: {name: given[name] for name in choose({*given})})
    # Without its head a text tower is one of another width.
    for left_out in (name for name in arrays if name.startswith(root) and name != f"{root}head/bias"):
        given = {name: array for name, array in arrays.items() if name != left_out}
        with pytest.raises(
            UserError, match="has no array|has no params|must have one array|which is not of|is no SigLIP"
        ):
            if left_out != "params/img/MAPHead_0/probe":
                big_vision.read_form("x.npz", kind)
            else:
                big_vision.read_form("x.npz", "image")


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        (
            f"{BLOCK}/MlpBlock_0/Dense_0/kernel",
            None,
            f"has no array for {BLOCK}/MlpBlock_0/Dense_0/kernel, which {NEEDED} asks",
        ),
        (f"{BLOCK}/MlpBlock_0/Dense_0/kernel", (24, 41), r"_1/MlpBlock_0/Dense_0/kernel is \[24, 41\], .* \[24, 40\]"),
        (f"{BLOCK}/LayerScale_0/gamma", (24,), f"has {BLOCK}/LayerScale_0/gamma, which is not of the model"),
        ("params/img/embedding/kernel", (4, 5, 3, 24), r"embedding/kernel is \[4, 5, 3, 24\], .* \[4, 4, 3, 24\]"),
        ("params/img/embedding/kernel", (4, 4, 1, 24), r"embedding/kernel is \[4, 4, 1, 24\], must be \[P P 3 D\]"),
        ("params/img/embedding/kernel", (48, 24), r"embedding/kernel is \[48, 24\], must be \[P P 3 D\]"),
        ("params/img/embedding/kernel", None, "must have one array embedding/kernel below one of .*, has 0; take a"),
        ("embedding/kernel", (4, 4, 3, 24), "must have one array embedding/kernel below one of .*, has 2; take a"),
        ("params/img/pos_embedding", (1, 12, 24), "pos_embedding has 12 places, which make no square"),
        ("params/img/cls", (1, 1, 24), "has params/img/cls, which is not of the model"),
        ("params/img/Transformer/pos_embedding", (1, 9, 24), "Transformer/pos_embedding, which is not of the model"),
        (
            "params/img/Transformer/encoderblock_7/LayerNorm_0/bias",
            (24,),
            "has no .*encoderblock_2.* and .* more, which",
        ),
        ("params/img/Transformer/encoderblock_999999/LayerNorm_0/bias", (24,), "has 1000000 blocks, the most are 256"),
        (f"{BLOCK[:-1]}0/MultiHeadDotProductAttention_0/query/kernel", (24, 24), r"must be \[D H D/H\]"),
        (
            f"{BLOCK}/MultiHeadDotProductAttention_0/key/kernel",
            (24, 8, 3),
            r"key/kernel is \[24, 8, 3\], .* \[24, 24\]",
        ),
    ],
)
def test_odd_arrays_are_named(siglip, path, name, shape, sentence):
    arrays = {key: array for key, array in siglip.items() if key != name}
    _save(path, arrays if shape is None else {**arrays, name: np.zeros(shape, np.float32)})
    _refused(path, sentence)


def test_stacks_of_another_depth_are_named(siglip, path):
    stacked = npz_files.stacked(siglip)
    name = "params/img/Transformer/encoderblock/LayerNorm_1/bias"
    _save(path, {**stacked, name: np.zeros((3, 24), np.float32)})
    _refused(path, r"Transformer/encoderblock/LayerNorm_1/bias is \[3, 24\], the shape of its other arrays says \[24\]")


@pytest.mark.parametrize("change", ["no head", "projected images", "no texts"])
def test_texts_of_other_models_are_refused(siglip, path, change):
    arrays = dict(siglip)
    if change == "projected images":
        arrays["params/img/head/kernel"] = np.zeros((24, 24), np.float32)
    left_out = {"no head": "params/img/MAPHead_0/probe", "no texts": "params/txt/Embed_0/embedding"}.get(change)
    _save(path, {name: array for name, array in arrays.items() if name != left_out})
    sentence = "must have one array Embed_0/embedding" if change == "no texts" else "so it is no SigLIP"
    _refused(path, sentence, "text")


class _Trap:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return pathlib.Path.touch, (self.target,)


def test_pickles_are_refused_and_never_run(siglip, path, tmp_path):
    sprung = tmp_path / "sprung"
    trap = np.array([_Trap(sprung)], dtype=object)
    pickle.loads(pickle.dumps(trap))
    assert sprung.exists()
    sprung.unlink()
    _save(path, {**siglip, "params/img/MAPHead_0/probe": trap})
    _refused(path, "was refused as a checkpoint .*probe.npy is of type object, must be float32, float16 or bfloat16")
    assert not sprung.exists()


@pytest.mark.parametrize("dtype", [np.float64, np.int32, ">f4", "V3", bool])
def test_other_types_are_refused(siglip, path, dtype):
    _save(path, {**siglip, "params/txt/head/bias": np.zeros(24, dtype)})
    _refused(path, "head/bias.npy is of type .*, must be float32, float16 or bfloat16", "text")


def _npy(shape, data=b"", write=np.lib.format.write_array_header_1_0):
    stream = io.BytesIO()
    write(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (_npy((1 << 40, 1 << 40)), "has .* bytes, which is not what its shape"),
        (_npy((24,), bytes(95)), "has .* bytes, which is not what its shape"),
        (_npy((-24,), bytes(96)), "was refused as a checkpoint"),
        (_npy((24,), bytes(96), np.lib.format.write_array_header_2_0), "is not in version 1.0"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "was refused as a checkpoint"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65535, "was refused as a checkpoint"),
        (b"", "was refused as a checkpoint"),
    ],
)
def test_headers_that_lie_are_refused(siglip, path, data, sentence):
    name = "params/img/embedding/bias"
    _save(path, {key: array for key, array in siglip.items() if key != name})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{name}.npy", data)
    _refused(path, sentence)


def test_arrays_that_inflate_or_are_too_large_are_refused(siglip, path, monkeypatch):
    name = "params/img/embedding/bias"
    _save(path, siglip)
    monkeypatch.setattr(npz, "MAX_BYTES", 10_000)
    _refused(path, "its arrays have .* bytes, the limit is 10,000")
    monkeypatch.undo()
    _save(path, {key: array for key, array in siglip.items() if key != name})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", _npy((1 << 20,), bytes(4 << 20)))
    _refused(path, "its arrays have .* bytes, the limit is")


def test_broken_and_missing_files_are_refused(siglip, path):
    _refused(path, "no such file")
    _save(path, siglip)
    data = path.read_bytes()
    for cut in (0, 1, 1000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        _refused(path, "was refused as a checkpoint .*; fetch the file again")
    _save(path, siglip)
    bias = siglip["params/img/embedding/bias"].tobytes()
    path.write_bytes(path.read_bytes().replace(bias, bias[:-1] + b"\x00"))
    with pytest.raises(UserError, match="Bad CRC-32 for file 'params/img/embedding/bias.npy'"):
        big_vision.read(str(path), "image")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_too_many_members_and_two_of_one_name_are_refused(siglip, path):
    _save(path, siglip)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("params/t.npy", b"")
    _refused(path, "or two of one name")
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(8193):
            archive.writestr(str(index), b"")
    _refused(path, "it has 8193 members where 8192 are allowed")


def test_what_is_not_of_the_tower_is_not_read(siglip, path):
    expected = big_vision.read(_save(path, siglip), "image").arrays
    odd = {"params/txt/x": np.array([{}], object), "params/img/head/kernel": np.zeros(3, int), "params/y": np.int64(1)}
    found = big_vision.read(_save(path, {**siglip, **odd}), "image").arrays
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
