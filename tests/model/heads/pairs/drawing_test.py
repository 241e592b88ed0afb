"""Which rows replace images, and how the heads that train on them learn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Pairs, Train
from model.data import tables
from model.data.batch import Batch
from model.heads import registry
from model.heads.pairs import drawing
from model.heads.pairs.drawing import Retrieved
from model.prepare import named_rows
from model.training import preparation
from model.training.trainer import Setting, Trainer
from pipelines.errors import UserError
from tests.model.applied import apply, first
from tests.model.small_task import small_task

_D = 3


def _batch(labels):
    """Rows are vectors of their number; class 0 has 30, class 1 none, class 2 has 10."""
    known = Retrieved(
        queries=jnp.tile(jnp.arange(40.0)[:, None], (1, _D)),
        first=jnp.array([0, 30, 30]),
        counts=jnp.array([30, 0, 10]),
        images=jnp.array([10, 5, 30]),
        classifier=jnp.ones((_D, 3)),
        second=jnp.ones(()),
    )
    queries = jnp.full((len(labels), _D), -1.0)
    return Batch(queries, queries[:, None], {}, queries, queries > 0, known)


@pytest.mark.parametrize(("share", "expected"), [(0.0, (0.75, 0, 0.25)), (0.4, (0.4, 0, 0.4))])
def test_images_are_replaced_by_rows_of_their_class(share, expected):
    labels = jnp.arange(6000) % 3
    queries = np.asarray(drawing.replace(share, _batch(labels), labels, jax.random.key(0)).queries)
    for label, chance in enumerate(expected):
        own = queries[label::3, 0]
        assert abs((own >= 0).mean() - chance) < 0.04
        first, count = (0, 30, 30)[label], (30, 0, 10)[label]
        drawn = own[own >= 0].astype(int)
        assert ((drawn >= first) & (drawn < first + count)).all()
        assert len(set(drawn)) == count


def _task():
    """The small task, whose texts name classes, and keys that tell the class of their row."""
    task = small_task()
    rng = np.random.default_rng(5)
    names = np.stack([task.values["text"][np.arange(400) % 4 == c].mean(0) for c in range(4)]).astype(np.float32)
    centers = rng.normal(size=(4, 24))
    unit = lambda x: (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)  # noqa: E731
    keys = unit(centers[np.arange(400) % 4] + rng.normal(size=(400, 24)))
    splits = {
        name: dataclasses.replace(s, queries=unit(centers[s.labels] + rng.normal(size=s.queries.shape)))
        for name, s in task.splits.items()
    }
    names_of = {"text": names, "key": unit(rng.normal(size=(4, 24)))}
    return dataclasses.replace(task, keys=keys, splits=splits, name_vectors=names_of)


def test_what_is_prepared_are_the_keys_of_rows_that_name_classes():
    task = _task()
    known = drawing.prepare(task, Train(pairs=Pairs(most=9)))
    np.testing.assert_array_equal(known.counts, [9] * 4)
    named = named_rows.find(task, 9, Train().names)
    x = task.keys[named.rows].astype(np.float64)
    np.testing.assert_allclose(
        known.queries, (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(known.classifier, 100 / np.sqrt(24) * task.name_vectors["key"].T, rtol=1e-5)
    other = dataclasses.replace(task, name_vectors={"text": task.name_vectors["text"]})
    assert not drawing.prepare(other, Train()).classifier.any()


def _standardize(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def _float64(params):
    return jax.tree.map(lambda p: np.asarray(p, np.float64), params)


def _case(name, **settings):
    train = Train(heads=(name,), pairs=Pairs(**settings), steps=40, batch_size=32, checkpoint_every=40)
    task = preparation.prepare(_task(), train)
    batch = tables.load(task)["val"].gather(jnp.arange(6), name)
    head = registry.get(name).build(train, 4, batch)
    rng = np.random.default_rng(6)
    params = jax.tree.map(lambda p: p + 0.2 * rng.normal(size=p.shape), first(head, batch))
    return head, params, batch


def test_real_linear_predicts_with_the_mean_of_both_classifiers():
    head, params, batch = _case("real_linear", names=0.3)
    x, p = _standardize(np.asarray(batch.queries, np.float64)), _float64(params)["classifier"]
    names = np.asarray(batch.prepared.classifier, np.float64)
    learned = x @ (names + p["kernel"]) + p["bias"]
    expected = 0.7 * learned + 0.3 * x @ names
    np.testing.assert_allclose(apply(head, params, batch).logits, expected, rtol=1e-4, atol=1e-4)
    trained = apply(head, params, batch, jax.random.key(0)).logits
    np.testing.assert_allclose(trained, learned, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stage", ["first", "second"])
def test_swat_has_a_classifier_of_each_stage(stage):
    head, params, batch = _case("swat")
    batch = batch._replace(prepared=batch.prepared._replace(second=jnp.float32(stage == "second")))
    p, z = _float64(params), np.asarray(batch.queries, np.float64)
    x = _standardize(z) @ p["expand"]["kernel"] + p["expand"]["bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    x = _standardize(z + x @ p["contract"]["kernel"] + p["contract"]["bias"])
    expected = x @ (np.asarray(batch.prepared.classifier) + p[stage]["kernel"]) + p[stage]["bias"]
    np.testing.assert_allclose(apply(head, params, batch).logits, expected, rtol=1e-4, atol=1e-4)
    slope = jax.jit(jax.grad(lambda p: (apply(head, p, batch).logits ** 2).sum()))(params)
    assert np.asarray(slope["expand"]["kernel"]).any() == (stage == "first")
    other = "first" if stage == "second" else "second"
    assert np.asarray(slope[stage]["kernel"]).any() and not np.asarray(slope[other]["kernel"]).any()


def test_swat_mixes_vectors_and_labels_alike_in_the_first_stage_only():
    train = Train(pairs=Pairs(share=0.5, mix=1.0, first_stage=0.7))
    batch = _batch(labels := jnp.arange(30) % 3)
    # Vectors that say their label, so that a mixed vector says a mixed label.
    own = jnp.eye(3)[labels]
    of_rows = jnp.eye(3)[jnp.repeat(jnp.array([0, 2]), jnp.array([30, 10]))]
    batch = batch._replace(queries=own, prepared=batch.prepared._replace(queries=of_rows))
    drawn, shares = registry.get("swat").draw(train, batch, labels, 0.3, jax.random.key(1))
    np.testing.assert_allclose(drawn.queries, shares, atol=1e-6)
    assert not np.isin(np.asarray(shares), (0.0, 1.0)).all() and not drawn.prepared.second
    drawn, shares = registry.get("swat").draw(train, batch, labels, 0.8, jax.random.key(1))
    np.testing.assert_array_equal(drawn.queries, own)
    np.testing.assert_array_equal(shares, own)
    assert drawn.prepared.second


@pytest.mark.parametrize("name", ["real_linear", "swat"])
def test_they_learn(name):
    train = Train(heads=(name,), steps=60, batch_size=32, checkpoint_every=60)
    task = dataclasses.replace(_task(), name_vectors={"text": _task().name_vectors["text"]})
    task = preparation.prepare(task, train)
    trainer = Trainer(name, task, tables.load(task), train)
    state, losses = trainer.steps(trainer.start(0), 0, 60, Setting(0.01, 0.0, 0.0))
    assert np.isfinite(losses).all()
    assert trainer.accuracy(state.params, "val")["all"] > trainer.accuracy(trainer.start(0).params, "val")["all"] + 0.2


def test_a_loss_that_takes_no_mixed_labels_is_refused():
    with pytest.raises(UserError, match="--config.train.loss=mile: swat mixes labels, which this loss does not take"):
        preparation.prepare(_task(), Train(heads=("swat",), loss="mile"))
