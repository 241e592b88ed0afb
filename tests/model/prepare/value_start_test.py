import dataclasses

import jax
import numpy as np
import pytest

from configs.base import Train
from model.data import tables
from model.data.vectors import Column
from model.heads import registry
from model.heads.attention.memory_attention import MemoryAttention
from model.prepare import value_start
from model.training import preparation
from tests import slow
from tests.model.applied import apply, first
from tests.model.small_task import small_task

_ROWS = np.sort(np.random.default_rng(7).permutation(400)[:250])


def _layer_norm(x):
    x = x.astype(np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def _wanted(keys, values, ridge=0.1):
    """Ridge regression by the singular values of the centred values, in float64."""
    x, y = _layer_norm(values), _layer_norm(keys)
    centred = x - x.mean(0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    penalty = ridge * (s**2).sum() / x.shape[1]
    slope = vt.T @ ((s / (s**2 + penalty))[:, None] * (u.T @ (y - y.mean(0))))
    slope /= np.sqrt(np.square(centred @ slope).mean())
    return np.vstack([slope, -x.mean(0) @ slope])


@dataclasses.dataclass(frozen=True)
class _InFiles(Column):
    """Rows that come in chunks of their own, as those of files do."""

    rows: np.ndarray

    @property
    def shape(self):
        return self.rows.shape

    def chunks(self):
        yield from np.split(self.rows, [90, 91, 300])


@pytest.mark.parametrize("in_files", [(False, True), (True, False), (True, True)])
def test_rows_in_files_give_the_same(in_files):
    task = small_task()
    both = task.keys, task.values["text"]
    vectors = [_InFiles(None, "", x) if there else x for x, there in zip(both, in_files, strict=True)]
    np.testing.assert_allclose(value_start.fit(*vectors, _ROWS), value_start.fit(*both, _ROWS), atol=1e-5)


@pytest.mark.parametrize("chunk_rows", [7, 1000])
def test_the_regression_is_that_of_the_named_rows(monkeypatch, chunk_rows):
    monkeypatch.setattr("model.data.vectors.CHUNK_ROWS", chunk_rows)
    task = small_task()
    found = value_start.fit(task.keys, task.values["text"], _ROWS)
    np.testing.assert_allclose(found, _wanted(task.keys[_ROWS], task.values["text"][_ROWS]), atol=1e-3)


def test_values_that_say_what_the_key_is_predict_it():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2000, 12)).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    keys = (_layer_norm(values) @ turn).astype(np.float32)
    predicted = value_start.fit(keys, values, np.arange(2000))
    got = np.hstack([_layer_norm(values), np.ones((2000, 1))]) @ predicted
    wanted = _layer_norm(keys) - _layer_norm(keys).mean(0)
    assert (got * wanted).sum() / np.sqrt((got**2).sum() * (wanted**2).sum()) > 0.99
    assert np.square(got).mean() == pytest.approx(1, abs=1e-4)


def test_values_that_are_all_alike_or_not_retrieved_predict_nothing():
    task = small_task()
    alike = np.repeat(task.values["text"][:1], len(task.keys), 0)
    for values, rows in ((alike, _ROWS), (task.values["text"], _ROWS[:1]), (task.values["text"], _ROWS[:0])):
        assert not value_start.fit(task.keys, values, rows).any()


@pytest.mark.parametrize(("num_heads", "value_dim"), [(1, 16), (2, 40)])
def test_attention_starts_at_the_key_that_the_mean_value_predicts(num_heads, value_dim):
    rng = np.random.default_rng(1)
    z, scores = rng.normal(size=(5, 24)), rng.uniform(size=(5, 7))
    values = {"text": rng.normal(size=(5, 7, 16))}
    predicted = {"text": rng.normal(size=(17, 24))}
    layer = MemoryAttention(0, value_dim, num_heads, "similarity", 5.0, value_scale=2.5)
    inputs = (z, np.zeros((5, 7, 24)), values, scores, np.ones((5, 7), bool), predicted)
    inputs = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(np.float32), inputs)
    params = jax.jit(layer.init)(jax.random.key(0), *inputs)
    weights = np.exp(5 * scores) / np.exp(5 * scores).sum(1, keepdims=True)
    pooled = np.einsum("bk,bkv->bv", weights, values["text"])
    wanted = z + 2.5 * (pooled @ predicted["text"][:-1] + predicted["text"][-1])
    np.testing.assert_allclose(jax.jit(layer.apply)(params, *inputs)[0], wanted, atol=1e-3)


@pytest.mark.parametrize("head", ["mam", "mean_knn"])
@pytest.mark.parametrize("layers", slow.after(1, [2, 1]))
def test_layers_and_kinds_share_the_scale(head, layers):
    task = small_task()
    task = dataclasses.replace(task, values={**task.values, "image": task.keys[:, ::-1].copy()})
    train = Train(heads=(head,), value_scale=3.0, layers=layers, similarity="whitened", attention_dim=0)
    task = preparation.prepare(task, train)
    batch = tables.load(task)["train"].gather(np.arange(6), head)
    built = registry.get(head).build(train, 4, batch)
    params = first(built, batch)
    features = apply(built, params, batch).features
    weights = np.full(batch.scores.shape, 1 / 8)
    if head == "mam":
        exponents = np.exp(train.similarity_scale * np.asarray(batch.scores, np.float64))
        weights = exponents / exponents.sum(1, keepdims=True)
    z = np.asarray(batch.queries, np.float64)
    for kind, values in batch.values.items():
        pooled = np.einsum("bk,bkv->bv", weights, values)
        start = task.prepared[head].predicted[kind]
        z = z + 1.5 * (pooled @ start[:-1] + start[-1])
    np.testing.assert_allclose(features, _layer_norm(z), atol=2e-3)


def test_it_is_prepared_only_for_heads_and_scales_that_read_it():
    task = small_task()
    read = (Train(heads=("mam",), value_scale=1.0), Train(heads=("mean_knn",), space=("value_scale=0|2.5",)))
    nothing = Train(heads=("mam",), value_scale=0.0, space=("value_scale=0",))
    unread = (nothing, Train(heads=("linear", "rac"), value_scale=1.0))
    for train in read:
        (name,) = train.heads
        assert list(preparation.prepare(task, train).prepared[name].predicted) == ["text"]
    assert not any(preparation.prepare(task, train).prepared for train in unread)


def test_heads_with_the_same_preparation_share_it():
    prepared = preparation.prepare(small_task(), Train(heads=("mam", "linear", "mean_knn"), value_scale=1.0)).prepared
    assert list(prepared) == ["mam", "mean_knn"] and prepared["mam"] is prepared["mean_knn"]


def test_scores_stay_for_heads_that_read_none():
    task = small_task()
    assert preparation.prepare(task, Train(heads=("linear", "mlp"), similarity="whitened")) is task
