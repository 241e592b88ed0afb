"""A trial of an encoder: lengths and cosines of the vectors of three samples, and how many it encodes in a second."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.encoders.facts import samples
from pipelines.encoders.handles import EncoderSpec
from pipelines.encoders.loaded import ImageEncoder, TextEncoder, unit

_LEAST_SECS = 1.0
_UNIT_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Trial:
    """What was seen.

    Attributes:
        lengths: of the vectors as the model returns them, the shortest and the longest.
        cosines: of each pair of samples, by their names.
        wall_rate: inputs in a second by the clock.
        processor_rate: inputs in a second of one processor's time.
    """

    lengths: tuple[float, float]
    cosines: dict[tuple[str, str], float]
    wall_rate: float
    processor_rate: float

    @property
    def is_unit(self) -> bool:
        """Tells whether the model itself returns vectors of unit length."""
        return all(abs(length - 1) < _UNIT_TOLERANCE for length in self.lengths)


def run(spec: EncoderSpec, batch_size: int) -> Trial:
    """Loads an encoder and tries it.

    Args:
        spec: resolved without `normalize`.
        batch_size: rows of each call.

    Raises:
        UserError: if it cannot be loaded, or does not take or give what it should.
    """
    inputs: dict[str, Any]
    encode: Callable[..., np.ndarray]
    if spec.kind == "image":
        images = ImageEncoder(spec)
        inputs, encode = samples.pictures(images.preprocess), images.encode
    else:
        inputs, encode = dict(samples.TEXTS), TextEncoder(spec).encode
    rows = list(itertools.islice(itertools.cycle(inputs.values()), max(batch_size, len(inputs))))
    vectors = np.concatenate([encode(rows[i : i + batch_size], batch_size) for i in range(0, len(inputs), batch_size)])
    vectors = vectors[: len(inputs)]
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    cosines = unit(vectors) @ unit(vectors).T
    pairs = itertools.combinations(enumerate(inputs), 2)
    return Trial(
        (float(lengths.min()), float(lengths.max())),
        {(one, other): float(cosines[i, j]) for (i, one), (j, other) in pairs},
        *_rates(lambda: encode(rows[:batch_size], batch_size), batch_size),
    )


def _rates(call: Callable[[], Any], rows: int) -> tuple[float, float]:
    """Returns how many rows calls do in a second by the clock, and in a second of the processor."""
    calls, wall, processor = 0, time.perf_counter(), time.process_time()
    while calls == 0 or time.perf_counter() - wall < _LEAST_SECS:
        call()
        calls += 1
    # A clock that ticks coarsely may not have moved.
    spent = max(time.process_time() - processor, 1e-6)
    return calls * rows / (time.perf_counter() - wall), calls * rows / spent
