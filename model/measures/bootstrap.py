"""Paired bootstrap intervals of differences between methods that were measured on the same test images.

An interval covers the choice of test images. Results are averaged over seeds first; the spread between seeds is
reported as a standard deviation. `reports.results` chooses the methods to compare.
"""

import numpy as np

from model.measures.metrics import GROUPS

RESAMPLES = 10_000
LEVEL = 0.95
# Test images of all resamples in a block.
BLOCK_ENTRIES = 1 << 22


def resample(
    right: np.ndarray, labels: np.ndarray, groups: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Measures methods on resamples of the test images, drawn with replacement.

    All methods are measured on the same draws, so that differences of the returned figures are paired (Efron and
    Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13). A class that a draw misses is left out of its
    group's mean.

    Args:
        right: share of the seeds that predict an image correctly, `[H, N]`, for each of H methods.
        labels: `[N]`.
        groups: of each class, `[C]`.
        resamples: R.
        seed: of the draws.

    Returns:
        `all` and each group that has images: accuracies as `metrics.accuracy` defines them, float64 `[R, H]`; NaN
        where a draw has no image of the group.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    right, (classes, starts) = right[:, order].astype(np.float64), np.unique(labels[order], return_index=True)
    count, group_of = right.shape[1], groups[classes]
    columns = ["all", *(group for group in GROUPS if (group_of == group).any())]
    result = {column: np.empty((resamples, len(right))) for column in columns}
    block = max(1, BLOCK_ENTRIES // count)
    for first in range(0, resamples, block):
        rows = slice(first, min(first + block, resamples))
        size = rows.stop - rows.start
        draws = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(draws.ravel(), minlength=size * count).reshape(size, count)
        totals = np.add.reduceat(times, starts, axis=1)
        for method, mine in enumerate(right):
            hits = np.add.reduceat(times * mine, starts, axis=1)
            result["all"][rows, method] = hits.sum(axis=1) / count
            shares = np.divide(hits, totals, out=np.zeros_like(hits), where=totals > 0)
            for column in columns[1:]:
                chosen = group_of == column
                present = (totals[:, chosen] > 0).sum(axis=1)
                with np.errstate(invalid="ignore"):
                    result[column][rows, method] = shares[:, chosen].sum(axis=1) / present
    return result


def interval(differences: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Returns the percentile interval of resampled differences `[R]`; NaN are left out."""
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(differences, [tail, 100 - tail])
    return float(low), float(high)
