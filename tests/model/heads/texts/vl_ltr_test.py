"""The two branches against an independent float64 version that makes every v_c."""

import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Train
from model import objectives
from model.data.batch import Batch
from model.heads import registry
from model.objectives.base import Facts, Step
from model.prepare.class_bank import Bank
from tests.model.applied import apply, first

_B, _D, _V, _C, _S = 5, 8, 6, 4, 3


def _case():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    mask = np.ones((_C, _S), bool)
    mask[0, 1:] = False
    mask[1] = False
    # Sentences come standardized.
    bank = rng.normal(size=(_C, _S, _V))
    bank = (bank - bank.mean(-1, keepdims=True)) / bank.std(-1, keepdims=True)
    bank = Bank(jnp.asarray(bank, jnp.float32), jnp.asarray(mask))
    batch = Batch(normal(_B, _D), normal(_B, 2, _D), {}, normal(_B, 2), jnp.ones((_B, 2), bool), bank)
    head = registry.get("vl_ltr").build(Train(vl_ltr_width=2.0), _C, batch)
    return batch, head, first(head, batch), normal


def _standardize(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6)


def _expected(batch: Batch, params: dict) -> tuple[np.ndarray, np.ndarray]:
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    bank, mask = np.asarray(batch.prepared.texts, np.float64), np.asarray(batch.prepared.mask)
    visual, linguistic = np.zeros((_B, _C)), np.zeros((_B, _C))
    for b in range(_B):
        q = _standardize(np.asarray(batch.queries[b], np.float64))
        hidden = np.maximum(q @ p["visual_hidden"]["kernel"] + p["visual_hidden"]["bias"], 0)
        visual[b] = hidden @ p["visual"]["kernel"] + p["visual"]["bias"]
        near = q @ p["project"]["kernel"]
        for c in range(_C):
            sentences = bank[c][mask[c]]
            if not len(sentences):
                continue
            keys = np.stack([_standardize(t) @ p["key"] for t in sentences])
            logits = keys @ (_standardize(near) @ p["query"]) / np.sqrt(_V)
            attention = np.exp(logits - logits.max())
            v = (attention / attention.sum()) @ sentences
            cosine = near @ v / np.linalg.norm(near) / np.linalg.norm(v)
            linguistic[b, c] = cosine * np.exp(np.log(1 / 0.07) * p["log_scale"])
    return visual, linguistic


def test_both_branches_without_making_any_class_embedding():
    batch, head, params, normal = _case()
    moved = jax.tree.map(lambda p: p + 0.3 * normal(*p.shape), params)
    for chosen in (params, moved):
        output = apply(head, chosen, batch)
        visual, linguistic = _expected(batch, chosen)
        np.testing.assert_allclose(output.branches[0], visual, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(output.branches[1], linguistic, rtol=1e-3, atol=1e-3)
        log_softmax = [x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (visual, linguistic)]
        np.testing.assert_allclose(output.logits, sum(log_softmax), rtol=1e-3, atol=1e-3)


def test_the_loss_is_the_sum_of_both_cross_entropies():
    batch, head, params, _ = _case()
    labels = jnp.array([0, 1, 2, 3, 0])
    forward = lambda p, b, rng: apply(head, p, b, rng)  # noqa: E731
    objective = objectives.build(Train(loss="cross_entropy"), Facts(np.ones(_C), batch.queries, labels))
    step = Step(params, {}, {}, batch, labels, jnp.arange(_B), jnp.zeros((), jnp.int32), 1, None)
    expected = 0.0
    for logits in _expected(batch, params):
        log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected -= log_probabilities[np.arange(_B), np.asarray(labels)].mean()
    loss, gradient = jax.jit(jax.value_and_grad(lambda p: objective.loss(forward, step._replace(head=p))[0]))(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
