"""Cosines between blocks of keys, the same to the last bit however the work is cut.

How a product of two float32 matrices rounds depends on the shapes of its blocks. Here it only proposes pairs; their
cosines are summed again in float64 and rounded to float32, so that a decision depends on the two vectors alone.
"""

from collections.abc import Callable

import numpy as np

from pipelines import nearest_neighbors

# Sizes of the blocks, which bound memory; no result depends on them.
ROW_BLOCK = 1024
KEY_BLOCK = 4096
_RESCORE_BYTES = 32 << 20
# For float16 vectors, 1 / 32 of all pairs one by one cost as much as all pairs by one product.
_DENSE = 32
NONE = -1


def unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors `[n, d]` of any float type as float32 of unit length; zero vectors stay zero."""
    vectors = np.array(vectors, np.float32, order="C")
    for begin in range(0, len(vectors), ROW_BLOCK):
        block = vectors[begin : begin + ROW_BLOCK]
        norms = np.sqrt(np.square(block, dtype=np.float64).sum(axis=1))
        block /= np.maximum(norms, np.finfo(np.float32).tiny).astype(np.float32)[:, None]
    return vectors


def slack(dim: int) -> float:
    """Returns twice the worst rounding error of a float32 dot product of unit vectors of `dim` terms."""
    return (dim + 8) * float(np.finfo(np.float32).eps)


def cosines(rows: np.ndarray, keys: np.ndarray, row: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Returns the cosines float32 `[c]` of pairs `(rows[row], keys[key])`: at most 1, and 1 for equal vectors.

    Args:
        rows: float32 or float16 `[n, d]`; float16 of at most unit length.
        keys: of the same type, `[m, d]`.
        row: int64 `[c]`.
        key: int64 `[c]`.
    """
    if rows.dtype == np.float16 and len(row) * _DENSE > len(rows) * len(keys):
        # Values are multiples of 2^-24 up to 1, so their products add up in float64 without rounding, in any order.
        return _cosines(rows, keys, lambda a, b: a @ b.T, np.multiply.outer)[row, key]
    result = np.empty(len(row), np.float32)
    step = max(1, _RESCORE_BYTES // (8 * max(1, rows.shape[1])))
    for i in range(0, len(row), step):
        pairs = rows[row[i : i + step]], keys[key[i : i + step]]
        result[i : i + step] = _cosines(*pairs, lambda a, b: (a * b).sum(axis=1), np.multiply)
    return result


def _cosines(rows: np.ndarray, keys: np.ndarray, dot: Callable, times: Callable) -> np.ndarray:
    rows, keys = rows.astype(np.float64), keys.astype(np.float64)
    norms = times(np.sqrt(np.square(rows).sum(axis=1)), np.sqrt(np.square(keys).sum(axis=1)))
    result = (dot(rows, keys) / np.maximum(norms, np.finfo(np.float64).tiny)).astype(np.float32)
    return np.minimum(result, np.float32(1))


def best_matches(
    rows: np.ndarray, keys: np.ndarray, threshold: float, earlier_only: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Finds for each row the key of the highest cosine, the first of equal ones, if it is at least `threshold`.

    Args:
        rows: float32 `[n, d]` of unit length, or float16 of about that.
        keys: of the same type, `[m, d]`.
        threshold: smallest cosine.
        earlier_only: `keys` are the rows themselves, and row i may match rows `[0, i)` only.

    Returns:
        Places among the keys int64 `[n]`, `NONE` for no match, and cosines float32 `[n]`, -inf for no match. All other
        memory is bounded by the blocks, whatever n and m are.
    """
    best, cosine = np.full(len(rows), NONE, np.int64), np.full(len(rows), -np.inf, np.float32)
    rough_rows, rough_keys = rows, keys
    if rows.dtype == np.float16:
        rough_rows = unit(rows)
        rough_keys = rough_rows if earlier_only else unit(keys)
    for begin in range(0, len(rows), ROW_BLOCK):
        end = min(begin + ROW_BLOCK, len(rows))
        for first in range(0, end if earlier_only else len(keys), KEY_BLOCK):
            block = keys[first : first + KEY_BLOCK]
            rough = rough_rows[begin:end] @ rough_keys[first : first + KEY_BLOCK].T
            if earlier_only and first + len(block) > begin:
                rough[first + np.arange(len(block)) >= np.arange(begin, end)[:, None]] = -np.inf
            _improve(rows[begin:end], block, rough, first, threshold, best[begin:end], cosine[begin:end])
    return best, cosine


def _improve(
    rows: np.ndarray,
    keys: np.ndarray,
    rough: np.ndarray,
    first: int,
    threshold: float,
    best: np.ndarray,
    cosine: np.ndarray,
) -> None:
    """Updates the best matches of a block of rows with a block of keys, the first of which is key `first`."""
    limit = np.maximum(np.maximum(cosine, threshold), rough.max(axis=1)) - slack(rows.shape[1])
    row, key = np.nonzero(rough >= limit[:, None])
    if not len(row):
        return
    exact = cosines(rows, keys, row, key)
    # Pairs are ordered by row, then key.
    _, begins, place = np.unique(row, return_index=True, return_inverse=True)
    wins = (exact == np.maximum.reduceat(exact, begins)[place]) & (exact >= np.float32(threshold))
    row, key, exact = row[wins], key[wins], exact[wins]
    row, first_win = np.unique(row, return_index=True)
    key, exact = key[first_win], exact[first_win]
    better = exact > cosine[row]
    best[row[better]], cosine[row[better]] = first + key[better], exact[better]


def near(rows: np.ndarray, keys: np.ndarray, k: int, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places of the k keys of the highest cosines, the first of equal ones, and these cosines.

    Args:
        rows: float32 `[n, d]`, unit length.
        keys: float32 `[m, d]`, unit length.
        k: how many.
        least: smallest cosine.

    Returns:
        int64 `[n, k]`, padded with `NONE`, and float32 `[n, k]`, padded with -inf.
    """
    allowed = np.full(len(rows), slack(rows.shape[1]), np.float32)
    return nearest_neighbors.search(rows, keys, k, allowed, cosines, least=least)


def nearest(rows: np.ndarray, keys: np.ndarray, k: int) -> np.ndarray:
    """Returns the places int64 `[n, k]` of the k keys of the highest cosines, the first of equal ones.

    Args:
        rows: float32 `[n, d]`, unit length.
        keys: float32 `[m, d]`, unit length, m >= k.
        k: how many.
    """
    allowed = np.full(len(rows), slack(rows.shape[1]), np.float32)
    return nearest_neighbors.search(rows, keys, k, allowed, cosines)[0]
