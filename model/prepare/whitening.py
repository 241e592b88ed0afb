"""Cosines in a space where the memory's keys are white: of mean 0 and the same variance in every direction.

What all keys share says nothing about an image, and makes plain cosines similar. The statistics are those of the memory
rows that training images retrieved; labels play no part.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from model.data.datasets import Split, Task
from model.data.vectors import Vectors, chunks, in_blocks

# Added to the variance of each direction, as a share of the mean variance; weak directions are mostly noise.
_RIDGE = 1.0
BLOCK_ENTRIES = 1 << 14
_ROUNDING = 1e-6
_SMALLEST = 1e-12


def solve(gram: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of rows x and a whitening.

    Args:
        gram: the sum of x x^T over rows x that end in a 1, float64 `[D + 1, D + 1]`.
        ridge: added to the diagonal of the covariance S, as a share of the mean variance.

    Returns:
        Mean `[D]` and L^-T `[D, D]`, where S + ridge * trace(S) / D * I = L L^T: (x - mean) L^-T is white.
    """
    dim, count = len(gram) - 1, gram[-1, -1]
    mean = gram[-1, :-1] / count
    covariance = gram[:-1, :-1] / count - np.outer(mean, mean)
    errors = _ROUNDING * np.trace(gram[:-1, :-1]) / count
    covariance[np.diag_indices(dim)] += ridge * max(0.0, np.trace(covariance)) / dim + errors + _SMALLEST
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        # If all rows are the same, their covariance is rounding errors, of either sign.
        covariance[np.diag_indices(dim)] += errors + _SMALLEST - np.linalg.eigvalsh(covariance)[0]
        factor = np.linalg.cholesky(covariance)
    return mean, np.linalg.inv(factor).T


def affine(mean: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    """Returns both as one matrix for rows that end in a 1, float32 `[D + 1, D]`."""
    return np.vstack([whitening, -mean @ whitening]).astype(np.float32)


def with_one(x: jax.Array) -> jax.Array:
    """Appends a 1 to rows `[n, D]`: `[n, D + 1]`."""
    return jnp.pad(x, ((0, 0), (0, 1)), constant_values=1)


@jax.jit
def _gram(x: jax.Array, counted: jax.Array) -> jax.Array:
    x = with_one(x) * counted[:, None]
    return x.T @ x


def whitened(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns rows `[n, D]` in the space of a whitening `[D + 1, D]`, of unit length; bits depend on no other row."""
    return in_blocks(_whitened, rows, matrix)


@jax.jit
def _whitened(x: jax.Array, matrix: jax.Array) -> jax.Array:
    white = with_one(x) @ matrix
    return white / jnp.maximum(jnp.linalg.norm(white, axis=-1, keepdims=True), _SMALLEST)


def members(rows: np.ndarray, first: int, count: int) -> np.ndarray:
    """Tells which of `count` rows from `first` are in the ascending `rows`: 1 or 0, float32 `[count]`."""
    begin, end = np.searchsorted(rows, (first, first + count))
    found = np.zeros(count, np.float32)
    found[rows[begin:end] - first] = 1
    return found


def fit(keys: Vectors, rows: np.ndarray) -> np.ndarray:
    """Returns the whitening of some rows in the form of `affine`; reads the keys once.

    Args:
        keys: of the memory, `[M, D]`.
        rows: the rows to fit, ascending.
    """
    gram = np.zeros((keys.shape[1] + 1,) * 2)
    for first, chunk in chunks(keys):
        gram += np.asarray(_gram(chunk, members(rows, first, len(chunk))), np.float64)
    return affine(*solve(gram, _RIDGE))


def score(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Returns the scores float32 `[n]` of pairs of whitened queries and keys, both `[n, D]`."""
    return np.einsum("nd,nd->n", queries, keys)


class _Scores:
    """The scores of one split, filled in chunk by chunk of the keys."""

    def __init__(self, split: Split, matrix: np.ndarray) -> None:
        self._queries = whitened(split.queries, matrix)
        self._width = split.neighbors.shape[1]
        entries = np.flatnonzero(split.mask)
        rows = split.neighbors.ravel()[entries]
        order = np.argsort(rows, kind="stable")
        self._entries, self._rows = entries[order], rows[order]
        self.found = np.zeros(split.scores.shape, np.float32)

    def see(self, first: int, keys: np.ndarray) -> None:
        """Scores the neighbours among some whitened keys, the first of which is row `first`."""
        begin, end = np.searchsorted(self._rows, (first, first + len(keys)))
        for at in range(begin, end, BLOCK_ENTRIES):
            part = slice(at, min(at + BLOCK_ENTRIES, end))
            entries = self._entries[part]
            queries = self._queries[entries // self._width]
            self.found.ravel()[entries] = score(queries, keys[self._rows[part] - first])


def rescore(task: Task) -> Task:
    """Returns the task with whitened cosines beside the plain ones. Reads the keys twice, a chunk at a time."""
    rows = task.splits["train"].retrieved
    if len(rows) < 2:
        # A single row has no variance.
        return task
    matrix = fit(task.keys, rows)
    scores = {name: _Scores(split, matrix) for name, split in task.splits.items()}
    for first, chunk in chunks(task.keys):
        keys = whitened(chunk, matrix)
        for of in scores.values():
            of.see(first, keys)
    splits = {name: dataclasses.replace(split, whitened=scores[name].found) for name, split in task.splits.items()}
    return dataclasses.replace(task, splits=splits, whitening=matrix)
