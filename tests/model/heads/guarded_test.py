"""The head that believes its memory as far as labels bear it out, against a float64 version neighbour by neighbour."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Names, Train
from model.data import tables
from model.data.batch import Batch
from model.heads import registry
from model.prepare import trust, whitening
from model.prepare.trust import Trust
from model.training import preparation
from model.training.trainer import Setting, Trainer
from pipelines.errors import UserError
from tests.model.applied import apply, first
from tests.model.small_task import small_task

_B, _K, _D, _V, _C = 5, 6, 8, 7, 4
_NAMES = Names(temperature=6.0, threshold=0.2, smoothing=0.05)


def _standardize(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def _softmax(x: np.ndarray) -> np.ndarray:
    exponents = np.exp(x - x.max())
    return exponents / exponents.sum()


def _case():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    mask = np.ones((_B, _K), bool)
    mask[1, 2:] = False
    mask[2] = False
    standard = lambda *shape: jnp.asarray(_standardize(rng.normal(size=shape)), jnp.float32)  # noqa: E731
    known = Trust(
        normal(_C, _V),
        normal(_D + 1, _C),
        normal(_D + 1, _C),
        jnp.asarray(rng.random(_C)),
        jnp.asarray(0.6),
        jnp.asarray(9.0),
    )
    scores = jnp.asarray(rng.uniform(size=(_B, _K)), jnp.float32)
    values = {"text": standard(_B, _K, _V)}
    batch = Batch(normal(_B, _D), standard(_B, _K, _D), values, scores, jnp.asarray(mask), known)
    head = registry.get("guarded").build(Train(names=_NAMES), _C, batch)
    return batch, head, first(head, batch)


def test_the_head_is_what_numpy_says():
    batch, head, params = _case()
    known = Trust(*(np.asarray(part, np.float64) for part in batch.prepared))
    output = apply(head, params, batch)
    for b in range(_B):
        y = np.append(_standardize(batch.queries[b]), 1)
        near = np.flatnonzero(batch.mask[b])
        votes, speak = np.full(_C, _NAMES.smoothing), np.zeros((_K, _C))
        weight = np.exp(known.scale * np.asarray(batch.scores[b], np.float64))
        total = weight[near].sum()
        for j in near:
            text = np.asarray(batch.values["text"][b, j], np.float64)
            cosines = [text @ _standardize(name) / _V for name in known.names]
            terms = np.exp([_NAMES.temperature * c for c in cosines] + [_NAMES.temperature * _NAMES.threshold])
            seen = _softmax(np.append(np.asarray(batch.keys[b, j]), 1) @ known.judge)
            for c in range(_C):
                right = (1 - known.doubt[c]) * seen[c]
                speak[j, c] = terms[c] / terms.sum() * right / (right + known.doubt[c] / _C) * weight[j] / total
            votes += speak[j]
        logits = y @ known.classifier + known.vote * np.log(votes)
        np.testing.assert_allclose(output.logits[b], logits, rtol=1e-4, atol=1e-4)
        weights = speak @ _softmax(logits)
        np.testing.assert_allclose(output.weights[b], weights / max(weights.sum(), 1e-30), rtol=1e-4, atol=1e-6)


def test_with_all_doubt_and_no_vote_the_neighbours_say_nothing():
    batch, head, params = _case()
    known = batch.prepared._replace(doubt=jnp.ones(_C), vote=jnp.zeros(()))
    output = apply(head, params, batch._replace(prepared=known))
    queries = np.column_stack([_standardize(batch.queries), np.ones(_B)])
    np.testing.assert_allclose(output.logits, queries @ np.asarray(known.classifier, np.float64), rtol=1e-4, atol=1e-4)
    assert not np.asarray(output.weights).any()


def _named() -> dict[str, np.ndarray]:
    """The names by which the texts of `small_task` are drawn."""
    task = small_task()
    texts = np.asarray(task.values["text"])
    means = np.stack([texts[c::4].mean(0) for c in range(4)])
    return {"text": (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)}


def test_training_changes_no_prediction_and_it_uses_votes_where_only_they_tell():
    train = Train(heads=("guarded",), steps=20, batch_size=32, checkpoint_every=20)
    task = preparation.prepare(dataclasses.replace(small_task(), name_vectors=_named()), train)
    assert task.prepared["guarded"].vote > 0
    trainer = Trainer("guarded", task, tables.load(task), train)
    start = trainer.start(0)
    before, _ = trainer.predict(start.params, "test")
    # Keys say nothing of the class here; captions of the nearer half of each list do.
    assert (before.argmax(1) == task.splits["test"].labels).mean() > 0.8
    state, _ = trainer.steps(start, 0, 20, Setting(0.01, 0.1, 0.5))
    after, _ = trainer.predict(state.params, "test")
    np.testing.assert_array_equal(before.argmax(1), after.argmax(1))
    assert registry.count_parameters(trainer.head, jax.tree.map(jnp.asarray, _case()[0])) == 1


def test_what_is_prepared_is_the_trust_in_the_memory():
    task = dataclasses.replace(small_task(), name_vectors=_named())
    train = Train(heads=("guarded",), k=4)
    found = preparation.prepare(task, train).prepared["guarded"]
    for one, other in zip(found, trust.make(whitening.rescore(task), train), strict=True):
        np.testing.assert_array_equal(one, other)


def test_missing_names_are_worded():
    with pytest.raises(UserError, match="guarded reads the names of the classes and none are embedded; set"):
        preparation.prepare(small_task(), Train(heads=("guarded",)))
