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
    found = _noise({name: reached.val for name, reached in heads.items()}, val_labels)
    apart = {
        name: reached
        for name, reached in heads.items()
        if abs(reached.val - reached.test) > allowed(reached, len(val_labels), test_images)
    }
    if apart:
        name, reached = max(apart.items(), key=lambda item: abs(item[1].val - item[1].test))
        found.append(
            f"val and test disagree: {name} has {reached.val:.1%} on val and {reached.test:.1%} on test; check that "
            "the labels of both mean the same classes as train's, and that both have the same kind of images"
        )
    return found


def _noise(heads: Mapping[str, float], labels: np.ndarray) -> list[str]:
    """Returns a sentence for each reason why settings were chosen on noise.

    Args:
        heads: the accuracy of each on val, 0 to 1.
        labels: of the val images, `[N]`.
    """
    images, level = len(labels), chance(labels)
    if is_chance(1.0, images, level):
        if level == 1 and images > 1:
            return [f"all {images:,} val images are of one class, so settings were chosen on noise; add other classes"]
        return [
            f"val has too few images ({images:,}) to choose settings by: guessing its most frequent class reaches "
            f"{level:.1%}, so that even 100% may be luck; give it more images"
        ]
    guessing = {name: accuracy for name, accuracy in heads.items() if is_chance(accuracy, images, level)}
    below = {name: accuracy for name, accuracy in guessing.items() if accuracy <= level}
    above = {name: accuracy for name, accuracy in guessing.items() if accuracy > level}
    against, found = f"chance ({level:.1%} of {images:,} images), so settings were chosen on noise", []
    if below:
        found.append(
            f"on val, {_names(below)} {'is' if len(below) == 1 else 'are'} no better than {against}; check that val's "
            "labels mean the same classes as train's, and that train learns at all"
        )
    if above:
        found.append(
            f"on val, {_names(above)} cannot be told from {against}; val has too few images for that, or its labels "
            "do not mean the same classes as train's"
        )
    return found


def _names(heads: Mapping[str, float]) -> str:
    return ", ".join(f"{name} ({accuracy:.1%})" for name, accuracy in heads.items())


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
