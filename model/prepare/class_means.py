"""The mean key of each class from two witnesses: labelled images, and memory rows that are said to show it.

Empirical Bayes: how far the classes lie apart, how far the rows follow the labels and how much they scatter is measured
on the means themselves, in a space where classes have the same covariance. So a memory that says nothing of the labels
has no weight, one that is half wrong has less, and no number is chosen. Ours, not the paper's (docs/method.md).
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from model.prepare import whitening

_ROUNDS = 20
_SMALLEST = 1e-6
# Least share of a memory's spread that is its own: that it agrees with the labels without fault is not believed.
_LEAST_OWN = 0.05


class Sums(NamedTuple):
    """Sums over rows x `[D]`, of each of which a share r_c is of class c.

    Attributes:
        counts: of r, float64 `[C]`.
        totals: of r x, `[C, D]`.
        products: of x x^T times the share that is of any class, `[D, D]`.
    """

    counts: np.ndarray
    totals: np.ndarray
    products: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """Mean row of each class, `[C, D]`; 0 of a class without rows."""
        return self.totals / np.maximum(self.counts, _SMALLEST)[:, None]

    @property
    def scatter(self) -> np.ndarray:
        """Products of the distances to the mean of the own class, summed, `[D, D]`."""
        return self.products - (self.means * self.counts[:, None]).T @ self.means

    @property
    def freedom(self) -> float:
        """Rows, less one for each class that has any."""
        return max(float(self.counts.sum() - (self.counts > _SMALLEST).sum()), 0.0)


def add(blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> Sums:
    """Returns the sums over blocks of rows `[m, D]`, each with its shares of classes `[m, C]`."""
    found = None
    for rows, shares in blocks:
        parts = (shares.sum(0), shares.T @ rows, (rows * shares.sum(1)[:, None]).T @ rows)
        parts = tuple(part.astype(np.float64) for part in parts)
        found = parts if found is None else tuple(one + other for one, other in zip(found, parts, strict=True))
    if found is None:
        raise ValueError("there are no rows")
    return Sums(*found)


class _Spread(NamedTuple):
    """How far the true means of classes lie apart, by means that are known up to some noise.

    Attributes:
        centre: `[D]`.
        variance: of a true mean around it, per direction.
        weights: of the classes in a second moment, `[C]`, summing to 1.
    """

    centre: np.ndarray
    variance: float
    weights: np.ndarray


def _spread(means: np.ndarray, noise: np.ndarray) -> _Spread:
    """Estimates it by moments, each class weighed by how well its mean is known.

    Args:
        means: `[C, D]`.
        noise: variance of each mean per direction, `[C]`; infinite of a class without rows.
    """
    variance = float(noise.min()) + _SMALLEST
    for _ in range(_ROUNDS):
        precision = 1 / (variance + noise)
        centre = precision @ means / precision.sum()
        weights = np.square(precision) / np.square(precision).sum()
        beyond = np.square(means - centre).mean(1) - np.where(np.isfinite(noise), noise, 0)
        variance = max(float(weights @ beyond), _SMALLEST * float(noise.min()))
    return _Spread(centre, variance, weights)


def _noise(of: Sums, white: np.ndarray) -> np.ndarray:
    """Returns the variance of each class's mean in a white space, per direction, `[C]`."""
    within = float((of.scatter @ white * white).sum()) / max(of.freedom, 1.0) / len(white)
    with np.errstate(divide="ignore"):
        return max(within, _SMALLEST) / of.counts


def classifier(labels: Sums, memory: Sums | None, ridge: float) -> np.ndarray:
    """Fits linear discriminant analysis with the means that both witnesses speak for.

    In the white space, with d_c and M_c the distances of the means by labels and by memory from their centres, n_c and
    m_c the noise of these means, t the variance of the true means and M_c = a mu_c + something of variance v + m_c:

        mu_c = (d_c / n_c + a M_c / (v + m_c)) / (1 / n_c + a^2 / (v + m_c) + 1 / t)

    Args:
        labels: over labelled images; every class has one.
        memory: over memory rows; None for none.
        ridge: added to the covariance, as a share of the mean variance.

    Returns:
        Weights of rows that end in a 1, float32 `[D + 1, C]`.
    """
    scatter, freedom = labels.scatter, labels.freedom
    if memory is not None:
        scatter, freedom = scatter + memory.scatter, freedom + memory.freedom
    centre = labels.totals.sum(0) / labels.counts.sum()
    if not freedom:
        # With one image of each class, only how far they all scatter is known.
        freedom = labels.counts.sum()
        scatter = labels.products - freedom * np.outer(centre, centre)
    # `solve` takes products of rows that end in a 1; these have the mean 0.
    gram = np.zeros((len(scatter) + 1,) * 2)
    gram[:-1, :-1], gram[-1, -1] = scatter, freedom
    _, white = whitening.solve(gram, ridge)
    means = _means(labels, memory, white, centre)
    weights = white @ means.T
    return np.vstack([weights, -centre @ weights - np.square(means).sum(1) / 2]).astype(np.float32)


def _means(labels: Sums, memory: Sums | None, white: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Returns the means in the white space around a centre, `[C, D]`."""
    own = (labels.means - centre) @ white
    noise = _noise(labels, white)
    spread = _spread(own, noise)
    distance = own - spread.centre
    told, precision = distance / noise[:, None], 1 / noise + 1 / spread.variance
    if memory is not None:
        trust, moved = _trust(memory, white, distance, spread)
        told, precision = told + moved, precision + trust
    return spread.centre + told / precision[:, None]


def _trust(memory: Sums, white: np.ndarray, distance: np.ndarray, spread: _Spread) -> tuple[np.ndarray, np.ndarray]:
    """Returns a^2 / (v + m_c) `[C]` and a M_c / (v + m_c) `[C, D]`, see `classifier`.

    Args:
        memory: over its rows.
        white: the whitening, `[D, D]`.
        distance: of the labelled means, d_c, `[C, D]`.
        spread: of these.
    """
    means, noise = memory.means @ white, _noise(memory, white)
    precision = 1 / (spread.variance + noise)
    if not precision.any():
        return np.zeros(len(means)), np.zeros_like(means)
    means = means - precision @ means / precision.sum()
    weights = spread.weights * np.square(precision)
    weights = weights / weights.sum()
    slope = max(float(weights @ (means * distance).mean(1)) / spread.variance, 0.0)
    explained = slope**2 * spread.variance
    beyond = np.square(means).mean(1) - np.where(np.isfinite(noise), noise, 0)
    own = max(float(weights @ beyond) - explained, _LEAST_OWN * explained)
    share = slope / (own + noise)
    return slope * share, share[:, None] * means
