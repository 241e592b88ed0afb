import numpy as np

from pipelines import drawing


def test_numbers_are_even_different_and_of_the_seed():
    ids = np.arange(100_000, dtype=np.int64)
    numbers = drawing.drawn(ids, 7)
    assert numbers.dtype == np.uint64 and len(np.unique(numbers)) == len(ids)
    assert abs((numbers < np.uint64(1 << 62)).mean() - 0.25) < 0.01
    assert abs(np.corrcoef(numbers.astype(float), drawing.drawn(ids, 8).astype(float))[0, 1]) < 0.02
    assert (drawing.drawn(ids[::-1], 7) == numbers[::-1]).all()


def test_numbers_are_those_of_splitmix64():
    # The first outputs of the published generator with state 0 are those of 1, 2 and 3 times its step.
    steps = np.array([1, 2, 3], np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    seeded = drawing.drawn(np.zeros(1, np.int64), 0)
    with np.errstate(over="ignore"):
        assert int(seeded[0]) == _splitmix(_splitmix(int(steps[0])))
    assert _splitmix(int(steps[0])) == 0xE220A8397B1DCDAF


def _splitmix(value: int) -> int:
    """The output of the generator for a state that has been stepped."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> shift)) * factor % (1 << 64)
    return value ^ (value >> 31)


def test_least_takes_the_smallest_numbers_of_each_group():
    groups, numbers = np.array([1, 0, 1, 1, 0, 2]), np.array([5, 9, 3, 4, 8, 1])
    assert drawing.least(groups, numbers, 2).tolist() == [4, 1, 2, 3, 5]
    assert drawing.least(groups, numbers, 9).tolist() == [4, 1, 2, 3, 0, 5]
    assert drawing.least(groups[:0], numbers[:0], 1).tolist() == []
