"""Which inputs of a batch the encoder fails on."""

import numpy as np
import pytest

from pipelines.embedding import bisection
from pipelines.errors import UserError


class Fragile:
    """Gives each input with its place in the batch, and fails on those that are named."""

    def __init__(self, *bad):
        self.bad, self.calls = bad, 0

    def encode(self, inputs, batch_size):
        self.calls += 1
        if any(x in self.bad for x in inputs if x is not None):
            raise RuntimeError(f"cannot take {[x for x in inputs if x in self.bad]}")
        return np.array([[place, -1 if x is None else x] for place, x in enumerate(inputs)], np.float32)


@pytest.mark.parametrize("bad", [(), (0,), (7,), (2, 3), (0, 2, 4, 6)])
def test_a_failing_batch_is_halved_down_to_single_inputs_and_the_others_keep_their_places(bad):
    encoder = Fragile(*bad)
    matrix, failed = bisection.encode(encoder, list(range(8)), 8)
    assert sorted(failed) == sorted(bad)
    assert all(kind == "RuntimeError" and f"[{place}]" in message for place, (kind, message) in failed.items())
    for place in set(range(8)) - set(bad):
        np.testing.assert_array_equal(matrix[place], [place, place])
    assert encoder.calls <= 1 + 8 * max(len(bad), 0) and matrix.shape == (8, 2)


def test_an_encoder_that_fails_on_every_input_fails_the_job():
    _, failed = bisection.encode(Fragile(1, 2, 3), [1, 2, 3], 3)
    with pytest.raises(UserError, match=r"fails on every one of 3 inputs \(RuntimeError: cannot take \[1\]\)"):
        bisection.check(failed, 3)


def test_some_inputs_or_a_single_one_that_fail_do_not_fail_the_job():
    for bad, inputs in (((1, 2), [1, 2, 3]), ((1,), [1]), ((), [1, 2])):
        matrix, failed = bisection.encode(Fragile(*bad), inputs, 3)
        bisection.check(failed, len(inputs))
        assert len(failed) == len(bad) and len(matrix) == len(inputs)
