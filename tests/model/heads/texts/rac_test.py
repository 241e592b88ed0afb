"""The retrieval branch against an independent float64 version."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Train
from model.data.batch import Batch
from model.heads import registry
from tests.model.applied import apply, first

_B, _K, _D, _V, _C = 5, 4, 8, 6, 3


def _case(**settings):
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    mask = rng.random((_B, _K)) < 0.7
    mask[0] = False
    batch = Batch(normal(_B, _D), normal(_B, _K, _D), {"text": normal(_B, _K, _V)}, normal(_B, _K), jnp.asarray(mask))
    head = registry.get("rac").build(Train(similarity_scale=3.0, **settings), _C, batch)
    params = jax.tree.map(lambda p: normal(*p.shape), first(head, batch))
    return batch, head, params


def _standardize(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6)


def _expected(batch: Batch, params: dict, pooling: str, normalize: bool) -> tuple[np.ndarray, np.ndarray]:
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    base, retrieval = params["Linear_0"]["classifier"], params["retrieval"]
    texts, scores, mask = (np.asarray(x, np.float64) for x in (batch.values["text"], batch.scores, batch.mask))
    logits, pooled = [], []
    for b in range(_B):
        powers = mask[b] * (np.exp(3.0 * scores[b]) if pooling == "similarity" else 1.0)
        weights = powers / powers.sum() if powers.sum() else powers
        text = _standardize(sum(weights[k] * texts[b, k] for k in range(_K)))
        first = _standardize(np.asarray(batch.queries[b], np.float64)) @ base["kernel"] + base["bias"]
        second = text @ retrieval["kernel"] + retrieval["bias"]
        if normalize:
            scale = params["scale"] / 0.07
            first, second = (s * x / np.sqrt((x**2).sum() + 1e-6) for s, x in zip(scale, (first, second), strict=True))
        logits.append(first + second)
        pooled.append(weights)
    return np.array(logits), np.array(pooled)


@pytest.mark.parametrize("pooling", ["mean", "similarity"])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_sum_of_both_branches(pooling, normalize):
    batch, head, params = _case(rac_pooling=pooling, rac_normalize=normalize)
    output = apply(head, params, batch)
    logits, weights = _expected(batch, params, pooling, normalize)
    np.testing.assert_allclose(output.logits, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(output.weights, weights, atol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_gradients_are_finite_where_a_list_is_empty(normalize):
    batch, head, _ = _case(rac_normalize=normalize)
    params = first(head, batch)
    gradient = jax.jit(jax.grad(lambda p: (apply(head, p, batch).logits ** 2).sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
