"""Losses against independent float64 versions, and their gradients against finite differences of these."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.objectives import losses
from tests import slow

_LOGITS = np.random.default_rng(0).normal(size=(6, 4)) * 3
_LABELS = np.array([0, 1, 2, 3, 3, 0])
_COUNTS = np.array([100, 10, 5, 1])


def _log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _picked(log_probabilities: np.ndarray) -> np.ndarray:
    return log_probabilities[np.arange(len(_LABELS)), _LABELS]


def test_cross_entropy():
    expected = -_picked(_log_softmax(_LOGITS)).mean()
    actual = losses.cross_entropy(jnp.asarray(_LOGITS, jnp.float32), jnp.asarray(_LABELS))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_label_smoothing():
    log_probabilities = _log_softmax(_LOGITS)
    expected = -(0.9 * _picked(log_probabilities) + 0.1 * log_probabilities.mean(-1)).mean()
    actual = losses.cross_entropy(jnp.asarray(_LOGITS, jnp.float32), jnp.asarray(_LABELS), smoothing=0.1)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_lace_adds_the_log_prior(tau):
    prior = _COUNTS / _COUNTS.sum()
    adjusted = np.exp(_LOGITS) * prior**tau
    expected = -np.log(_picked(adjusted) / adjusted.sum(-1)).mean()
    actual = losses.lace(
        jnp.asarray(_LOGITS, jnp.float32), jnp.asarray(_LABELS), losses.log_prior(jnp.asarray(_COUNTS)), tau
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_lace_pays_more_for_a_rare_class():
    logits, prior = jnp.zeros((1, 4)), losses.log_prior(jnp.asarray(_COUNTS))
    assert losses.lace(logits, jnp.array([3]), prior) > losses.lace(logits, jnp.array([0]), prior)


def test_weights_of_images_are_not_normalized():
    weights = np.array([1, 0.5, 0.5, 0, 2, 1])
    expected = -(weights * _picked(_log_softmax(_LOGITS))).mean()
    actual = losses.cross_entropy(jnp.asarray(_LOGITS, jnp.float32), jnp.asarray(_LABELS), 0.0, jnp.asarray(weights))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def _numpy_neighbor_weights(features: np.ndarray, k: int, gamma: float) -> np.ndarray:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    weights = np.zeros((len(features), len(features)))
    for i, row in enumerate(unit @ unit.T):
        others = [j for j in np.argsort(-row, kind="stable") if j != i][:k]
        powers = [max(row[j], 0.0) ** gamma if row[j] > 0 else 0.0 for j in others]
        for j, power in zip(others, powers, strict=True):
            weights[i, j] = power / sum(powers) if sum(powers) else 0.0
    return weights


@pytest.mark.parametrize(("k", "gamma"), slow.after(1, [(3, 0.5), (1, 1.0), (5, 2.0)]))
def test_neighbor_weights(k, gamma):
    features = np.random.default_rng(1).normal(size=(6, 3))
    # One image that no other is alike to: its row is nothing, and nothing of it is not a number.
    features[0] = -features[1:].sum(0) * 3
    expected = _numpy_neighbor_weights(features, k, gamma)
    weights = jax.jit(lambda f: losses.neighbor_weights(f, k, gamma))
    actual = weights(jnp.asarray(features, jnp.float32))
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert set(np.round(expected.sum(1), 9)) <= {0.0, 1.0}
    gradient = jax.jit(jax.grad(lambda f: (weights(f) ** 2).sum()))(jnp.asarray(features, jnp.float32))
    assert np.isfinite(gradient).all()


def _numpy_consistency(logits: np.ndarray, weights: np.ndarray, temperature: float) -> float:
    scaled = _log_softmax(logits / temperature)
    total = 0.0
    for i in range(len(logits)):
        target = sum(weights[i, j] * np.exp(scaled[j]) for j in range(len(logits)))
        if target.sum():
            total += (target * (np.log(target) - scaled[i])).sum()
    return temperature**2 * total / len(logits)


def test_consistency_and_its_gradient_through_both_sides():
    weights = _numpy_neighbor_weights(np.abs(np.random.default_rng(2).normal(size=(6, 3))), 2, 1.0)
    weights[3] = 0
    loss = jax.jit(functools.partial(losses.consistency, weights=jnp.asarray(weights, jnp.float32), temperature=2.0))
    logits = jnp.asarray(_LOGITS, jnp.float32)
    np.testing.assert_allclose(loss(logits), _numpy_consistency(_LOGITS, weights, 2.0), rtol=1e-5)
    expected = _numerical_gradient(lambda x: _numpy_consistency(x, weights, 2.0), _LOGITS)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(logits), expected, atol=1e-5)


def _numerical_gradient(function: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[place] = step
        gradient[place] = (function(x + moved) - function(x - moved)) / (2 * step)
    return gradient


def test_binary_cross_entropy():
    targets = (np.random.default_rng(3).random(_LOGITS.shape) < 0.5).astype(float)
    probabilities = 1 / (1 + np.exp(-_LOGITS))
    expected = -(targets * np.log(probabilities) + (1 - targets) * np.log(1 - probabilities)).sum(-1).mean()
    actual = losses.binary_cross_entropy(jnp.asarray(_LOGITS, jnp.float32), jnp.asarray(targets, jnp.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_noisy_log_probabilities_are_the_log_of_the_mean_over_samples(shared):
    rng = np.random.default_rng(4)
    factors, scales = rng.normal(size=(6, 4, 2)), rng.random((6, 4))
    images = 1 if shared else 6
    low, diagonal = rng.normal(size=(5, images, 2)), rng.normal(size=(5, images, 4))
    expected = np.zeros((6, 4))
    for b in range(6):
        for s in range(5):
            at = 0 if shared else b
            utility = _LOGITS[b] + factors[b] @ low[s, at] + scales[b] * diagonal[s, at]
            expected[b] += np.exp(_log_softmax(utility[None] / 1.5)[0]) / 5
    cast = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    actual = jax.jit(losses.noisy_log_probabilities)(
        cast(_LOGITS), cast(factors), cast(scales), (cast(low), cast(diagonal)), 1.5
    )
    np.testing.assert_allclose(actual, np.log(expected), rtol=1e-4, atol=1e-5)


def _numpy_contrastive(
    logits: np.ndarray, similarities: np.ndarray, contrasted: np.ndarray, weights: tuple[float, float, float]
) -> float:
    alpha, beta, gamma = weights
    total = 0.0
    for i, label in enumerate(_LABELS):
        images = [j for j in range(contrasted.shape[1]) if contrasted[i, j] >= 0]
        below = np.exp(logits[i]).sum() + gamma * sum(np.exp(similarities[i, j]) for j in images)
        terms = [(beta, logits[i, label])]
        terms += [(alpha, similarities[i, j]) for j in images if contrasted[i, j] == label]
        total -= sum(w * (s - np.log(below)) for w, s in terms) / sum(w for w, _ in terms)
    return total / len(_LABELS)


@pytest.mark.parametrize("weights", [(0.05, 1.0, 1.0), (1.0, 0.0, 1.0), (0.5, 1.0, 0.0)])
def test_parametric_contrastive_and_its_gradients(weights):
    rng = np.random.default_rng(5)
    similarities, contrasted = rng.normal(size=(6, 9)) * 3, rng.integers(-1, 4, size=(6, 9))
    contrasted[:, 0] = _LABELS
    cast = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731

    @jax.jit
    def loss(logits, similarities):
        return losses.parametric_contrastive(
            logits, jnp.asarray(_LABELS), similarities, jnp.asarray(contrasted), weights
        )

    expected = _numpy_contrastive(_LOGITS, similarities, contrasted, weights)
    np.testing.assert_allclose(loss(cast(_LOGITS), cast(similarities)), expected, rtol=1e-5)
    by_logits, by_similarities = jax.jit(jax.grad(loss, (0, 1)))(cast(_LOGITS), cast(similarities))
    numerical = _numerical_gradient(lambda x: _numpy_contrastive(x, similarities, contrasted, weights), _LOGITS)
    np.testing.assert_allclose(by_logits, numerical, atol=1e-5)
    numerical = _numerical_gradient(lambda x: _numpy_contrastive(_LOGITS, x, contrasted, weights), similarities)
    np.testing.assert_allclose(by_similarities, numerical, atol=1e-5)
