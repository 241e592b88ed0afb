"""Both blocks and the prototypes against an independent float64 version that projects every neighbour."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Mml, Names, Train
from model.data import tables
from model.heads import registry
from model.training import preparation
from pipelines.errors import UserError
from tests.model.applied import apply, first
from tests.model.small_task import small_task

_D, _C = 24, 4


def _standardize(x):
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _task():
    """The small task with texts in the space of the keys; no caption names class 3."""
    task = small_task(rows=30)
    rng = np.random.default_rng(4)
    names = _unit(rng.normal(size=(_C, _D))).astype(np.float32)
    texts = names[np.arange(400) % 3] + 0.15 * rng.normal(size=(400, _D))
    names_of = {"key": names, "text": names}
    return dataclasses.replace(task, values={"text": _unit(texts).astype(np.float32)}, name_vectors=names_of)


def _prototypes(task):
    split, texts = task.splits["train"], np.asarray(task.values["text"], np.float64)
    names = np.asarray(task.name_vectors["key"], np.float64)
    images = np.stack([_unit(split.queries[split.labels == c].astype(np.float64).sum(0)) for c in range(_C)])
    cosines = _standardize(texts) @ _standardize(names).T / _D
    of_class = names.copy()
    for c in range(_C):
        rows = [
            r for r in np.unique(split.neighbors) if cosines[r].argmax() == c and cosines[r, c] >= Names().threshold
        ]
        rows = sorted(rows, key=lambda r: -texts[r] @ images[c])[:16]
        of_class[c] = _unit(texts[rows].sum(0)) if rows else of_class[c]
    return images, of_class


def _block(z, rows, params):
    query, key = params["query"][:, 0], params["key"][:, 0]
    (kind,) = {name.removeprefix("project_") for name in params if name.startswith("project_")}
    logits = (rows @ key) @ (_standardize(z) @ query) / np.sqrt(_D)
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    out = params[f"output_{kind}"]
    z = z + weights @ (rows @ params[f"project_{kind}"][0]) @ out["kernel"] + out["bias"]
    x = _standardize(z) @ params["expand"]["kernel"] + params["expand"]["bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return z + x @ params["contract"]["kernel"] + params["contract"]["bias"]


def test_blocks_and_prototypes():
    task = _task()
    train = Train(heads=("mml",), mml=Mml(10.0))
    batch = tables.load(preparation.prepare(task, train))["val"].gather(jnp.arange(9), "mml")
    images, texts = _prototypes(task)
    np.testing.assert_allclose(batch.prepared.images, images, atol=1e-5)
    np.testing.assert_allclose(batch.prepared.texts, texts, atol=1e-5)
    head = registry.get("mml").build(train, _C, batch)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: 0.3 * rng.normal(size=p.shape), first(head, batch))
    output = apply(head, jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params), batch)
    split, expected = task.splits["val"], np.zeros((9, _C))
    for i in range(9):
        z, near = np.sqrt(_D) * split.queries[i].astype(np.float64), split.neighbors[i]
        for name, table, prototypes in (("image", task.keys, images), ("text", task.values["text"], texts)):
            refined = z + _block(z, _standardize(table[near]), params[name])
            expected[i] += 10.0 * prototypes @ _unit(refined)
    np.testing.assert_allclose(output.logits, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(output.weights.sum(-1), 1, rtol=1e-5)


def test_it_starts_at_the_nearest_prototype():
    task = _task()
    train = Train(heads=("mml",))
    batch = tables.load(preparation.prepare(task, train))["val"].gather(jnp.arange(9), "mml")
    head = registry.get("mml").build(train, _C, batch)
    logits = apply(head, first(head, batch), batch).logits
    images, texts = _prototypes(task)
    np.testing.assert_allclose(logits, 16 * task.splits["val"].queries[:9] @ (images + texts).T, rtol=1e-3, atol=1e-3)


def test_texts_in_another_space_are_refused():
    task = small_task()
    names = {"key": np.ones((_C, _D), np.float32), "text": np.ones((_C, 16), np.float32)}
    with pytest.raises(UserError, match="mml compares images with the names of the classes"):
        preparation.prepare(task, Train(heads=("mml",)))
    with pytest.raises(UserError, match="mml adds texts to images, and the text values .* are not in the space"):
        preparation.prepare(dataclasses.replace(task, name_vectors=names), Train(heads=("mml",)))
