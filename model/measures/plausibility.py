"""Whether accuracies on val and test can be what they seem: signs that a split's labels are not those of train."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

# Chance that guessing is not called guessing.
_LEVEL = 0.01
_HALF_WIDTH = 1.96
# Beyond the intervals: val may be noisier or easier than test, and trials were chosen on it.
_MARGIN = 0.15


class Reached(NamedTuple):
    """Accuracies of a head, 0 to 1: of its chosen trial on val, and the mean of its seeds on test."""

    val: float
    test: float


def warnings(heads: Mapping[str, Reached], val_labels: np.ndarray, test_images: int) -> list[str]:
    """Returns a sentence for each sign that the labels of val, or of test, are wrong.

    Args:
        heads: what each reached.
        val_labels: of the val images, `[N]`.
        test_images: how many there are.
    """
    found, level = [], chance(val_labels)
    images = len(val_labels)
    if guessing := [name for name, reached in heads.items() if is_chance(reached.val, images, level)]:
        found.append(
            f"on val, {_names(guessing)} no better than chance ({level:.1%} of {images:,} images), so settings were "
            "chosen on noise; check that val's labels mean the same classes as train's, and that train learns at all"
        )
    apart = {
        name: reached
        for name, reached in heads.items()
        if abs(reached.val - reached.test) > allowed(reached, images, test_images)
    }
    if apart:
        name, reached = max(apart.items(), key=lambda item: abs(item[1].val - item[1].test))
        found.append(
            f"val and test disagree: {name} has {reached.val:.1%} on val and {reached.test:.1%} on test; check that "
            "the labels of both mean the same classes as train's, and that both have the same kind of images"
        )
    return found


def _names(heads: list[str]) -> str:
    return f"{', '.join(heads)} {'is' if len(heads) == 1 else 'are'}"


def chance(labels: np.ndarray) -> float:
    """Returns the accuracy of always guessing the most frequent class of `labels` `[N]`."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def is_chance(accuracy: float, images: int, level: float) -> bool:
    """Tells whether guessing with probability `level` reaches an accuracy in more than one of a hundred cases."""
    right = round(accuracy * images)
    return bool(right == 0 or special.bdtrc(right - 1, images, level) > _LEVEL)


def allowed(reached: Reached, val_images: int, test_images: int) -> float:
    """Returns how far val and test may be apart: both 95 % binomial intervals and 15 points."""
    widths = [
        _HALF_WIDTH * math.sqrt(share * (1 - share) / images)
        for share, images in zip(reached, (val_images, test_images), strict=True)
    ]
    return sum(widths) + _MARGIN
