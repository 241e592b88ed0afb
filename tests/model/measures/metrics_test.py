import fractions
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.measures import metrics


def test_shot_groups_are_strict_on_both_sides():
    counts = np.array([101, 100, 20, 19, 1])
    assert metrics.shot_groups(counts, 100, 20).tolist() == ["many", "medium", "medium", "few", "few"]


def test_what_settings_are_chosen_by_has_the_same_bits_in_any_order():
    figures = {"all": 0.1, "many": 0.7, "medium": 0.4337870843989769, "few": 0.3}
    found = {metrics.balanced(dict(some)) for some in itertools.permutations(figures.items())}
    assert found == {float(sum(map(fractions.Fraction, figures.values())) / 4)}


def test_groups_average_classes_and_all_averages_images():
    groups = np.array(["many", "many", "few", "medium"])
    labels = np.array([0, 0, 0, 0, 1, 2, 2])
    predictions = np.array([0, 0, 0, 1, 0, 2, 2])
    result = metrics.accuracy(predictions, labels, groups)
    assert result["all"] == 5 / 7
    assert result["many"] == (3 / 4 + 0) / 2
    assert result["few"] == 1.0
    assert "medium" not in result


def test_top_classes_are_the_most_probable_ones_with_their_softmax():
    scores = np.random.default_rng(0).normal(0, 3, (2500, 9)).astype(np.float32)
    classes, probabilities = metrics.top_classes(scores)
    for row in (0, 1023, 1024, 2499):
        order = sorted(range(9), key=lambda c: (-scores[row, c], c))[:5]  # noqa: B023
        weights = [np.exp(float(score)) for score in scores[row]]
        assert classes[row].tolist() == order
        np.testing.assert_allclose(probabilities[row], [weights[c] / sum(weights) for c in order], rtol=1e-6)


def test_of_equal_scores_the_first_class_comes_first_and_few_classes_are_all_given():
    classes, probabilities = metrics.top_classes(np.array([[1.0, 2.0, 2.0]], np.float32))
    assert classes.tolist() == [[1, 2, 0]] and classes.dtype == np.int32
    assert probabilities.sum() == pytest.approx(1)


@given(st.floats(-50, 50), st.integers(0, 100))
def test_a_constant_of_the_row_changes_no_probability(constant, seed):
    scores = np.random.default_rng(seed).normal(size=(4, 6))
    before, after = metrics.top_classes(scores), metrics.top_classes(scores + constant)
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_allclose(before[1], after[1], rtol=1e-5)


def test_top_accuracy_counts_labels_anywhere_in_the_list():
    classes = np.array([[1, 2], [3, 4], [5, 6], [7, 8]])
    assert metrics.top_accuracy(classes, np.array([2, 3, 0, 9])) == 0.5


def test_calibration_error_is_that_of_a_loop_over_bins():
    rng = np.random.default_rng(1)
    confidences = rng.uniform(0, 1, 500)
    right = rng.uniform(size=500) < confidences**2
    error = metrics.calibration_error(confidences, right)
    assert error == pytest.approx(_loop(confidences, right), abs=1e-12) and error > 0.1


def _loop(confidences, right):
    total = 0.0
    for b in range(15):
        inside = (confidences > b / 15) & (confidences <= (b + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidences[inside].mean())
    return total


@pytest.mark.parametrize(("confidence", "share", "error"), [(0.8, 0.8, 0), (1.0, 0.5, 0.5), (0.3, 1.0, 0.7)])
def test_calibration_error_of_one_bin(confidence, share, error):
    right = np.arange(10) < round(share * 10)
    assert metrics.calibration_error(np.full(10, confidence), right) == pytest.approx(error)


def test_the_seven_classes_of_places_lt_on_the_bounds_move():
    """131 classes have more than 100 images, one has 100, six have 20 and 71 fewer (the published training list)."""
    counts = np.array([4980] * 131 + [100] + [50] * 156 + [20] * 6 + [5] * 71)
    by = {shots: metrics.shot_groups(counts, 100, 20, shots) for shots in ("decoupling", "oltr")}
    sizes = {shots: [int((groups == name).sum()) for name in metrics.GROUPS] for shots, groups in by.items()}
    assert sizes == {"decoupling": [131, 163, 71], "oltr": [132, 156, 77]}
    assert (by["decoupling"] != by["oltr"]).sum() == 7
