"""An accelerator is fed: while it encodes one batch the next ones are decoded, so that it does not wait."""

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from configs.base import Embed, Filters, Source
from pipelines.embedding import shard_run
from pipelines.embedding.inference import ShardJob, Tools
from pipelines.embedding.shard_run import ShardLine
from pipelines.encoders.handles import EncoderSpec
from pipelines.encoders.loaded import EncoderSet, ImageEncoder
from pipelines.filtering.row_filters import RowFilters
from pipelines.images.decode import ImagePreprocess
from pipelines.schemas import EncoderInfo
from pipelines.sources import InputShard, Sample

_SPEC = EncoderSpec("device", "image", EncoderInfo("print", 2, False, "float32"), "", {})


class Device(ImageEncoder):
    """Takes `secs` for a batch, whatever it holds and without the processor, and one batch at a time."""

    def __init__(self, secs):
        self.preprocess = ImagePreprocess(size=64)
        self._secs, self._lock, self.spans = secs, threading.Lock(), []

    def encode(self, images, batch_size):
        with self._lock:
            begin = time.monotonic()
            time.sleep(self._secs)
            self.spans.append((begin, time.monotonic()))
        return np.array([[1.0, image.mean()] for image in images], np.float32)


def _jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG")
    return data.getvalue()


@pytest.mark.slow
def test_a_device_of_given_speed_is_busy_for_95_percent_of_the_time(tmp_path, monkeypatch):
    device, batch_size, batches = Device(0.1), 32, 40
    images = [_jpeg(seed) for seed in range(batch_size)]
    samples = (Sample(str(i), images[i % len(images)], "", metadata={}) for i in range(batch_size * batches))
    monkeypatch.setattr(shard_run.sources, "read", lambda shard, embed: samples)
    encoders = EncoderSet({})
    encoders.columns["key"] = device
    job = ShardJob(
        InputShard(Source(), "x", "x.tar", 1, "etag", number=0), str(tmp_path), "hash", "run", {"key": _SPEC}
    )
    line = ShardLine(Tools(encoders, RowFilters(Filters()), None), Embed(batch_size=batch_size), threads=4)
    line.add(job)
    line.finish()
    busy = sum(end - begin for begin, end in device.spans)
    assert len(device.spans) == batches
    assert busy / (device.spans[-1][1] - device.spans[0][0]) >= 0.95
