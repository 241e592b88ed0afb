"""What the memory shows under the name of each class: a classifier of keys that needs no labels.

Captions tell how likely each class is (`posterior`); the mean of each class is that of their keys, weighted by it, in a
space where the memory's keys have unit covariance. Ours, not the paper's (docs/method.md).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Names
from model.data.batch import standardize
from model.data.datasets import Task
from model.prepare import whitening

BLOCK_ROWS = 1 << 14
# Rows with the mean of all that are added to each class, so that a class with few captions is no outlier.
ROWS_OF_NONE = 1.0


class NamePrior(NamedTuple):
    """What the memory knows of the names.

    Attributes:
        names: embedded class names, unit length, float32 `[C, V]`.
        whitening: of standardized keys, float32 `[D + 1, D]`, the last row for a constant 1.
        means: of each class's whitened keys, float32 `[C, D]`.
    """

    names: np.ndarray
    whitening: np.ndarray
    means: np.ndarray


def posterior(cosines: jax.Array, temperature: jax.Array | float, threshold: jax.Array | float) -> jax.Array:
    """Returns how likely a caption names each class, `[.., C]`; the rest to 1 is the probability that it names none.

    Softmax of temperature * cosine over the classes and one more, whose cosine is the threshold.

    Args:
        cosines: of a caption and the class names, `[.., C]`.
        temperature: factor applied to the cosines.
        threshold: cosine below which a name is less likely than none.
    """
    exponents = temperature * (cosines - threshold)
    largest = jnp.maximum(exponents.max(-1, keepdims=True), 0)
    shares = jnp.exp(exponents - largest)
    return shares / (shares.sum(-1, keepdims=True) + jnp.exp(-largest))


def cosines(texts: jax.Array, names: jax.Array) -> jax.Array:
    """Returns cosines `[.., C]` of texts `[.., V]` and names `[C, V]`, both standardized."""
    return texts @ names.T / names.shape[-1]


@jax.jit
def _sums(
    keys: jax.Array, texts: jax.Array, names: jax.Array, temperature: float, threshold: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the sums over rows of x x^T and q x^T, x standardized keys and a 1, q the posterior of captions."""
    x = whitening.with_one(standardize(keys))
    shares = posterior(cosines(standardize(texts), standardize(names)), temperature, threshold)
    return x.T @ x, shares.T @ x


def fit(keys: np.ndarray, texts: np.ndarray, names: np.ndarray, settings: Names) -> tuple[np.ndarray, np.ndarray]:
    """Fits the classifier: linear discriminant analysis with captions instead of labels.

    Args:
        keys: of M memory rows, `[M, D]`.
        texts: their text values, `[M, V]`.
        names: of the classes, embedded by the encoder of the texts, `[C, V]`.
        settings: `temperature`, `threshold` and `ridge`.

    Returns:
        A whitening float32 `[D + 1, D]`, the last row for a constant 1: standardized keys, of mean 0 and covariance
        S + ridge * trace(S) / D * I = L L^T, become L^-1 (x - mean). And for each class the mean of the whitened keys,
        weighted by the posterior of their captions, `[C, D]`; a class that no caption names has 0, the mean of all.
    """
    dim = keys.shape[-1]
    gram, named = np.zeros((dim + 1, dim + 1)), np.zeros((len(names), dim + 1))
    for begin in range(0, len(keys), BLOCK_ROWS):
        part = slice(begin, begin + BLOCK_ROWS)
        sums = _sums(keys[part], texts[part], names, settings.temperature, settings.threshold)
        gram, named = gram + np.asarray(sums[0], np.float64), named + np.asarray(sums[1], np.float64)
    mean, matrix = whitening.solve(gram, settings.ridge)
    means = (named[:, :-1] - named[:, -1:] * mean) @ matrix / (named[:, -1:] + ROWS_OF_NONE)
    return whitening.affine(mean, matrix), means.astype(np.float32)


def more_means(
    keys: np.ndarray, texts: np.ndarray, names: np.ndarray, count: int, matrix: np.ndarray, settings: Names
) -> np.ndarray:
    """Returns the means of the last `count` classes, float32 `[count, D]`, in the space of a whitening that is known.

    Args:
        keys: of M memory rows, `[M, D]`.
        texts: their text values, `[M, V]`.
        names: of all classes, `[C, V]`; a caption is shared out among all of them.
        count: of the classes to fit.
        matrix: the whitening, from `fit`.
        settings: `temperature` and `threshold`.
    """
    named = np.zeros((len(names), keys.shape[1] + 1))
    for begin in range(0, len(keys), BLOCK_ROWS):
        part = slice(begin, begin + BLOCK_ROWS)
        rows = (matrix_of[part].astype(np.float32, copy=False) for matrix_of in (keys, texts))
        named += np.asarray(_sums(*rows, names, settings.temperature, settings.threshold)[1], np.float64)
    return (named[-count:] @ matrix / (named[-count:, -1:] + ROWS_OF_NONE)).astype(np.float32)


def make(task: Task, settings: Names) -> NamePrior:
    """Fits the classifier to the memory rows that training images retrieved; the class names must be embedded."""
    rows, names = task.splits["train"].retrieved, task.name_vectors["text"]
    return NamePrior(names, *fit(task.keys[rows], task.values["text"][rows], names, settings))
