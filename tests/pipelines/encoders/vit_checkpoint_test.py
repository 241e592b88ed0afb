"""Checkpoints are hostile data: the right arrays come out, all others are refused by a sentence that names them."""

import dataclasses
import io
import pathlib
import pickle
import zipfile

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pipelines.encoders import vit_checkpoint
from pipelines.encoders.towers.npz_files import npz
from pipelines.errors import UserError
from tests.pipelines import vit_files

AUGREG, SIGLIP = vit_files.LAYOUTS["augreg"], vit_files.LAYOUTS["siglip"]
BLOCK = "Transformer/encoderblock_1"


def _save(path, arrays):
    np.savez(path, **arrays)
    return str(path)


def _refused(path, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        vit_checkpoint.load(str(path))
    assert str(caught.value).startswith(str(path))


@pytest.fixture(scope="module")
def augreg():
    return vit_files.arrays(AUGREG, vit_files.TINY)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.npz"


def test_old_names_and_positions_become_those_of_today(augreg, path):
    _, params = vit_checkpoint.load(_save(path, augreg))
    blocks = params["Transformer"]
    pairs = [
        (blocks["encoderblock_1"]["LayerNorm_1"]["scale"], augreg[f"{BLOCK}/LayerNorm_2/scale"]),
        (blocks["encoderblock_2"]["MlpBlock_0"]["Dense_1"]["bias"], augreg[f"{BLOCK[:-1]}2/MlpBlock_3/Dense_1/bias"]),
        (
            blocks["encoderblock_1"]["MultiHeadDotProductAttention_0"]["out"]["kernel"],
            augreg[f"{BLOCK}/MultiHeadDotProductAttention_1/out/kernel"],
        ),
        (params["pos_embedding"], augreg["Transformer/posembed_input/pos_embedding"][:, 1:]),
        (params["cls"], augreg["cls"] + augreg["Transformer/posembed_input/pos_embedding"][:, :1]),
    ]
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)
    assert "head" not in params


def test_stacked_blocks_are_those_of_the_unstacked_file(path):
    plain, stacked = (vit_files.arrays(vit_files.LAYOUTS[name], vit_files.TINY) for name in ("siglip", "siglip 2"))
    assert len(stacked) < len(plain)
    _, ours = vit_checkpoint.load(_save(path, stacked))
    _, theirs = vit_checkpoint.load(_save(path, plain))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_two_byte_arrays_are_read_as_what_they_mean(augreg, path, dtype):
    rounded = {name: array.astype(dtype) for name, array in augreg.items()}
    _, params = vit_checkpoint.load(_save(path, rounded))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(params["embedding"]["kernel"], rounded["embedding/kernel"].astype(np.float32))


def test_compressed_files_on_any_storage_are_read(augreg):
    url = "memory://checkpoints/x.npz"
    with fsspec.open(url, "wb") as file:
        np.savez_compressed(file, **augreg)
    _, params = vit_checkpoint.load(url)
    np.testing.assert_array_equal(params["embedding"]["kernel"], augreg["embedding/kernel"])


@pytest.mark.parametrize("name", ["augreg pre_logits", "big_vision gap", "siglip", "big_vision map, stacked"])
def test_every_missing_array_is_noticed(name):
    layout = vit_files.LAYOUTS[name]
    arrays = vit_files.arrays(layout, dataclasses.replace(vit_files.TINY, depth=1))
    tower = {
        name.removeprefix(layout.root): array
        for name, array in arrays.items()
        if name.startswith(layout.root) and not name.startswith((f"{layout.root}head/", "params/txt/", "params/t"))
    }
    vit_checkpoint.infer(vit_checkpoint.modernise(tower))
    for left_out in tower:
        with pytest.raises(UserError, match="has no array|has an array|make no square"):
            vit_checkpoint.infer(vit_checkpoint.modernise({k: v for k, v in tower.items() if k != left_out}))


def test_a_missing_array_is_named(augreg, path):
    name = f"{BLOCK}/MlpBlock_3/Dense_0/bias"
    _save(path, {key: array for key, array in augreg.items() if key != name})
    _refused(path, f"has no array {BLOCK}/MlpBlock_0/Dense_0/bias, which .* take a ViT checkpoint of augreg")


@pytest.mark.parametrize(
    ("name", "shape", "sentence"),
    [
        (
            f"{BLOCK}/MlpBlock_3/Dense_0/kernel",
            (24, 41),
            r"Dense_0/kernel is \[24, 41\], must be \[24, 40\]",
        ),
        (f"{BLOCK[:-1]}0/MultiHeadDotProductAttention_1/query/kernel", (24, 3, 9), "query/kernel: 3 x 9 is not 24"),
        (f"{BLOCK[:-1]}0/MultiHeadDotProductAttention_1/query/kernel", (24, 24), r"must be \[D H D/H\]"),
        ("embedding/kernel", (4, 5, 3, 24), r"embedding/kernel is \[4, 5, 3, 24\], must be \[4, 4, 3, 24\]"),
        ("embedding/kernel", (4, 4, 1, 24), r"embedding/kernel is \[4, 4, 1, 24\], must be \[4, 4, 3, 24\]"),
        ("embedding/kernel", (4, 4, 3, 0), r"embedding/kernel is \[4, 4, 3, 0\], must be \[P P 3 D\]"),
        ("Transformer/posembed_input/pos_embedding", (1, 12, 24), "pos_embedding has 11 places, which make no square"),
        ("cls", (9, 1, 24), "pos_embedding has 10 places, which make no square"),
        (f"{BLOCK}/LayerScale_0/gamma", (24,), "has an array .*LayerScale_0/gamma, which this ViT has no place for"),
        ("pos_embedding", (1, 9, 24), "another array both mean pos_embedding; remove one"),
        ("Transformer/encoderblock_7/LayerNorm_0/bias", (24,), "are not numbered one by one"),
        (
            "Transformer/encoderblock/LayerNorm_0/bias",
            (257, 1),
            r"is \[257, 1\], must have one row for each of 1 to",
        ),
    ],
)
def test_odd_shapes_and_names_are_named(augreg, path, name, shape, sentence):
    _save(path, {**augreg, name: np.zeros(shape, np.float32)})
    _refused(path, sentence)


class _Trap:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return pathlib.Path.touch, (self.target,)


def test_pickles_are_refused_and_never_run(augreg, path, tmp_path):
    sprung = tmp_path / "sprung"
    trap = np.array([_Trap(sprung)], dtype=object)
    pickle.loads(pickle.dumps(trap))
    assert sprung.exists()
    sprung.unlink()
    _save(path, {**augreg, "cls": trap})
    _refused(path, "cls.npy is of type object, must be float32, float16 or bfloat16")
    assert not sprung.exists()


@pytest.mark.parametrize("dtype", [np.float64, np.int32, ">f4", "V3"])
def test_other_types_are_refused(augreg, path, dtype):
    _save(path, {**augreg, "cls": np.zeros((1, 1, 24), dtype)})
    _refused(path, "cls.npy is of type .*, must be float32, float16 or bfloat16")


def test_what_is_not_of_the_image_tower_is_not_read(path):
    arrays = vit_files.arrays(SIGLIP, vit_files.TINY)
    _, expected = vit_checkpoint.load(_save(path, arrays))
    odd = {"params/txt/x": np.array([{}], object), "params/img/head/kernel": np.zeros(3, int), "params/b": np.int64(1)}
    _, params = vit_checkpoint.load(_save(path, {**arrays, **odd}))
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def _with_member(path, augreg, name, data, compression=zipfile.ZIP_STORED):
    _save(path, {key: array for key, array in augreg.items() if key != name})
    with zipfile.ZipFile(path, "a", compression) as archive:
        archive.writestr(f"{name}.npy", data)


def _npy(shape, data=b"", version=(1, 0)):
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    write = np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0
    write(stream, header)
    return stream.getvalue() + data


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (_npy((1 << 40, 1 << 40)), "cls.npy has .* bytes, which is not what its shape"),
        (_npy((1, 1, 24), bytes(95)), "cls.npy has .* bytes, which is not what its shape"),
        (_npy((1, 1, 24), bytes(97)), "cls.npy has .* bytes, which is not what its shape"),
        (_npy((-1, -24), bytes(96)), "was refused as a ViT checkpoint"),
        (_npy((1, 1, 24), bytes(96), (2, 0)), "cls.npy is not in version 1.0"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "was refused as a ViT checkpoint"),
        (b"", "was refused as a ViT checkpoint"),
        (b"no array", "was refused as a ViT checkpoint"),
    ],
)
def test_headers_that_lie_are_refused(augreg, path, data, sentence):
    _with_member(path, augreg, "cls", data)
    _refused(path, sentence)


def test_a_large_declared_total_is_refused_before_it_is_read(augreg, path, monkeypatch):
    _save(path, augreg)
    vit_checkpoint.load(str(path))
    monkeypatch.setattr(npz, "MAX_BYTES", 50_000)
    monkeypatch.setattr(np.lib.format, "read_array", None)
    _refused(path, "its arrays have .* bytes, the limit is 50,000")


def test_arrays_that_inflate_are_refused(augreg, path):
    _with_member(path, augreg, "cls", _npy((1 << 20,), bytes(4 << 20)), zipfile.ZIP_DEFLATED)
    _refused(path, "its arrays have .* bytes, the limit is")


def test_too_many_members_are_refused(path):
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(8193):
            archive.writestr(str(index), b"")
    _refused(path, "it has 8193 members where 8192 are allowed")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(augreg, path):
    _save(path, augreg)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("cls.npy", b"")
    _refused(path, "or two of one name")


@pytest.mark.parametrize("prefix", ["params/", "params/txt/"])
def test_a_file_must_hold_one_image_tower(augreg, path, prefix):
    arrays = {f"{prefix}{name}": array for name, array in augreg.items()}
    _save(path, {**augreg, **arrays} if prefix == "params/" else arrays)
    _refused(path, "it must have one array embedding/kernel")


def test_broken_files_are_refused(augreg, path):
    _save(path, augreg)
    data = path.read_bytes()
    for cut in (0, 1, 1000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        _refused(path, "was refused as a ViT checkpoint .*; fetch the file again")
    kernel = augreg["embedding/kernel"].tobytes()
    assert kernel in data
    path.write_bytes(data.replace(kernel, kernel[:-1] + b"\x00"))
    _refused(path, "Bad CRC-32 for file 'embedding/kernel.npy'")


def test_a_missing_file_is_named(path):
    _refused(path, "no such file")


@pytest.mark.parametrize("layout", vit_files.LAYOUTS)
def test_the_config_is_known_without_the_weights(layout, path, monkeypatch):
    _save(path, vit_files.arrays(vit_files.LAYOUTS[layout], vit_files.TINY))
    loaded, _ = vit_checkpoint.load(str(path))

    def read(*args, **kwargs):
        raise AssertionError("weights were read")

    monkeypatch.setattr(np.lib.format, "read_array", read)
    assert vit_checkpoint.read_config(str(path)) == loaded.config


def test_a_broken_header_is_refused_without_the_weights(augreg, path):
    _save(path, augreg | {"cls": augreg["cls"].astype(np.float64)})
    with pytest.raises(UserError, match="cls.npy is of type float64, must be float32"):
        vit_checkpoint.read_config(str(path))
