"""Lengths of vectors: which cannot be used, and unit length for any that float32 or float16 can hold."""

import numpy as np

# The squares of a shorter vector lose digits in float32.
_SAFE_LENGTH = 1e-12


def unusable(vectors: np.ndarray) -> tuple[list[int], list[int]]:
    """Returns which vectors `[n, dim]`, float32 or float16 as they are stored, have no direction, and which are broken.

    A vector has no direction that its type can hold if its values are below the smallest normal number in the mean:
    what is left of them is rounding. For float32 the bound is the 1e-12 by which lengths are floored everywhere.

    Returns:
        The rows that are zero or shorter than the bound, and those with a value that is not finite.
    """
    kind = np.finfo(vectors.dtype)
    shortest = max(float(kind.smallest_normal) * vectors.shape[1] ** 0.5, 1e-12)
    wide = vectors.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("nd,nd->n", wide, wide)
        odd = np.flatnonzero(~((squares > 4 * shortest**2) & (squares < np.inf)))
    # In float64, where no square of a float32 is too large or too small.
    lengths = np.linalg.norm(vectors[odd].astype(np.float64), axis=1)
    return odd[lengths < shortest].tolist(), odd[~np.isfinite(lengths)].tolist()


def moderate(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns vectors `[n, dim]` of any float type as float32 with their lengths, which float32 can hold, `[n, 1]`.

    Where it cannot, since their squares are too large or too small for it, they are divided by their largest value.
    Others keep their bytes; the array itself is returned if nothing had to be changed. Those that are zero have the
    length 0, those with a value that is not finite stay broken.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rows = np.ascontiguousarray(vectors, np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        odd = np.flatnonzero(~((lengths[:, 0] > _SAFE_LENGTH) & (lengths[:, 0] < np.inf)))
        if len(odd):
            wide = vectors[odd].astype(np.float64)
            largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
            rows = rows.copy() if np.may_share_memory(rows, vectors) else rows
            rows[odd] = wide / np.where(largest > 0, largest, 1.0)
            lengths[odd] = np.linalg.norm(rows[odd], axis=1, keepdims=True)
    return rows, lengths


def unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors `[n, dim]` of any float type as float32 of unit length; zero vectors stay zero."""
    rows, lengths = moderate(vectors)
    mine = None if np.may_share_memory(rows, vectors) else rows
    return np.divide(rows, np.maximum(lengths, np.finfo(np.float32).tiny), out=mine)
