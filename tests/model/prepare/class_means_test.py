"""Means from labels and memory against an independent float64 version, and what a memory may and may not change."""

import numpy as np
import pytest

from model.prepare import class_means
from model.prepare.class_means import Sums

_C, _D = 12, 6


def _world(seed: int = 0, images: int = 4, rows: int = 30, slope: float = 0.7):
    """Returns true means, labelled images with their labels, and memory rows with the class that they show."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(_C, _D))
    turn = rng.normal(size=(_D, _D)) / 3 + np.eye(_D)
    labels, shown = np.repeat(np.arange(_C), images), np.repeat(np.arange(_C), rows)
    queries = (means[labels] + rng.normal(size=(len(labels), _D))) @ turn
    keys = (slope * means[shown] + 1 + rng.normal(size=(len(shown), _D))) @ turn
    return means, turn, queries.astype(np.float32), labels, keys.astype(np.float32), shown


def _one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(_C, dtype=np.float32)[labels]


def _sums(rows: np.ndarray, shares: np.ndarray, size: int = 7) -> Sums:
    parts = [slice(begin, begin + size) for begin in range(0, len(rows), size)]
    return class_means.add((rows[part], shares[part]) for part in parts)


def _spread(means: np.ndarray, noise: np.ndarray):
    """Centre, variance between classes and weights by weighted moments, class by class, until nothing changes."""
    variance = 1.0
    for _ in range(500):
        precision = [1 / (variance + n) for n in noise]
        centre = sum(p * m for p, m in zip(precision, means, strict=True)) / sum(precision)
        weights = [p * p for p in precision]
        beyond = [np.mean((m - centre) ** 2) - n for m, n in zip(means, noise, strict=True)]
        variance = max(sum(w * b for w, b in zip(weights, beyond, strict=True)) / sum(weights), 1e-9)
    return centre, variance, np.array(weights) / sum(weights)


def _expected(queries, labels, keys, shares, ridge):
    """The weights, with each sum written out."""
    queries, keys = queries.astype(np.float64), keys.astype(np.float64)
    own = np.stack([queries[labels == c].mean(0) for c in range(_C)])
    counts = np.bincount(labels, minlength=_C)
    scatter = sum(np.outer(x - own[c], x - own[c]) for x, c in zip(queries, labels, strict=True))
    freedom = len(labels) - _C
    total, free = scatter.copy(), freedom
    if shares is not None:
        masses = shares.sum(0)
        told = np.stack([(shares[:, c : c + 1] * keys).sum(0) / masses[c] for c in range(_C)])
        loose = sum(
            shares[j, c] * np.outer(keys[j] - told[c], keys[j] - told[c]) for j in range(len(keys)) for c in range(_C)
        )
        total, free = total + loose, free + masses.sum() - _C
    covariance = total / free
    covariance += (ridge + 1e-6) * np.trace(covariance) / _D * np.eye(_D)
    white = np.linalg.inv(np.linalg.cholesky(covariance)).T
    centre = queries.mean(0)
    noise = np.trace(white.T @ scatter @ white) / freedom / _D / counts
    middle, variance, weights = _spread((own - centre) @ white, noise)
    distance = (own - centre) @ white - middle
    numerator, precision = distance / noise[:, None], 1 / noise + 1 / variance
    if shares is not None:
        noisy = np.trace(white.T @ loose @ white) / (masses.sum() - _C) / _D / masses
        sure = 1 / (variance + noisy)
        away = told @ white
        away = away - (sure[:, None] * away).sum(0) / sure.sum()
        weights = weights * sure**2 / (weights * sure**2).sum()
        slope = max((weights * (away * distance).mean(1)).sum() / variance, 0)
        free_of_labels = (weights * ((away**2).mean(1) - noisy)).sum() - slope**2 * variance
        loose_variance = max(free_of_labels, 0.05 * slope**2 * variance)
        share = slope / (loose_variance + noisy)
        numerator, precision = numerator + share[:, None] * away, precision + slope * share
    means = middle + numerator / precision[:, None]
    weights = white @ means.T
    return np.vstack([weights, -centre @ weights - (means**2).sum(1) / 2])


@pytest.mark.parametrize("with_memory", [False, True])
def test_the_classifier_is_what_numpy_says(with_memory):
    _, _, queries, labels, keys, shown = _world()
    shares = _one_hot(shown) * np.random.default_rng(1).uniform(0.3, 1, (len(shown), 1)).astype(np.float32)
    memory = _sums(keys, shares) if with_memory else None
    found = class_means.classifier(_sums(queries, _one_hot(labels)), memory, 0.3)
    expected = _expected(queries, labels, keys, shares if with_memory else None, 0.3)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def _distance(found: np.ndarray, means: np.ndarray, turn: np.ndarray) -> float:
    """How often a classifier misses the class of new images, 0 to 1."""
    rng = np.random.default_rng(9)
    labels = np.repeat(np.arange(_C), 200)
    queries = (means[labels] + rng.normal(size=(len(labels), _D))) @ turn
    return float(((queries @ found[:-1] + found[-1]).argmax(1) != labels).mean())


def test_a_memory_that_follows_the_labels_helps_and_one_that_says_nothing_does_not_harm():
    means, turn, queries, labels, keys, shown = _world(images=2)
    own = _sums(queries, _one_hot(labels))
    alone = _distance(class_means.classifier(own, None, 0.3), means, turn)
    good = _distance(class_means.classifier(own, _sums(keys, _one_hot(shown)), 0.3), means, turn)
    rng = np.random.default_rng(2)
    lies = _sums(keys, _one_hot(rng.permutation(shown)))
    noise = _sums(rng.normal(size=keys.shape).astype(np.float32), _one_hot(shown))
    assert good < alone - 0.05
    for bad in (lies, noise):
        assert _distance(class_means.classifier(own, bad, 0.3), means, turn) < alone + 0.02


def test_a_memory_that_says_the_opposite_of_the_labels_has_no_weight():
    _, _, queries, labels, keys, shown = _world(slope=-0.7)
    own, memory = _sums(queries, _one_hot(labels)), _sums(keys, _one_hot(shown))
    # What is left of it is the covariance.
    only_scatter = memory._replace(totals=memory.totals * 0, products=memory.scatter)
    np.testing.assert_allclose(
        class_means.classifier(own, memory, 0.3), class_means.classifier(own, only_scatter, 0.3), rtol=1e-4, atol=1e-4
    )


def test_classes_without_rows_keep_their_labelled_means():
    _, _, queries, labels, keys, shown = _world()
    own = _sums(queries, _one_hot(labels))
    shares = _one_hot(shown)
    shares[:, 3] = 0
    found = class_means.classifier(own, _sums(keys, shares), 0.3)
    assert np.isfinite(found).all()
    nothing = class_means.classifier(own, _sums(keys, 0 * shares), 0.3)
    np.testing.assert_allclose(nothing, class_means.classifier(own, None, 0.3), rtol=1e-3, atol=1e-3)


def test_one_image_of_each_class_is_enough():
    means, turn, *_ = _world()
    own = _sums((means @ turn).astype(np.float32), _one_hot(np.arange(_C)))
    assert _distance(class_means.classifier(own, None, 0.3), means, turn) < 0.5


def test_blocks_change_nothing_but_rounding():
    _, _, _, _, keys, shown = _world()
    for one, other in zip(_sums(keys, _one_hot(shown), 5), _sums(keys, _one_hot(shown), 1000), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-3)
    with pytest.raises(ValueError, match="there are no rows"):
        class_means.add(())
