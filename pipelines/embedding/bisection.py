"""Encodes a batch in spite of inputs that the encoder fails on: halves the batch until each of them is found."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipelines.encoders.loaded import ImageEncoder, TextEncoder
from pipelines.errors import UserError

_MAX_MESSAGE_CHARS = 500


class Failure(NamedTuple):
    """The type and the text of an error."""

    error_type: str
    message: str


def encode(
    encoder: ImageEncoder | TextEncoder, inputs: Sequence[Any], batch_size: int
) -> tuple[np.ndarray, dict[int, Failure]]:
    """Encodes a batch; if the encoder fails, finds the inputs that it fails on.

    The other inputs keep their places in the batch, and with them their bits: inputs outside of a half are blanked.

    Args:
        encoder: called with inputs, of which None is blank.
        inputs: at most `batch_size`.
        batch_size: of the encoder.

    Returns:
        Vectors `[n, dim]` float32, zero where the encoder fails, and the failures by place in the batch.
    """
    whole = _attempt(encoder, inputs, batch_size)
    if not isinstance(whole, Failure):
        return whole, {}
    found: dict[int, np.ndarray] = {}
    failed: dict[int, Failure] = {}
    spans = [(0, len(inputs))]
    while spans:
        begin, end = spans.pop()
        part = _attempt(encoder, [x if begin <= i < end else None for i, x in enumerate(inputs)], batch_size)
        if not isinstance(part, Failure):
            found |= {place: part[place] for place in range(begin, end)}
        elif end - begin > 1:
            middle = (begin + end) // 2
            spans += [(begin, middle), (middle, end)]
        else:
            failed[begin] = part
    zero = np.zeros(len(next(iter(found.values()), ())), np.float32)
    return np.stack([found.get(place, zero) for place in range(len(inputs))]), failed


def check(failed: Mapping[int, Failure], count: int) -> None:
    """Raises a `UserError` if an encoder failed on every one of several inputs: then it is not the inputs' fault."""
    if 1 < count == len(failed):
        first = failed[min(failed)]
        raise UserError(f"an encoder fails on every one of {count} inputs ({first.error_type}: {first.message})")


def _attempt(encoder: ImageEncoder | TextEncoder, inputs: Sequence[Any], batch_size: int) -> np.ndarray | Failure:
    try:
        return encoder.encode(inputs, batch_size)
    except UserError:
        raise
    except Exception as error:
        # Each operation of a graph raises errors of its own.
        return Failure(type(error).__name__, str(error)[:_MAX_MESSAGE_CHARS])
