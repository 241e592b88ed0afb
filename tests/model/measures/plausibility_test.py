"""Signs that the labels of a split are not those of train."""

import math

import numpy as np
import pytest

from model.measures import plausibility
from model.measures.plausibility import Reached


def test_shifted_labels_of_val_are_noticed():
    # A grocery set: 60 of 81 classes in val, whose numbers had shifted.
    labels = np.repeat(np.arange(60), 5)
    reached = {"linear": Reached(0.01, 0.72), "mam": Reached(0.0, 0.8), "mean_knn": Reached(0.02, 0.75)}
    chance, close, apart = plausibility.warnings(reached, labels, 2000)
    assert chance == (
        "on val, linear (1.0%), mam (0.0%) are no better than chance (1.7% of 300 images), so settings were chosen on "
        "noise; check that val's labels mean the same classes as train's, and that train learns at all"
    )
    assert close == (
        "on val, mean_knn (2.0%) cannot be told from chance (1.7% of 300 images), so settings were chosen on noise; "
        "val has too few images for that, or its labels do not mean the same classes as train's"
    )
    reached = {name: reached[name] for name in ("linear", "mam")}
    assert plausibility.warnings(reached, labels, 2000)[1] == apart
    assert apart.startswith(
        "val and test disagree: mam has 0.0% on val and 80.0% on test; check that the labels of both"
    )


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.52), (0.9, 0.8), (0.6, 0.45), (0.05, 0.06), (1.0, 1.0)])
def test_usual_results_are_not_doubted(val, test):
    assert plausibility.warnings({"mam": Reached(val, test)}, np.repeat(np.arange(100), 10), 5000) == []


def test_a_val_too_small_to_tell_is_said_whatever_was_reached():
    # 0.6 ** 5 is 8 in a hundred, 0.6 ** 10 less than one.
    small, large = np.array([0, 0, 0, 1, 2]), np.repeat([0, 0, 0, 1, 2], 2)
    for accuracy in (1.0, 0.6, 0.4):
        (few,) = plausibility.warnings({"linear": Reached(accuracy, accuracy)}, small, 20)
        assert few == (
            "val has too few images (5) to choose settings by: guessing its most frequent class reaches 60.0%, so that "
            "even 100% may be luck; give it more images"
        )
    assert plausibility.warnings({"linear": Reached(1.0, 1.0)}, large, 20) == []
    (close,) = plausibility.warnings({"linear": Reached(0.7, 0.7)}, large, 20)
    assert close.startswith("on val, linear (70.0%) cannot be told from chance (60.0% of 10 images)")
    (same,) = plausibility.warnings({"linear": Reached(1.0, 1.0)}, np.zeros(500, int), 20)
    assert same.startswith("all 500 val images are of one class, so settings were chosen on noise")


def _at_least(right: int, images: int, level: float) -> float:
    terms = (math.comb(images, k) * level**k * (1 - level) ** (images - k) for k in range(right, images + 1))
    return sum(terms)


@pytest.mark.parametrize("images", [10, 57, 300])
@pytest.mark.parametrize("level", [0.02, 0.25])
def test_chance_is_the_binomial_bound(images, level):
    for right in range(1, images + 1):
        expected = _at_least(right, images, level) > 0.01
        assert plausibility.is_chance(right / images, images, level) == expected, right
    assert plausibility.is_chance(0.0, images, level)


def test_guessing_the_most_frequent_class_is_chance():
    assert plausibility.chance(np.array([0, 1, 1, 1])) == 0.75
    labels = np.array([0] * 90 + [1] * 10)
    assert plausibility.warnings({"linear": Reached(0.9, 0.9)}, labels, 100)
