"""The offset of classes without images: known answers where the sides differ by a constant."""

import numpy as np
import pytest

from model.measures import new_classes


def _scores(rows: int = 400, classes: int = 20, spread: float = 1.0):
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=rows)
    scores = spread * rng.normal(size=(rows, classes))
    scores[np.arange(rows), labels] += 8
    return scores.astype(np.float32), labels


@pytest.mark.parametrize("lower", [0.0, 5.0, 12.0])
def test_finds_how_much_lower_scores_without_images_are(lower):
    """An image scores 8 more for its own class: any offset up to 8 beside the difference tells all apart."""
    scores, labels = _scores(spread=0.1)
    found = new_classes.offset(scores, scores - np.float32(lower), labels)
    assert max(lower - 8, 0) - 1 < found < lower + 8
    for new in range(20):
        mixed = np.where(np.arange(20) == new, scores - lower + found, scores)
        assert (mixed.argmax(1) == labels).mean() > 0.99


def test_is_nothing_where_there_is_nothing_to_learn():
    scores, labels = _scores()
    assert new_classes.offset(scores, scores, labels) == 0
    assert new_classes.offset(scores[:, :1], scores[:, :1], np.zeros(len(labels), int)) == 0


def test_improves_the_harmonic_mean_over_no_offset():
    scores, labels = _scores(spread=3.0)
    without = scores - 6
    found = new_classes.offset(scores, without, labels)
    means = []
    for offset in (0.0, found):
        mixed = np.where(np.arange(20) < 4, without + offset, scores)
        right, new = mixed.argmax(1) == labels, labels < 4
        means.append(new_classes.harmonic_mean(right[new].mean(), right[~new].mean()))
    assert means[1] > means[0] + 0.1
    assert new_classes.harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3) and new_classes.harmonic_mean(0, 0) == 0
