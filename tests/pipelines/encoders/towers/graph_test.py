"""Exported towers, loaded here and in a fresh process, against the outputs of transformers (`make_oracles`)."""

import functools
import pathlib
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from pipelines.encoders.towers import graph
from pipelines.encoders.towers.hugging_face import models, preprocessing
from tests import slow
from tests.pipelines.encoders.towers import arrays, folders
from tests.world import REPOSITORY

# Loads SavedModels, and calls each with the arrays beside it.
_CALL = """
import pathlib, sys
import numpy as np, tensorflow_hub as hub

for folder in map(pathlib.Path, sys.argv[1:]):
    inputs = np.load(folder / "inputs.npz")
    np.save(folder / "output.npy", hub.load(str(folder))(*(inputs[name] for name in inputs.files)).numpy())
"""
_IMAGES = [name for name in folders.NAMES if "image" in folders.oracle(name)]
_TWO_TOWERS = [name for name in _IMAGES if "text" in folders.oracle(name)]
_SENTENCES = [name for name in folders.NAMES if name not in _IMAGES]
_MODULES = {
    "mean": ("Pooling",),
    "first": ("Pooling",),
    "unit": ("Pooling", "Normalize"),
    "dense": ("Pooling", "Dense", "Normalize"),
}
# Cases that every run of the tests takes: one of each kind of tower, and of what is behind it.
_USUAL = ("clip-image", "clip-text", "siglip-image", "dinov2-image", "bert-mean", "bert-dense", "t5-mean")


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _cases() -> dict[str, tuple[str, str, str]]:
    """Name of each case: oracle, kind of the tower, and what is behind it."""
    found = {f"{name}-image": (name, "image", "") for name in _IMAGES}
    found |= {f"{name}-text": (name, "text", "") for name in _TWO_TOWERS}
    return found | {f"{name}-{modules}": (name, "text", modules) for name in _SENTENCES for modules in _MODULES}


def _expected(oracle: dict, kind: str, modules: str) -> np.ndarray:
    if not modules:
        return np.array(oracle[kind])
    vectors = np.array(oracle["first" if modules == "first" else "mean"])
    if modules == "dense":
        vectors = vectors @ folders.dense().T
    return _unit(vectors) if modules in ("unit", "dense") else vectors


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Callable[[str, str], np.ndarray]:
    """Returns what an exported tower returns here or in a fresh process, to which all are given together."""

    @functools.cache
    def exported(where: str) -> dict[str, np.ndarray]:
        cases = _USUAL if where == "here" else tuple(_cases())
        return _outputs(tmp_path_factory.mktemp("towers"), cases, where)

    return lambda case, where: exported(where)[case]


def _outputs(root: pathlib.Path, cases: tuple[str, ...], where: str) -> dict[str, np.ndarray]:
    import tensorflow as tf

    places = {}
    for case in cases:
        name, kind, modules = _cases()[case]
        source = root / "sources" / case
        oracle = folders.write(name, source, _MODULES.get(modules, ()), "first" if modules == "first" else "mean")
        tower = models.read(source, kind, preprocessing.read(source) if kind == "image" else None)
        places[case] = root / case
        tf.saved_model.save(graph.module(tower), str(places[case]))
        if kind == "image":
            inputs = {"images": arrays.images(3, oracle["size"])}
        else:
            inputs = {part: np.array(oracle[part], np.int32) for part in ("ids", "mask")}
        np.savez(places[case] / "inputs.npz", **inputs)
    if where == "here":
        return {case: _called(place) for case, place in places.items()}
    command = [sys.executable, "-c", _CALL, *map(str, places.values())]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2000:]
    return {case: np.load(place / "output.npy") for case, place in places.items()}


def _called(folder: pathlib.Path) -> np.ndarray:
    import tensorflow as tf

    inputs = np.load(folder / "inputs.npz")
    return tf.saved_model.load(str(folder))(*(inputs[name] for name in inputs.files)).numpy()


_WHERE = [(case, "here") for case in _USUAL] + [(case, "fresh process") for case in _cases()]


@pytest.mark.parametrize(("case", "where"), slow.after(len(_USUAL), _WHERE))
def test_an_exported_tower_gives_the_vectors_of_transformers(outputs, case, where):
    name, kind, modules = _cases()[case]
    expected, found = _expected(folders.oracle(name), kind, modules), outputs(case, where)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (np.sum(_unit(found) * _unit(expected), axis=1) > 0.99999).all()
