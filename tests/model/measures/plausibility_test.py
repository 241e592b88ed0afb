"""Signs that the labels of a split are not those of train."""

import math

import numpy as np
import pytest

from model.measures import plausibility
from model.measures.plausibility import Reached


def test_shifted_labels_of_val_are_noticed():
    # A grocery set: 60 of 81 classes in val, whose numbers had shifted.
    labels = np.repeat(np.arange(60), 5)
    chance, apart = plausibility.warnings({"linear": Reached(0.01, 0.72), "mam": Reached(0.02, 0.8)}, labels, 2000)
    assert chance.startswith("on val, linear, mam are no better than chance (1.7% of 300 images)")
    assert apart.startswith(
        "val and test disagree: mam has 2.0% on val and 80.0% on test; check that the labels of both"
    )


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.52), (0.9, 0.8), (0.6, 0.45), (0.05, 0.06), (1.0, 1.0)])
def test_usual_results_are_not_doubted(val, test):
    assert plausibility.warnings({"mam": Reached(val, test)}, np.repeat(np.arange(100), 10), 5000) == []


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
