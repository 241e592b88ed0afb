"""A base encoder's vectors times the matrix, computed in NumPy, against the exported model in a fresh process."""

import json
import subprocess
import sys

import numpy as np
import pytest

from pipelines import storage
from pipelines.encoders import handles, projected
from pipelines.errors import UserError
from tests.pipelines import tiny_encoders
from tests.pipelines.encoders import made

WIDTH = 4
# Takes a handle, a kind, and a file of inputs, and writes the vectors, unit length if so asked.
_ENCODE = """
import json, sys, numpy as np
from pipelines.encoders import handles, loaded
handle, kind, inputs, out = sys.argv[1:]
spec = handles.resolve(handle, "float32", normalize=False)
if kind == "image":
    vectors = loaded.ImageEncoder(spec).encode(list(np.load(inputs)), 8)
else:
    vectors = loaded.TextEncoder(spec).encode_all(json.load(open(inputs)), 8)
np.save(out, vectors)
"""


def _layer(dim, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(dim, WIDTH)).astype(np.float32), rng.normal(size=WIDTH).astype(np.float32)


def _fresh(tmp_path, handle, kind, inputs):
    """Encodes inputs in a new process."""
    file = tmp_path / ("inputs.npy" if kind == "image" else "inputs.json")
    if kind == "image":
        np.save(file, np.stack(inputs))
    else:
        file.write_text(json.dumps(inputs))
    argv = [sys.executable, "-c", _ENCODE, str(handle), kind, str(file), str(tmp_path / "out.npy")]
    subprocess.run(argv, check=True, capture_output=True)
    return np.load(tmp_path / "out.npy")


def _images(size, count=3):
    return list(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("is_unit", [True, False])
def test_an_image_tower_is_the_encoder_times_the_matrix(tmp_path, is_unit):
    base, tower = tmp_path / "base", tmp_path / "tower"
    weights = tiny_encoders.save_image_encoder(base)
    matrix, bias = _layer(tiny_encoders.DIM)
    projected.save(handles.resolve(str(base), "float32", is_unit), matrix, bias, "tower", "shared", str(tower))
    pictures = _images(tiny_encoders.SIZE)
    half = tiny_encoders.SIZE // 2
    blocks = np.stack(pictures).reshape(3, 2, half, 2, half, 3).mean((2, 4)).reshape(3, 12) / 255
    vectors = blocks @ weights
    vectors = made.unit(vectors) if is_unit else vectors
    np.testing.assert_allclose(_fresh(tmp_path, tower, "image", pictures), vectors @ matrix + bias, rtol=1e-4)
    described = handles.resolve(str(tower), "float32")
    assert (described.space, described.info.dim, described.kind) == ("shared", WIDTH, "image")


@pytest.mark.slow
def test_a_text_tower_takes_the_tokenizer_along(tmp_path):
    base, tower = tmp_path / "base", tmp_path / "tower"
    words = tiny_encoders.save_text_encoder(base)
    matrix, bias = _layer(tiny_encoders.TEXT_DIM)
    projected.save(handles.resolve(str(base), "float32"), matrix, bias, "tower", "shared", str(tower))
    storage.remove(str(base))
    ids = [[1, 2, 5], [4, 6], [3]]
    vectors = made.unit(np.stack([words[row].sum(0) for row in ids]))
    found = _fresh(tmp_path, tower, "text", ["a red dog", "blue cat", "green"])
    np.testing.assert_allclose(found, vectors @ matrix + bias, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "description"),
    [
        (made.Plain, made.IMAGE),
        (made.Signatures, {**made.IMAGE, "signature": "one"}),
        (
            made.Signatures,
            {
                **made.IMAGE,
                "signature": "scaled",
                "output": "mean",
                "preprocess": {"size": made.SIZE, "value_range": [0, 255]},
            },
        ),
        (made.Tuple, {**made.IMAGE, "output": 0}),
        (made.Named, {**made.IMAGE, "inputs": ["picture"]}),
    ],
)
def test_models_of_every_form_become_image_towers(tmp_path, kind, description):
    base, tower = tmp_path / "base", tmp_path / "tower"
    base.mkdir()
    model = made.saved(kind, tmp_path)
    (base / "encoder.json").write_text(json.dumps({**description, "model": str(model)}))
    matrix, bias = _layer(made.DIM)
    spec = handles.resolve(str(base), "float32", normalize=False)
    projected.save(spec, matrix, bias, "tower", "shared", str(tower))
    found = made.encode(str(tower), made.images())
    np.testing.assert_allclose(found, made.mean(made.images()) @ matrix + bias, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "description", "expected"),
    [
        (made.Strings, {**made.TEXT, "output": 0}, [3, 3, 7]),
        (made.TokenIds, made.TOKENS, [11, 7, 18]),
        (made.Signatures, {**made.TOKENS, "signature": "tokens", "inputs": ["ids", "mask"]}, [11, 7, 18]),
    ],
)
def test_models_of_every_form_become_text_towers(tmp_path, kind, description, expected):
    base, tower = made.saved(kind, tmp_path), tmp_path / "tower"
    made.save_tokenizer(base)
    (base / "encoder.json").write_text(json.dumps(description))
    matrix, bias = _layer(made.DIM)
    spec = handles.resolve(str(base), "float32", normalize=False)
    projected.save(spec, matrix, bias, "tower", "shared", str(tower))
    vectors = np.array(expected)[:, None] * [1, 2, 3]
    found = _fresh(tmp_path, tower, "text", ["red", "dog", "red dog"])
    np.testing.assert_allclose(found, vectors @ matrix + bias, rtol=1e-4)


@pytest.mark.slow
def test_the_same_arguments_give_the_same_bytes(tmp_path):
    tiny_encoders.save_image_encoder(tmp_path / "base")
    spec = handles.resolve(str(tmp_path / "base"), "float32")
    for name in ("one", "other"):
        projected.save(spec, *_layer(tiny_encoders.DIM), "tower", "shared", str(tmp_path / name))
    one, other = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in ("one", "other")
    )
    assert one == other and len(one) == 4


def test_what_has_no_graph_is_refused_by_name(tmp_path):
    spec = handles.precomputed("precomputed:mine", 3, "float32", True)
    with pytest.raises(UserError, match=r"encoder 'precomputed:mine': has vectors and no model; a tower is made of"):
        projected.save(spec, *_layer(3), "tower", "shared", str(tmp_path / "tower"))
