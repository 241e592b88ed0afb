"""Where the values' projections may start: at the key that a value predicts.

The memory holds pairs of an image and its text, so a regression over it tells what the key encoder makes of an image
with such a text. A neighbour then moves a query within the space of queries before any label was seen. Ours, not the
paper's (docs/method.md).
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from model.data.batch import standardize
from model.data.datasets import Task
from model.data.vectors import Vectors, chunks
from model.prepare import whitening

# Added to the variance of each direction, as a share of the values' mean variance.
_RIDGE = 0.1
# Mean square of a prediction below which it counts as 0; that of a whole key is 1.
_SMALLEST = 1e-6


class Start(NamedTuple):
    """Where the projections of each kind of values start.

    Attributes:
        predicted: for each kind the result of `fit`, float32 `[V + 1, D]`.
    """

    predicted: dict[str, np.ndarray]


@jax.jit
def _sums(values: jax.Array, keys: jax.Array, counted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sums over counted rows of x x^T and x y^T, x standardized values and a 1, y standardized keys."""
    x = whitening.with_one(standardize(values)) * counted[:, None]
    return x.T @ x, x.T @ standardize(keys)


def _pairs(keys: Vectors, values: Vectors) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields consecutive rows of both and the number of the first; columns of one memory have the same chunks."""
    if isinstance(keys, np.ndarray):
        yield from ((first, keys[first : first + len(chunk)], chunk) for first, chunk in chunks(values))
    elif isinstance(values, np.ndarray):
        yield from ((first, chunk, values[first : first + len(chunk)]) for first, chunk in chunks(keys))
    else:
        for (first, key_chunk), (_, value_chunk) in zip(chunks(keys), chunks(values), strict=True):
            yield first, key_chunk, value_chunk


def fit(keys: Vectors, values: Vectors, rows: np.ndarray) -> np.ndarray:
    """Predicts standardized keys from standardized values by ridge regression; reads both once, a chunk at a time.

    Args:
        keys: of the memory, `[M, D]`.
        values: of one kind, `[M, V]`.
        rows: the pairs to fit, ascending.

    Returns:
        A float32 `[V + 1, D]`, the last row for a constant 1: the difference between a value's predicted key and the
        mean key, scaled so that the mean square of its entries over `rows` is 1; 0 where values predict nothing.
    """
    if not len(rows):
        return np.zeros((values.shape[1] + 1, keys.shape[1]), np.float32)
    gram, cross = np.zeros((values.shape[1] + 1,) * 2), np.zeros((values.shape[1] + 1, keys.shape[1]))
    for first, key_chunk, value_chunk in _pairs(keys, values):
        sums = _sums(value_chunk, key_chunk, whitening.members(rows, first, len(key_chunk)))
        gram, cross = gram + np.asarray(sums[0], np.float64), cross + np.asarray(sums[1], np.float64)
    mean, matrix = whitening.solve(gram, _RIDGE)
    slope = matrix @ (matrix.T @ (cross[:-1] - np.outer(mean, cross[-1])) / len(rows))
    affine = np.vstack([slope, -mean @ slope])
    mean_square = (affine * (gram @ affine)).sum() / (len(rows) * keys.shape[1])
    return (affine / np.sqrt(mean_square) if mean_square > _SMALLEST else 0 * affine).astype(np.float32)


def make(task: Task) -> Start:
    """Fits each kind of values to the keys of the memory rows that training images retrieved."""
    rows = task.splits["train"].retrieved
    return Start({kind: fit(task.keys, values, rows) for kind, values in task.values.items()})
