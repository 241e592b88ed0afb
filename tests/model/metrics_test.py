import numpy as np

from model import metrics


def test_shot_groups_are_strict_on_both_sides():
    counts = np.array([101, 100, 20, 19, 1])
    assert metrics.shot_groups(counts, 100, 20).tolist() == ["many", "medium", "medium", "few", "few"]


def test_groups_average_classes_and_all_averages_images():
    groups = np.array(["many", "many", "few", "medium"])
    labels = np.array([0, 0, 0, 0, 1, 2, 2])
    predictions = np.array([0, 0, 0, 1, 0, 2, 2])
    result = metrics.accuracy(predictions, labels, groups)
    assert result["all"] == 5 / 7
    assert result["many"] == (3 / 4 + 0) / 2
    assert result["few"] == 1.0
    assert "medium" not in result
