"""One batch of real rows through each encoder: does it run, and how many does this machine do in a second?"""

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from configs.base import Embed
from pipelines.encoders.handles import EncoderSpec
from pipelines.encoders.loaded import EncoderSet, ImageEncoder, TextEncoder
from pipelines.encoders.process import one_thread_a_call
from pipelines.errors import UserError
from pipelines.images.decode import decode, prepare
from pipelines.sources import Sample


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast the columns are made here, on all cores.

    Attributes:
        rates: rows in a second of each column's encoder; vectors that a source provides have none.
        decode: images in a second that are decoded and prepared; 0 without an image encoder.
    """

    rates: dict[str, float]
    decode: float

    def secs(self, rows: int, columns: Sequence[str]) -> float:
        """Returns the seconds that the columns of some rows take, if nothing else holds them up."""
        rates = [self.decode, *(self.rates.get(column, 0.0) for column in columns)]
        return rows * sum(1 / rate for rate in rates if rate)


def measure(specs: Mapping[str, EncoderSpec], samples: Sequence[Sample], embed: Embed) -> Speed:
    """Runs a batch of real rows through each encoder.

    Args:
        specs: of each vector column.
        samples: rows of the sources, at least one; repeated until they fill a batch.
        embed: batch size, threads and limits.

    Raises:
        UserError: if an encoder cannot be loaded, or returns values that are not finite.
    """
    threads = embed.threads or multiprocessing.cpu_count()
    one_thread_a_call(threads)
    encoders = EncoderSet(specs).columns
    images = [sample.image for sample in samples if sample.image]
    texts = [sample.caption for sample in samples if sample.caption]
    preprocesses = {encoder.preprocess for encoder in encoders.values() if isinstance(encoder, ImageEncoder)}
    size = embed.batch_size

    def prepared(data: bytes) -> dict[Any, np.ndarray]:
        picture = decode(data, embed.max_image_pixels, preprocesses)
        return {preprocess: prepare(picture, preprocess) for preprocess in preprocesses}

    decode_rate, known, rates = 0.0, dict[int, float](), dict[str, float]()
    if preprocesses and images:
        decode_rate = _rate(lambda: [prepared(data) for data in images], len(images), threads)
    for column, encoder in encoders.items():
        call: Callable[[], np.ndarray] | None = None
        if isinstance(encoder, ImageEncoder) and images:
            pixels = [prepared(data)[encoder.preprocess] for data in images]
            call = _image_call(encoder, _filled(pixels, size), size)
        elif isinstance(encoder, TextEncoder) and texts:
            call = _text_call(encoder, _filled(texts, size), size)
        if call and id(encoder) not in known:
            if not np.isfinite(call()).all():
                raise UserError(f"encoder {specs[column].handle!r}: returns values that are not finite")
            known[id(encoder)] = _rate(call, size, threads)
            rates[column] = known[id(encoder)]
    return Speed(rates, decode_rate)


def _filled(items: Sequence[Any], size: int) -> list[Any]:
    return list(itertools.islice(itertools.cycle(items), size))


def _image_call(encoder: ImageEncoder, pixels: list[np.ndarray], size: int) -> Callable[[], np.ndarray]:
    return lambda: encoder.encode(pixels, size)


def _text_call(encoder: TextEncoder, texts: list[str], size: int) -> Callable[[], np.ndarray]:
    return lambda: encoder.encode_all(texts, size)


def _rate(call: Callable[[], Any], rows: int, threads: int) -> float:
    """Returns how many rows a second as many simultaneous calls do as there are threads."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        begin = time.perf_counter()
        for future in [pool.submit(call) for _ in range(threads)]:
            future.result()
    return threads * rows / (time.perf_counter() - begin)
