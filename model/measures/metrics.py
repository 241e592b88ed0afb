"""How good predictions are: top-1 overall and by shot group, top-5, calibration.

`bootstrap` has intervals, `reports.results` the spread over seeds.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

GROUPS = ("many", "medium", "few")
TOP = 5
# Training images above and below which a class is many- and few-shot (Kang et al., ICLR 2020).
_USUAL = (100, 20)
_BINS = 15
_BLOCK_ROWS = 1024


class ShotBounds(NamedTuple):
    """The training images that a class of the outer groups has: more than `many_over`, fewer than `few_under`."""

    many_over: int
    few_under: int
    fitted: bool


def shot_bounds(class_counts: np.ndarray, many_over: int = 0, few_under: int = 0) -> ShotBounds:
    """Returns the bounds of the shot groups.

    Args:
        class_counts: training images of each class, `[C]`.
        many_over: 0 for 100. Where that and 20 leave a group empty, the bounds are fitted to the data: thirds of the
            classes by size, unless classes are too much alike for three groups.
        few_under: 0 for 20, in the same way.
    """
    usual = ShotBounds(many_over or _USUAL[0], few_under or _USUAL[1], False)
    if many_over or few_under or _has_all_groups(class_counts, usual):
        return usual
    sizes = np.sort(class_counts).tolist()
    few, many = sizes[len(sizes) // 3], sizes[2 * len(sizes) // 3] - 1
    fitted = ShotBounds(max(many, few), few, True)
    return fitted if _has_all_groups(class_counts, fitted) else usual


def _has_all_groups(class_counts: np.ndarray, bounds: ShotBounds) -> bool:
    few, many = (class_counts < bounds.few_under).sum(), (class_counts > bounds.many_over).sum()
    return bool(few and many and len(class_counts) - few - many)


def shot_groups(class_counts: np.ndarray, many_over: int, few_under: int, shots: str = "decoupling") -> np.ndarray:
    """Returns the group of each class, `[C]` of `many`, `medium`, `few`, by its training images.

    Args:
        class_counts: training images of each class, `[C]`.
        many_over: see `shot_bounds`.
        few_under: see `shot_bounds`.
        shots: `decoupling`, or `oltr`, where the bounds belong to the outer groups (Liu et al., CVPR 2019).
    """
    many_over, few_under, _ = shot_bounds(class_counts, many_over, few_under)
    if shots == "oltr":
        many_over, few_under = many_over - 1, few_under + 1
    return np.where(class_counts > many_over, "many", np.where(class_counts < few_under, "few", "medium"))


def accuracy(predictions: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Returns top-1 accuracies as fractions.

    Args:
        predictions: `[N]`.
        labels: `[N]`.
        groups: of each class, `[C]`.

    Returns:
        `all`, the share of images with a correct prediction, and for each group with images the mean of its classes'
        accuracies. On a balanced test set `all` is the mean over classes too.
    """
    return mean_right(predictions == labels, labels, groups)


def balanced(accuracies: Mapping[str, float]) -> float:
    """Returns what settings are chosen by: the mean of the overall accuracy and of those of the shot groups.

    Overall accuracy alone chooses many-shot classes where val has many of them, and by a hair's breadth; a mean that
    also has each group does not trade few-shot classes for others unseen. The order of the figures, which a file need
    not keep, changes no bit of it.

    Args:
        accuracies: from `accuracy`.
    """
    return math.fsum(accuracies.values()) / len(accuracies)


def mean_right(right: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Returns what `accuracy` does, of how right each image is, 0 to 1, `[N]`: over seeds, the share that are right."""
    result = {"all": float(right.mean())}
    totals = np.bincount(labels, minlength=len(groups))
    hits = np.bincount(labels, weights=right, minlength=len(groups))
    for group in GROUPS:
        chosen = (groups == group) & (totals > 0)
        if chosen.any():
            result[group] = float((hits[chosen] / totals[chosen]).mean())
    return result


def top_classes(scores: np.ndarray, k: int = TOP) -> tuple[np.ndarray, np.ndarray]:
    """Returns the most probable classes of each row and their probabilities.

    The probability is the softmax of the scores. Where these are log-probabilities up to a constant of the row, as
    `Objective.scores` are, that is the predicted probability itself, whatever the constant: of `lace`, which moves
    the prior into the training logits, that under a prior that is even over classes.

    Args:
        scores: float32 `[N, C]`.
        k: classes of a row; all if there are fewer.

    Returns:
        Classes int32 `[N, min(k, C)]`, most probable first, ties by class, and float32 probabilities.
    """
    classes = np.empty((len(scores), min(k, scores.shape[1])), np.int32)
    probabilities = np.empty(classes.shape, np.float32)
    for first in range(0, len(scores), _BLOCK_ROWS):
        rows = slice(first, first + _BLOCK_ROWS)
        exact = scores[rows].astype(np.float64)
        classes[rows] = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        exponents = np.exp(exact - exact.max(axis=1, keepdims=True))
        probabilities[rows] = np.take_along_axis(exponents, classes[rows], 1) / exponents.sum(axis=1, keepdims=True)
    return classes, probabilities


def top_accuracy(classes: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of rows whose label `[N]` is among the classes `[N, k]`."""
    return float((classes == labels[:, None]).any(axis=1).mean())


def calibration_error(confidences: np.ndarray, right: np.ndarray, bins: int = _BINS) -> float:
    """Returns the expected calibration error, a fraction.

    ECE = sum_b n_b / N |accuracy_b - confidence_b|, over bins ((b - 1) / bins, b / bins] of the largest probability
    (Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017, eq. 3, with 15 bins). Few rows a bin bias it
    upwards.

    Args:
        confidences: probability of the predicted class, 0 to 1, `[N]`.
        right: whether the prediction is the label, `[N]`.
        bins: of equal width.
    """
    bin_of = np.clip(np.ceil(confidences.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(bin_of, weights=right.astype(np.float64) - confidences, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))
