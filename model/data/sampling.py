"""Which training rows form the batch of each step; it depends only on seed and step, so any step can be repeated.

`divide` draws which images are train and which are val.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

# The share of a class's images in an epoch is proportional to this power of its size.
SAMPLINGS = {"uniform": 1.0, "square_root": 0.5, "balanced": 0.0}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A range of steps whose batches are drawn from some of the rows.

    Attributes:
        first: step at which the stage begins; it ends where the next one begins.
        rows: of the training set, int `[n]`.
    """

    first: int
    rows: np.ndarray


def epoch_rows(labels: np.ndarray, sampling: str, seed: int, epoch: int) -> np.ndarray:
    """Returns the rows of one epoch in their order, int64 `[N]`, drawn from `(seed, epoch)`.

    `uniform`: a permutation. Otherwise N draws with replacement: class c has probability n_c^q / sum n^q, with q = 1/2
    for `square_root` and 0 for `balanced` (Kang et al., ICLR 2020, eq. 1), and its images are equally likely.

    Args:
        labels: int32 `[N]`.
        sampling: one of `SAMPLINGS`.
        seed: of the run.
        epoch: from 0.
    """
    rng = np.random.default_rng((seed, epoch))
    if sampling == "uniform":
        return rng.permutation(len(labels))
    counts = np.bincount(labels).astype(np.float64)
    shares = np.power(counts, SAMPLINGS[sampling], where=counts > 0, out=np.zeros_like(counts))
    each = (shares / np.maximum(counts, 1))[labels]
    return rng.choice(len(labels), len(labels), p=each / each.sum())


def _flat_rows(labels: np.ndarray, sampling: str, seed: int, first: int, last: int) -> np.ndarray:
    rows = len(labels)
    epochs = range(first // rows, math.ceil(last / rows))
    order = np.concatenate([epoch_rows(labels, sampling, seed, epoch) for epoch in epochs])
    offset = first - epochs[0] * rows
    return order[offset : offset + last - first]


def batch_rows(
    labels: np.ndarray, sampling: str, seed: int, begin: int, end: int, batch_size: int, stages: Sequence[Stage] = ()
) -> np.ndarray:
    """Returns the rows of the batches of steps `begin` to `end`, int32 `[end - begin, B]`.

    Batches continue across the end of an epoch, so that all have the same size. A stage has epochs of its own rows.

    Args:
        labels: int32 `[N]`.
        sampling: one of `SAMPLINGS`.
        seed: of the run.
        begin: first step.
        end: step after the last.
        batch_size: B.
        stages: in order, the first from step 0; without stages, all steps draw from all rows.
    """
    stages = stages or (Stage(0, np.arange(len(labels))),)
    parts = []
    for stage, after in zip(stages, [*(later.first for later in stages[1:]), end], strict=True):
        first, last = (max(step - stage.first, 0) * batch_size for step in (begin, min(after, end)))
        if first < last:
            parts.append(stage.rows[_flat_rows(labels[stage.rows], sampling, seed, first, last)])
    return np.concatenate(parts).astype(np.int32).reshape(end - begin, batch_size)


def divide(train: np.ndarray, val: np.ndarray, seed: int, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides the images of train and val again, so that each class keeps its numbers in both.

    Args:
        train: labels, int32 `[N]`.
        val: labels, int32 `[V]`.
        seed: of the draw.
        fold: number of the division; 0 is the given one.

    Returns:
        Rows of both together, val behind train: those of the new train `[N]` and of the new val `[V]`, ascending.
    """
    if not fold:
        return np.arange(len(train)), np.arange(len(train), len(train) + len(val))
    labels, rng = np.concatenate([train, val]), np.random.default_rng((seed, fold))
    shuffled = rng.permutation(len(labels))
    # Within each class in random order; the first of each go to val.
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    starts = np.searchsorted(labels[ordered], labels[ordered])
    is_val = np.arange(len(ordered)) - starts < np.bincount(val, minlength=labels.max() + 1)[labels[ordered]]
    return np.sort(ordered[~is_val]), np.sort(ordered[is_val])
