"""What callers of `Index` pass: paths, numbers and arrays, checked before anything is done with them.

Each function raises a `UserError` that names the argument, what it is, and what it may be.
"""

import numbers
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines import schemas
from pipelines.errors import UserError, one_line

_DTYPES = ("float16", "float32", "float64")
# Between vectors of such lengths float32 holds all dot products, and the sums of squares of all of them.
_SHORTEST, _LONGEST = 1e-12, 1e12
_BROKEN = "a value that is not finite as float32"
_DIGEST_BYTES = 32


def path(given: str | os.PathLike[str], name: str = "folder") -> str:
    """Returns a path as text."""
    found = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(found, str):
        raise UserError(f"{name}: must be a path, not a {type(given).__name__}")
    return found


def recall(given: Any) -> float:
    """Returns a recall to reach."""
    if not isinstance(given, numbers.Real) or not 0 < float(given) <= 1:
        raise UserError(f"recall={given!r}: must be a number above 0 and at most 1")
    return float(given)


def count(given: Any, least: int, most: int | None = None) -> int:
    """Returns the length of lists, `k`."""
    if not isinstance(given, int | np.integer) or given < least or (most is not None and given > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most:,}"
        raise UserError(f"k={given!r}: must be a whole number {bounds}")
    return int(given)


def matrix(given: Any, name: str, dim: int | None = None) -> np.ndarray:
    """Returns an array or a mapped file `[n, d]` as it is, or makes one of lists of numbers.

    Args:
        given: float16, float32 or float64.
        name: what to name in an error.
        dim: the d that is needed; by default any.
    """
    try:
        found = given if isinstance(given, np.ndarray) else np.asarray(given)
    except (ValueError, TypeError) as error:
        raise UserError(f"{name}: must be vectors of shape [n, d] ({one_line(error)})") from error
    if found.ndim != 2 or not found.shape[1] or found.shape[1] != (dim or found.shape[1]):
        raise UserError(f"{name}: must be vectors of shape [n, {dim or 'd'}], not {list(found.shape)}")
    if found.dtype.newbyteorder("=").name not in _DTYPES:
        raise UserError(f"{name}: must be of float16, float32 or float64, not {found.dtype}")
    return found


def rows(vectors: np.ndarray, normalise: bool) -> np.ndarray:
    """Returns vectors `[n, d]` as float32; those whose squares it cannot hold are scaled if only directions matter."""
    if normalise:
        return schemas.moderate(vectors)[0]
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(vectors, np.float32)


def check(vectors: np.ndarray, name: str, normalise: bool, places: Sequence[int] | np.ndarray) -> None:
    """Checks that vectors can be indexed or measured with: `rows` of a matrix, `[n, d]`.

    Args:
        vectors: float32.
        name: of the matrix.
        normalise: whether only directions matter.
        places: the numbers of the rows in the matrix, `[n]`.
    """
    found = _faults(vectors, normalise)
    for place in schemas.unusable(vectors)[0]:
        short = f"a length below {_SHORTEST:g}; scale the vectors, or let them be normalised"
        found[place] = short if vectors[place].any() else "no direction, it is zero"
    _refuse(found, name, places)


def queries(given: Any, dim: int, normalise: bool) -> np.ndarray:
    """Returns queries `[Q, dim]` as float32, scaled to unit length if only directions matter; zero vectors stay zero.

    Args:
        given: float16, float32 or float64.
        dim: width of the keys.
        normalise: whether only directions matter.
    """
    found = matrix(given, "queries", dim)
    made = schemas.unit(found) if normalise else rows(found, normalise)
    _refuse(_faults(made, normalise), "queries", range(len(made)))
    return made


def _faults(vectors: np.ndarray, normalise: bool) -> dict[int, str]:
    """Returns what is wrong with the rows of float32 vectors that are not finite or too long, by their places."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("nd,nd->n", vectors, vectors)
    odd = np.flatnonzero(~(squares <= (np.finfo(np.float32).max if normalise else _LONGEST**2)))
    is_finite = np.isfinite(vectors[odd]).all(axis=1)
    long = f"a length above {_LONGEST:g}; scale the vectors, or let them be normalised"
    return {place: long if finite else _BROKEN for place, finite in zip(odd.tolist(), is_finite, strict=True)}


def _refuse(faults: dict[int, str], name: str, places: Sequence[int] | np.ndarray) -> None:
    if faults:
        place = min(faults, key=lambda place: int(places[place]))
        raise UserError(f"{name}: row {places[place]} has {faults[place]}")


def images(given: Any, rows: int) -> np.ndarray | None:
    """Returns the content keys of queries, bytes `S32` `[rows]`; None if there are none."""
    if given is None:
        return None
    found = np.asarray(given)
    if found.dtype == object and all(isinstance(each, bytes) for each in found.flat):
        found = found.astype(bytes)
    is_right = found.shape == (rows,) and (found.dtype.kind == "S" or not rows)
    if not is_right or found.dtype.itemsize > _DIGEST_BYTES:
        raise UserError(
            f"images: must be content keys, {_DIGEST_BYTES} bytes each, of shape [{rows}], not {found.dtype} "
            f"{list(found.shape)}"
        )
    return found.astype(f"S{_DIGEST_BYTES}")
