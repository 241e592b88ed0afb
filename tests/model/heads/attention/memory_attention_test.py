"""The attention layer against an independent float64 version that projects every neighbour."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.data.batch import Rows, masked_softmax, standardize
from model.heads.attention.memory_attention import MemoryAttention
from model.heads.attention.pooling import attend


def _layer_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def _naive(params, z, keys, values, scores, mask, scale0):
    """Float64; W_K and W_V are applied to every neighbour, head by head."""
    total = np.zeros_like(z)
    heads, width = len(params["scale"]), params["query"].shape[-1] if "query" in params else 1
    weights = np.zeros((len(z), heads, keys.shape[1]))
    for b in range(len(z)):
        for h in range(heads):
            logits = np.zeros(len(keys[b]))
            if "query" in params:
                q = _layer_norm(z[b]) @ params["query"][:, h]
                logits += np.array([q @ (params["key"][:, h].T @ m) for m in keys[b]]) / np.sqrt(width)
            logits += scale0 * np.exp(30 * params["scale"][h]) * scores[b]
            null = [scale0 * params["null"][h]] if "null" in params else []
            largest = max([*logits[mask[b]], *null])
            e = np.exp(logits - largest) * mask[b]
            weights[b, h] = e / (e.sum() + np.exp(np.array(null) - largest).sum())
    for kind, value in values.items():
        projected = np.einsum("bkv,hvd->bhkd", value, params[f"project_{kind}"])
        heads_out = np.einsum("bhk,bhkd->bhd", weights, projected).reshape(len(z), -1)
        total += heads_out @ params[f"output_{kind}"]["kernel"] + params[f"output_{kind}"]["bias"]
    z = z + total
    if "expand" in params:
        x = _layer_norm(z) @ params["expand"]["kernel"] + params["expand"]["bias"]
        x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        z = z + x @ params["contract"]["kernel"] + params["contract"]["bias"]
    return z, weights


def _inputs(seed=0, b=3, k=5, d=8):
    rng = np.random.default_rng(seed)
    mask = np.ones((b, k), bool)
    mask[0, 3:] = False
    return {
        "z": rng.normal(size=(b, d)),
        "keys": _layer_norm(rng.normal(size=(b, k, d))),
        "values": {"text": _layer_norm(rng.normal(size=(b, k, 6))), "image": _layer_norm(rng.normal(size=(b, k, 4)))},
        "scores": rng.uniform(-1, 1, size=(b, k)),
        "mask": mask,
    }


def _float32(inputs):
    return jax.tree.map(lambda x: jnp.asarray(x, bool if x.dtype == bool else jnp.float32), inputs)


def _random_like(params, seed=1):
    rng = np.random.default_rng(seed)
    found = jax.tree.map(lambda p: rng.normal(size=p.shape) * 0.3, params)
    # An exponent, of which 0.02 is much.
    return {name: value / 15 if name == "scale" else value for name, value in found.items()}


def _init(layer, inputs):
    """Returns the parameters of a layer for inputs; compiled as a whole, which is quicker than each operation."""
    return jax.jit(layer.init)(jax.random.key(0), **_float32(inputs))["params"]


@functools.partial(jax.jit, static_argnums=0)
def _apply(layer, params, inputs):
    return layer.apply({"params": params}, **inputs)


@pytest.mark.parametrize(
    ("width", "num_heads", "extras"),
    [
        (4, 1, {}),
        (4, 2, {}),
        (4, 2, {"null_slot": True}),
        (4, 1, {"null_slot": True, "feed_forward": 7}),
        (0, 2, {"null_slot": True}),
    ],
)
def test_absorbed_projections_equal_projecting_every_neighbour(width, num_heads, extras):
    inputs = _inputs()
    layer = MemoryAttention(width, 8, num_heads, "similarity", 5.0, **extras)
    params = _random_like(_init(layer, inputs))
    expected_z, expected_weights = _naive(params, **inputs, scale0=5.0)
    z, weights = _apply(layer, _float32(params), _float32(inputs))
    np.testing.assert_allclose(z, expected_z, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(weights, expected_weights, rtol=2e-5, atol=2e-6)


def test_similarity_start_attends_by_cosine_and_changes_nothing_yet():
    inputs = _inputs()
    layer = MemoryAttention(4, 8, 1, "similarity", 5.0)
    params = _init(layer, inputs)
    params["query"] *= 0
    z, weights = _apply(layer, params, _float32(inputs))
    np.testing.assert_array_equal(z, inputs["z"].astype(np.float32))
    e = np.exp(5.0 * inputs["scores"]) * inputs["mask"]
    np.testing.assert_allclose(weights[:, 0], e / e.sum(-1, keepdims=True), rtol=1e-5)


def test_mean_knn_weighs_valid_neighbours_evenly():
    inputs = _inputs()
    layer = MemoryAttention(4, 8, 1, "similarity", 5.0, uniform=True)
    params = _init(layer, inputs)
    _, weights = _apply(layer, params, _float32(inputs))
    np.testing.assert_allclose(weights[0, 0], [1 / 3, 1 / 3, 1 / 3, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(weights[1, 0], [0.2] * 5, rtol=1e-6)


@pytest.mark.parametrize("uniform", [False, True])
def test_padding_has_no_influence(uniform):
    inputs = _inputs()
    layer = MemoryAttention(4, 8, 2, "random", 5.0, uniform=uniform)
    params = _float32(_random_like(_init(layer, inputs)))
    z, _ = _apply(layer, params, _float32(inputs))
    other = _inputs()
    other["keys"][0, 3:] = 1e3
    other["values"]["text"][0, 3:] = -1e3
    other["scores"][0, 3:] = 7
    changed, _ = _apply(layer, params, _float32(other))
    np.testing.assert_array_equal(z, changed)


def test_a_query_without_neighbours_keeps_its_embedding_and_finite_gradients():
    inputs = _inputs()
    inputs["mask"][:] = False
    layer = MemoryAttention(4, 8, 1, "similarity", 5.0)
    params = _init(layer, inputs)
    z, weights = _apply(layer, params, _float32(inputs))
    np.testing.assert_array_equal(z, inputs["z"].astype(np.float32))
    assert not weights.any()
    gradients = jax.jit(jax.grad(lambda p: _apply(layer, p, _float32(inputs))[0].sum()))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_masked_softmax_of_huge_logits():
    weights = masked_softmax(jnp.array([[1e4, 1e4, -1e4]]), jnp.array([[True, True, True]]))
    np.testing.assert_allclose(weights, [[0.5, 0.5, 0.0]])
    np.testing.assert_array_equal(masked_softmax(jnp.array([[1e4, 2.0]]), jnp.zeros((1, 2), bool)), [[0.0, 0.0]])


def test_standardize_is_layer_norm():
    x = np.random.default_rng(0).normal(3, 2, size=(4, 7))
    np.testing.assert_allclose(standardize(jnp.asarray(x, jnp.float32)), _layer_norm(x), rtol=1e-4, atol=1e-5)


def _rows_of(inputs):
    """The same neighbours as rows of tables, which hold them in another order."""
    order = np.random.default_rng(5).permutation(inputs["mask"].size)
    places = np.argsort(order).reshape(inputs["mask"].shape).astype(np.int32)
    rows = lambda x: Rows(jnp.asarray(x.reshape(-1, x.shape[-1])[order], jnp.float32), jnp.asarray(places))  # noqa: E731
    return _float32(inputs) | {
        "keys": rows(inputs["keys"]),
        "values": {kind: rows(value) for kind, value in inputs["values"].items()},
    }


def test_rows_that_are_gathered_while_they_are_read_give_the_same_bits():
    inputs = _inputs(b=6)
    layer = MemoryAttention(4, 8, 2, "similarity", 5.0, null_slot=True)
    params = _float32(_random_like(_init(layer, inputs)))
    for left, right in zip(
        _apply(layer, params, _float32(inputs)), _apply(layer, params, _rows_of(inputs)), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def _plain(absorbed, bias, keys, values):
    k = keys.shape[1]
    logits = bias.at[:, :k].add(jnp.einsum("bhd,bkd->bkh", absorbed, keys))
    weights = masked_softmax(jnp.swapaxes(logits, 1, 2), jnp.swapaxes(bias, 1, 2) > -jnp.inf)
    return {kind: jnp.einsum("bhk,bkv->bhv", weights[..., :k], value) for kind, value in values.items()}, weights


def test_gradients_are_those_of_autodiff_and_of_finite_differences():
    inputs, rng = _inputs(b=5), np.random.default_rng(3)
    float32 = _float32(inputs)
    absorbed = jnp.asarray(rng.normal(size=(5, 2, 8)), jnp.float32)
    bias = jnp.where(float32["mask"][..., None], jnp.asarray(rng.normal(size=(5, 5, 2)), jnp.float32), -jnp.inf)
    bias = jnp.concatenate([bias, jnp.ones((5, 1, 2))], 1)
    targets = {
        "text": rng.normal(size=(5, 2, 6)),
        "image": rng.normal(size=(5, 2, 4)),
        "weights": rng.normal(size=(5, 6, 2)),
    }

    def loss(absorbed, bias, plain=False):
        if plain:
            pooled, weights = _plain(absorbed, bias, float32["keys"], float32["values"])
            weights = jnp.swapaxes(weights, 1, 2)
        else:
            pooled, weights = attend(absorbed, bias, float32["keys"], float32["values"])
        return sum((pooled[kind] * targets[kind]).sum() for kind in pooled) + (weights * targets["weights"]).sum()

    loss = jax.jit(loss, static_argnums=2)
    ours, theirs = (jax.jit(jax.grad(lambda a, b, p=p: loss(a, b, p), (0, 1)))(absorbed, bias) for p in (False, True))
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
    for _ in range(5):
        direction = jnp.asarray(rng.normal(size=absorbed.shape), jnp.float32)
        step = 1e-2
        slope = (loss(absorbed + step * direction, bias) - loss(absorbed - step * direction, bias)) / (2 * step)
        np.testing.assert_allclose(slope, (ours[0] * direction).sum(), rtol=5e-3, atol=5e-3)
