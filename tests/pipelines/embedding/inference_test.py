"""Which inputs are guilty of a batch that fails."""

import numpy as np
import pytest

from pipelines.embedding.inference import encode_or_bisect
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
def test_a_failing_batch_is_halved_to_the_guilty_and_the_others_keep_their_places(bad):
    encoder, guilty = Fragile(*bad), {}
    matrix = encode_or_bisect(encoder, list(range(8)), 8, guilty)
    assert sorted(guilty) == sorted(bad)
    assert all(kind == "RuntimeError" and f"[{place}]" in message for place, (kind, message) in guilty.items())
    for place in set(range(8)) - set(bad):
        np.testing.assert_array_equal(matrix[place], [place, place])
    assert encoder.calls <= 1 + 8 * max(len(bad), 0) and matrix.shape == (8, 2)


def test_an_encoder_that_fails_on_everything_is_not_the_images_fault():
    with pytest.raises(UserError, match="fails on every one of 3 inputs"):
        encode_or_bisect(Fragile(1, 2, 3), [1, 2, 3], 3, {})
