"""Both Tip-Adapters against an independent float64 version."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Tip, Train
from model.data import tables
from model.heads import registry
from model.training import preparation
from pipelines.errors import UserError
from tests.model.applied import apply, first
from tests.model.small_task import small_task


def _task():
    task = small_task(rows=40)
    names = np.random.default_rng(2).normal(size=(4, 24)).astype(np.float32)
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    return dataclasses.replace(task, name_vectors={"key": names})


def _expected(task, keys, queries, tip, without_own=False):
    split = task.splits["train"]
    logits = np.zeros((len(queries), 4))
    for i, query in enumerate(queries.astype(np.float64)):
        logits[i] = 100 * task.name_vectors["key"].astype(np.float64) @ query
        for j, (key, label) in enumerate(zip(keys, split.labels, strict=True)):
            if not (without_own and i == j):
                share = np.exp(-tip.beta * (1 - query @ key.astype(np.float64)))
                logits[i, label] += tip.alpha * share / np.sum(split.labels == label) ** tip.balance
    return logits


def _head(name, task, tip, split):
    train = Train(heads=(name,), tip=tip)
    batch = tables.load(preparation.prepare(task, train))[split].gather(jnp.arange(40), name)
    head = registry.get(name).build(train, 4, batch)
    return head, first(head, batch), batch


@pytest.mark.parametrize("name", ["tip_adapter", "tip_adapter_f"])
@pytest.mark.parametrize("tip", [Tip(2.0, 5.5), Tip(30.0, 1.5, 0.5)])
def test_names_and_cache(name, tip):
    task = _task()
    head, params, batch = _head(name, task, tip, "val")
    keys = task.splits["train"].queries
    if name == "tip_adapter_f":
        np.testing.assert_allclose(params["keys"], keys, rtol=1e-5, atol=1e-7)
        keys = keys + 0.1 * np.random.default_rng(0).normal(size=keys.shape)
        params = {"keys": jnp.asarray(keys, jnp.float32)}
    logits = apply(head, params, batch).logits
    np.testing.assert_allclose(logits, _expected(task, keys, task.splits["val"].queries, tip), rtol=1e-3, atol=2e-3)


def test_an_image_does_not_see_itself_in_training():
    task, tip = _task(), Tip(5.0, 3.0)
    head, params, batch = _head("tip_adapter_f", task, tip, "train")
    queries = task.splits["train"].queries
    logits = apply(head, params, batch, jax.random.key(0)).logits
    np.testing.assert_allclose(logits, _expected(task, queries, queries, tip, True), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["tip_adapter", "tip_adapter_f"])
def test_names_in_another_space_are_refused(name):
    with pytest.raises(UserError, match="tip_adapter compares images with the names of the classes"):
        preparation.prepare(small_task(), Train(heads=(name,)))
