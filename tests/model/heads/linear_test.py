"""The cosine classifier against an independent float64 version."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Train
from model.data.batch import Batch
from model.heads import registry
from tests.model.applied import apply, first


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("starts_at_names", [False, True])
def test_a_cosine_classifier(starts_at_names):
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    queries, names = normal(5, 8), normal(8, 3)
    batch = Batch(queries, queries[:, None], {}, queries, queries > 0, classifier=names if starts_at_names else None)
    head = registry.get("linear").build(Train(cosine_scale=25.0), 3, batch)
    params = first(head, batch)
    if starts_at_names:
        np.testing.assert_array_equal(params["classifier"], names)
    params = jax.tree.map(lambda p: p + 0.1, params)
    x, w = np.asarray(queries, np.float64), np.asarray(params["classifier"], np.float64)
    x = x - x.mean(-1, keepdims=True)
    expected = 25 * 1.1 * _unit(x) @ _unit(w.T).T
    np.testing.assert_allclose(apply(head, params, batch).logits, expected, rtol=1e-4, atol=1e-4)
