import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import sampling


@given(
    st.integers(1, 40),
    st.integers(1, 50),
    st.integers(0, 60),
    st.integers(1, 30),
    st.integers(0, 3),
    st.sampled_from(list(sampling.SAMPLINGS)),
)
@settings(deadline=None)
def test_any_part_of_the_batches_is_that_of_the_whole(rows, batch_size, begin, steps, seed, kind):
    labels = (np.arange(rows) % 3).astype(np.int32)
    flat = sampling.batch_rows(labels, kind, seed, 0, begin + steps, batch_size).ravel()
    if kind == "uniform":
        for first in range(0, len(flat) - rows + 1, rows):
            assert sorted(flat[first : first + rows]) == list(range(rows))
    part = sampling.batch_rows(labels, kind, seed, begin, begin + steps, batch_size)
    np.testing.assert_array_equal(part.ravel(), flat[begin * batch_size :])


@pytest.mark.parametrize("kind", sampling.SAMPLINGS)
def test_seeds_and_epochs_shuffle_differently(kind):
    labels = np.zeros(50, np.int32)
    first, second = (sampling.batch_rows(labels, kind, seed, 0, 2, 50) for seed in (0, 1))
    assert not np.array_equal(first[0], first[1]) and not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("kind", "shares"), [("uniform", [0.9, 0.1]), ("square_root", [0.75, 0.25]), ("balanced", [0.5, 0.5])]
)
def test_classes_are_drawn_by_the_power_of_their_size(kind, shares):
    labels = np.repeat([0, 1], [9000, 1000]).astype(np.int32)
    drawn = np.bincount(labels[sampling.epoch_rows(labels, kind, 0, 0)]) / len(labels)
    np.testing.assert_allclose(drawn, shares, atol=0.02)


def _stages() -> tuple[sampling.Stage, ...]:
    return tuple(sampling.Stage(first, np.arange(rows)) for first, rows in ((0, 4), (3, 7), (6, 12)))


@pytest.mark.parametrize("kind", sampling.SAMPLINGS)
def test_a_stage_draws_from_its_rows_and_any_part_is_that_of_the_whole(kind):
    labels = (np.arange(12) % 2).astype(np.int32)
    whole = sampling.batch_rows(labels, kind, 0, 0, 30, 4, _stages())
    assert whole.shape == (30, 4)
    for begin, end, rows in ((0, 3, 4), (3, 6, 7), (6, 30, 12)):
        assert set(whole[begin:end].ravel()) <= set(range(rows))
    assert set(whole[6:].ravel()) == set(range(12))
    for begin in range(0, 29, 4):
        for end in (begin + 1, begin + 2, 30):
            part = sampling.batch_rows(labels, kind, 0, begin, end, 4, _stages())
            np.testing.assert_array_equal(part, whole[begin:end])


def test_each_stage_goes_through_all_of_its_rows_evenly():
    rows = sampling.batch_rows(np.zeros(12, np.int32), "uniform", 0, 0, 12, 4, _stages())
    assert np.bincount(rows[:3].ravel()).tolist() == [3] * 4
    assert set(np.bincount(rows[3:6].ravel())) == {1, 2}
    assert np.bincount(rows[6:].ravel()).tolist() == [2] * 12


def test_stages_of_no_step_are_passed_over():
    stages = (sampling.Stage(0, np.array([1])), sampling.Stage(0, np.array([2])), sampling.Stage(5, np.array([0])))
    assert sampling.batch_rows(np.zeros(3, np.int32), "uniform", 0, 0, 4, 2, stages).tolist() == [[2, 2]] * 4


def test_divisions_keep_the_numbers_of_each_class_and_differ():
    rng = np.random.default_rng(0)
    train, val = rng.integers(5, size=60).astype(np.int32), rng.integers(5, size=20).astype(np.int32)
    labels = np.concatenate([train, val])
    given = sampling.divide(train, val, 0, 0)
    np.testing.assert_array_equal(np.concatenate(given), np.arange(80))
    seen = set()
    for fold in (1, 2, 3):
        first, second = sampling.divide(train, val, 7, fold)
        np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(80))
        np.testing.assert_array_equal(np.bincount(labels[first], minlength=5), np.bincount(train, minlength=5))
        np.testing.assert_array_equal(np.bincount(labels[second], minlength=5), np.bincount(val, minlength=5))
        seen.add(tuple(second))
        assert tuple(sampling.divide(train, val, 7, fold)[1]) == tuple(second)
    assert len(seen) == 3


def test_in_a_division_every_image_of_a_class_is_as_likely_to_be_val():
    train, val = np.zeros(6, np.int32), np.zeros(2, np.int32)
    counts = np.zeros(8)
    for fold in range(1, 2001):
        counts[sampling.divide(train, val, 0, fold)[1]] += 1
    np.testing.assert_allclose(counts / 2000, 0.25, atol=0.04)
