"""What the memory shows under the name of each class: a classifier of keys that no label was needed for.

Captions say how likely each class is (`posterior`), and their keys make the mean of each class, in a space where the
memory's keys have unit covariance. Ours, not the paper's (docs/method.md).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Names
from model.data.batch import standardize
from model.data.datasets import Task
from model.prepare import whitening
from pipelines.errors import UserError

_BLOCK_ROWS = 1 << 14
# Rows of the mean of all that are mixed into each class, so that a class of hardly any caption is not far out.
_ROWS_OF_NONE = 1.0


def posterior(cosines: jax.Array, temperature: jax.Array | float, threshold: jax.Array | float) -> jax.Array:
    """Returns how likely each class is by a caption, `[.., C]`; what is left to 1 is for captions that name none.

    Softmax of temperature * cosine over the classes and one more, whose cosine is the threshold.

    Args:
        cosines: of a caption and the names of the classes, `[.., C]`.
        temperature: that cosines are multiplied by.
        threshold: below which a name is less likely than none.
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
    """Returns the sums over rows of x x^T and q x^T, x standardized keys with a 1 behind, q what captions say."""
    x = whitening.with_one(standardize(keys))
    shares = posterior(cosines(standardize(texts), standardize(names)), temperature, threshold)
    return x.T @ x, shares.T @ x


def fit(keys: np.ndarray, texts: np.ndarray, names: np.ndarray, settings: Names) -> tuple[np.ndarray, np.ndarray]:
    """Fits the classifier: linear discriminant analysis with captions in the place of labels.

    Args:
        keys: of M memory rows, `[M, D]`.
        texts: their text values, `[M, V]`.
        names: of the classes, `[C, V]`, by the encoder of the texts.
        settings: `temperature`, `threshold` and `ridge`.

    Returns:
        A whitening float32 `[D + 1, D]`, the last row for a constant 1: standardized keys, of mean 0 and covariance
        S + ridge * trace(S) / D * I = L L^T, become L^-1 (x - mean). And of each class the mean of its whitened keys,
        weighted by what their captions say, `[C, D]`; a class that no caption names has 0, the mean of all.
    """
    dim = keys.shape[-1]
    gram, named = np.zeros((dim + 1, dim + 1)), np.zeros((len(names), dim + 1))
    for begin in range(0, len(keys), _BLOCK_ROWS):
        part = slice(begin, begin + _BLOCK_ROWS)
        sums = _sums(keys[part], texts[part], names, settings.temperature, settings.threshold)
        gram, named = gram + np.asarray(sums[0], np.float64), named + np.asarray(sums[1], np.float64)
    mean, matrix = whitening.solve(gram, settings.ridge)
    means = (named[:, :-1] - named[:, -1:] * mean) @ matrix / (named[:, -1:] + _ROWS_OF_NONE)
    return whitening.affine(mean, matrix), means.astype(np.float32)


def extend(task: Task, settings: Names) -> Task:
    """Returns the task with `name_whitening` and `name_means` among its `classes`, as `fit` makes them.

    Of the memory only what training images retrieved is used.

    Raises:
        UserError: if there are no embedded class names.
    """
    if "names_text" not in task.classes:
        raise UserError(
            "--config.train.heads: mam_names reads the names of the classes and none are embedded; set "
            "--config.class_names and run pipelines.embed again with a text encoder"
        )
    rows = task.splits["train"].retrieved
    matrix, means = fit(task.keys[rows], task.values["text"][rows], task.classes["names_text"], settings)
    made = {"name_whitening": matrix, "name_means": means}
    return dataclasses.replace(task, classes={**task.classes, **made})
