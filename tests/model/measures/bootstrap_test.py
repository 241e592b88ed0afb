import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.measures import bootstrap, metrics


def test_draws_are_measured_as_a_loop_over_images_measures_them():
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(7, size=40), np.array(["many", "few", "many", "few", "few", "medium", "medium"])
    labels[labels == 6] = 5
    right = rng.integers(0, 6, (3, 40)) / 5
    drawn = bootstrap.resample(right, labels, groups, resamples=50, seed=3)
    order = np.argsort(labels, kind="stable")
    images = order[np.random.default_rng(3).integers(40, size=(50, 40))]
    for draw, chosen in enumerate(images):
        for method in range(3):
            assert drawn["all"][draw, method] == pytest.approx(right[method, chosen].mean())
            for group in metrics.GROUPS:
                means = [
                    right[method, chosen[labels[chosen] == c]].mean()
                    for c in np.flatnonzero(groups == group)
                    if (labels[chosen] == c).any()
                ]
                assert drawn[group][draw, method] == pytest.approx(np.mean(means))


def test_blocks_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    args = rng.random((2, 30)), rng.integers(3, size=30), np.array(["many", "few", "few"])
    whole = bootstrap.resample(*args, resamples=20, seed=1)
    monkeypatch.setattr(bootstrap, "BLOCK_ENTRIES", 7 * 30)
    parts = bootstrap.resample(*args, resamples=20, seed=1)
    for column, values in whole.items():
        np.testing.assert_array_equal(parts[column], values)


def test_a_large_sample_gives_the_interval_of_the_normal_distribution():
    rng = np.random.default_rng(1)
    count = 2000
    labels, groups = np.repeat(np.arange(20), count // 20), np.repeat(["many", "few"], 10)
    right = (rng.random((2, count)) < [[0.6], [0.5]]).astype(float)
    drawn = bootstrap.resample(right, labels, groups, resamples=4000)
    difference = right[0] - right[1]
    errors = {"all": difference.std() / np.sqrt(count)}
    for group, classes in (("many", range(10)), ("few", range(10, 20))):
        errors[group] = np.sqrt(sum(difference[labels == c].var() / (count // 20) for c in classes)) / 10
    for column, error in errors.items():
        low, high = bootstrap.interval(drawn[column][:, 0] - drawn[column][:, 1])
        chosen = difference if column == "all" else difference[groups[labels] == column]
        assert low == pytest.approx(chosen.mean() - 1.96 * error, abs=0.12 * error)
        assert high == pytest.approx(chosen.mean() + 1.96 * error, abs=0.12 * error)


def test_pairing_narrows_the_interval_of_methods_that_agree():
    rng = np.random.default_rng(2)
    first = (rng.random(1000) < 0.5).astype(float)
    second = np.where(rng.random(1000) < 0.02, 1 - first, first)
    labels, groups = np.zeros(1000, int), np.array(["many"])
    drawn = bootstrap.resample(np.stack([first, second, first]), labels, groups, resamples=1000)["all"]
    low, high = bootstrap.interval(drawn[:, 0] - drawn[:, 1])
    unpaired = np.sqrt(first.var() / 1000 + second.var() / 1000)
    assert high - low == pytest.approx(2 * 1.96 * (first - second).std() / np.sqrt(1000), rel=0.1)
    assert high - low < 2 * 1.96 * unpaired / 3
    assert bootstrap.interval(drawn[:, 0] - drawn[:, 2]) == (0, 0)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(4)
    labels, groups, truth = np.repeat(np.arange(10), 20), np.repeat(["many", "few"], 5), 0.1
    held = {"all": 0, "many": 0, "few": 0}
    for trial in range(300):
        both = rng.random(200)
        right = np.stack([both < 0.6, both < 0.5]).astype(float)
        drawn = bootstrap.resample(right, labels, groups, resamples=400, seed=trial)
        for column, values in drawn.items():
            low, high = bootstrap.interval(values[:, 0] - values[:, 1])
            held[column] += low <= truth <= high
    # 95 % of 300, four standard deviations around; small samples hold a little less.
    assert all(0.9 * 300 <= count <= 300 for count in held.values()), held


@given(st.integers(0, 1000), st.integers(1, 4))
def test_the_interval_of_a_difference_turns_round_with_it(seed, classes):
    rng = np.random.default_rng(seed)
    groups = np.array(["many", "medium", "few", "few"])[:classes]
    drawn = bootstrap.resample(rng.random((2, 12)), rng.integers(classes, size=12), groups, resamples=60, seed=seed)
    for values in drawn.values():
        low, high = bootstrap.interval(values[:, 0] - values[:, 1])
        assert bootstrap.interval(values[:, 1] - values[:, 0]) == pytest.approx((-high, -low))
        assert low <= high
