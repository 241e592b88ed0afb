"""Precision: who may compute in bfloat16, what it changes in fingerprints, and by how much in vectors."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from configs.base import Encoders
from pipelines.encoders import process
from pipelines.encoders.handles import resolve
from pipelines.encoders.loaded import ImageEncoder
from pipelines.errors import UserError
from tests.pipelines import vit_files
from tests.pipelines.encoders import made

_CPUINFO = pathlib.Path("/proc/cpuinfo")
_HAS_BFLOAT16 = _CPUINFO.exists() and {"amx_bf16", "avx512_bf16"} & {*_CPUINFO.read_text().split()}
_SIDE, _DIM = 16, 64


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """Gives the process another processor, by its flags."""

    def write(flags):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} avx512f\n\nprocessor\t: 1\n")
        monkeypatch.setattr(process, "_CPUINFO", path)

    return write


@pytest.mark.usefixtures("cache")
def test_only_bfloat16_changes_the_fingerprint_of_an_encoder(describe, cpuinfo):
    cpuinfo("avx512_bf16")
    handle = describe(made.Plain, made.IMAGE)
    plain, half = resolve(handle, "float32"), resolve(handle, "float32", compute="bfloat16")
    assert resolve(handle, "float32", compute=Encoders().compute) == plain
    assert plain.info.fingerprint != half.info.fingerprint
    assert half == resolve(handle, "float32", compute="bfloat16") and half.compute == "bfloat16"


@pytest.mark.usefixtures("cache")
def test_a_processor_without_bfloat16_is_refused_at_launch_and_by_the_worker(describe, cpuinfo):
    handle = describe(made.Plain, made.IMAGE)
    cpuinfo("amx_bf16")
    spec = resolve(handle, "float32", compute="bfloat16")
    cpuinfo("amx_int8")
    words = (
        r"--config.encoders.compute=bfloat16: the processor of this machine has neither AMX-BF16 nor AVX-512 BF16 "
        r"\(amx_bf16 and avx512_bf16 were looked for in \S*cpuinfo\), so bfloat16 would bring nothing; "
        r"set --config.encoders.compute=float32"
    )
    with pytest.raises(UserError, match=words):
        resolve(handle, "float32", compute="bfloat16")
    with pytest.raises(UserError, match=words):
        ImageEncoder(spec)
    resolve(handle, "float32")


def test_a_machine_without_a_list_of_flags_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_CPUINFO", tmp_path / "none")
    with pytest.raises(UserError, match="has neither AMX-BF16 nor AVX-512 BF16"):
        process.check_compute("bfloat16")


def test_bfloat16_is_refused_where_tensorflow_has_a_gpu(cpuinfo, monkeypatch):
    cpuinfo("amx_bf16")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    with pytest.raises(UserError, match="computes on a GPU here .*CUDA_VISIBLE_DEVICES=-1 to embed on the processor"):
        process.check_compute("bfloat16")


def test_a_machine_that_does_not_run_a_model_needs_no_instructions_for_its_precision(tmp_path, cpuinfo):
    cpuinfo("avx2")
    path = tmp_path / "augreg.npz"
    vit_files.write(path, vit_files.LAYOUTS["augreg"], vit_files.TINY)
    half = resolve(str(path), "float32", compute="bfloat16", is_run=False)
    assert half.compute == "bfloat16" and half.info != resolve(str(path), "float32", is_run=False).info
    with pytest.raises(UserError, match="the processor of this machine has neither AMX-BF16 nor AVX-512 BF16"):
        resolve(str(path), "float32", compute="bfloat16")


class _Convolutions(tf.Module):
    """Three convolutions and a product of matrices, with random weights."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        widths = (3, 32, 64, 64)
        self.kernels = [
            tf.Variable(rng.normal(0, (9 * a) ** -0.5, (3, 3, a, b)).astype(np.float32))
            for a, b in zip(widths, widths[1:], strict=False)
        ]
        self.head = tf.Variable(rng.normal(0, 0.1, (widths[-1], _DIM)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, _SIDE, _SIDE, 3], tf.uint8)])
    def __call__(self, images):
        x = tf.cast(images, tf.float32) / 255
        for kernel in self.kernels:
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
        return tf.matmul(tf.reduce_mean(x, [1, 2]), self.head)


@pytest.mark.usefixtures("cache")
@pytest.mark.skipif(not _HAS_BFLOAT16, reason="the processor has neither amx_bf16 nor avx512_bf16")
def test_vectors_in_bfloat16_are_near_those_in_float32_which_stay_as_they_are(tmp_path, describe):
    folder = pathlib.Path(describe(made.Plain, {**made.IMAGE, "dim": _DIM, "preprocess": {"size": _SIDE}}))
    tf.saved_model.save(_Convolutions(), str(folder))
    images = list(np.random.default_rng(1).integers(0, 256, (8, _SIDE, _SIDE, 3), np.uint8))

    def encode(compute):
        return ImageEncoder(resolve(str(folder), "float32", compute=compute)).encode(images, 8)

    before, half, after = encode("float32"), encode("bfloat16"), encode("float32")
    np.testing.assert_array_equal(before, after)
    cosines = (before * half).sum(1)
    assert not np.array_equal(before, half) and cosines.min() >= 0.99


@pytest.mark.usefixtures("cache")
@pytest.mark.skipif(not _HAS_BFLOAT16, reason="the processor has neither amx_bf16 nor avx512_bf16")
def test_a_vision_transformer_computes_in_bfloat16(tmp_path):
    path, shape = tmp_path / "vit.npz", vit_files.Shape(patch=8, width=64, depth=3, heads=2, mlp_dim=128, grid=4)
    vit_files.write(path, vit_files.LAYOUTS["siglip"], shape)
    images = list(np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), np.uint8))

    def encode(compute):
        return ImageEncoder(resolve(str(path), "float32", compute=compute)).encode(images, 8)

    whole, half = encode("float32"), encode("bfloat16")
    assert not np.array_equal(whole, half) and (whole * half).sum(1).min() >= 0.99
