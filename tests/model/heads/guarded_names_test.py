"""The mean of what two heads predict, each of which is compared with NumPy in a test of its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Names, Train
from model.data import tables
from model.data.batch import Batch, Output
from model.heads import registry
from model.heads.guarded_names import Known
from model.prepare.name_prior import NamePrior
from model.prepare.trust import Trust
from model.training import preparation
from model.training.trainer import Setting, Trainer
from pipelines.errors import UserError
from tests.model.applied import apply, first
from tests.model.small_task import small_task

_B, _K, _D, _V, _C = 5, 6, 8, 7, 4
_TRAIN = Train(names=Names(temperature=6.0, threshold=0.2, smoothing=0.05), neighbor_dropout=0.0)


def _case() -> Batch:
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    mask = np.ones((_B, _K), bool)
    mask[1, 2:] = False
    mask[2] = False
    prior = NamePrior(normal(_C, _V), normal(_D + 1, _D), normal(_C, _D))
    doubt = jnp.asarray(rng.random(_C), jnp.float32)
    vote, scale = jnp.asarray(0.6), jnp.asarray(9.0)
    trust = Trust(prior.names, normal(_D + 1, _C), normal(_D + 1, _C), doubt, vote, scale)
    scores = jnp.asarray(rng.uniform(size=(_B, _K)), jnp.float32)
    known = Known(**(prior._asdict() | trust._asdict()))
    return Batch(
        normal(_B, _D), normal(_B, _K, _D), {"text": normal(_B, _K, _V)}, scores, jnp.asarray(mask), prepared=known
    )


def _alone(name: str, batch: Batch, params: dict | None = None, rng: jax.Array | None = None) -> Output:
    """What one of the two heads returns by itself."""
    kind = NamePrior if name == "mam_names" else Trust
    own = batch._replace(prepared=kind(*(getattr(batch.prepared, field) for field in kind._fields)))
    head = registry.get(name).build(_TRAIN, _C, own)
    return apply(head, first(head, own) if params is None else params, own, rng)


def _probabilities(output: Output) -> np.ndarray:
    exponents = np.exp(np.asarray(output.logits, np.float64))
    return exponents / exponents.sum(1, keepdims=True)


def test_probabilities_and_weights_are_the_mean_of_both():
    batch = _case()
    head = registry.get("guarded_names").build(_TRAIN, _C, batch)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + jnp.asarray(rng.uniform(-0.3, 0.3, p.shape), jnp.float32), first(head, batch))
    assert set(params) == {"named"}
    output = apply(head, params, batch)
    named, guarded = _alone("mam_names", batch, params["named"]), _alone("guarded", batch)
    mean = (_probabilities(named) + _probabilities(guarded)) / 2
    np.testing.assert_allclose(np.exp(np.asarray(output.logits, np.float64)), mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(output.weights, (named.weights + guarded.weights) / 2, rtol=1e-5, atol=1e-7)


def test_a_step_learns_what_mam_names_learns():
    batch, key = _case(), jax.random.key(3)
    head = registry.get("guarded_names").build(_TRAIN, _C, batch)
    params = first(head, batch)
    for one, other in zip(
        apply(head, params, batch, key), _alone("mam_names", batch, params["named"], key), strict=True
    ):
        np.testing.assert_array_equal(one, other) if one is not None else None


def _named() -> dict[str, np.ndarray]:
    """The names by which the texts of `small_task` are drawn."""
    texts = np.asarray(small_task().values["text"])
    means = np.stack([texts[c::4].mean(0) for c in range(4)])
    return {"text": (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)}


def test_trained_it_predicts_the_mean_of_both_trained_heads():
    heads = ("mam_names", "guarded", "guarded_names")
    train = Train(heads=heads, steps=20, batch_size=32, checkpoint_every=20)
    task = preparation.prepare(dataclasses.replace(small_task(), name_vectors=_named()), train)
    data, found = tables.load(task), {}
    for name in heads:
        trainer = Trainer(name, task, data, train)
        state = trainer.start(0)
        if name != "guarded":
            # The factor of `guarded` stays as val chose it.
            state, _ = trainer.steps(state, 0, 20, Setting(0.01, 0.1, 0.0))
        found[name] = np.exp(np.asarray(trainer.predict(state.params, "test")[0], np.float64))
        found[name] /= found[name].sum(1, keepdims=True)
    mean = (found["mam_names"] + found["guarded"]) / 2
    np.testing.assert_allclose(found["guarded_names"], mean, rtol=1e-3, atol=1e-5)


def test_missing_names_are_worded():
    with pytest.raises(UserError, match="guarded_names reads the names of the classes and none are embedded; set"):
        preparation.prepare(small_task(), Train(heads=("guarded_names",)))
