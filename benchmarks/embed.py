"""How near the embedding of a shard comes to the bare work it cannot avoid.

    python benchmarks/embed.py --config=configs/demo.py

Takes the first shard of the config's memory. `embed_shard` (read, decode, encode, write Parquet, marker) and a bare
loop over the same images, decoded and encoded in as many threads, run in turn; the ratio is the median of the repeats'
ratios. The last line is one JSON object.
"""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time

from configs.base import Config
from pipelines import options, sources
from pipelines.decode import decode, prepare
from pipelines.embed_plan import resolve_encoders
from pipelines.encoders import EncoderSet, one_thread_a_call
from pipelines.inference import ShardJob, embed_shard
from pipelines.sources import Sample

_REPEATS = 5


def _bare(samples: list[Sample], encoders: EncoderSet, config: Config, threads: int) -> None:
    size = config.embed.batch_size

    def work(first: int) -> None:
        batch = samples[first : first + size]
        images = [decode(sample.image, config.embed.max_image_pixels) for sample in batch]
        for encoder in encoders.image.values():
            encoder.encode([prepare(image, encoder.preprocess) for image in images], size)
        for text in encoders.text.values():
            text.encode([sample.caption or "" for sample in batch], size)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(0, len(samples), size)))


def run(config: Config, _: list[str]) -> None:
    """Measures and prints."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    threads = multiprocessing.cpu_count()
    specs = resolve_encoders(config)
    one_thread_a_call(threads)
    encoders = EncoderSet(specs)
    shard = dataclasses.replace(sources.plan(config.memory, config.data, config.embed)[0], number=0)
    samples = [item for item in sources.read(shard, config.embed) if isinstance(item, Sample)]
    _bare(samples[: 2 * config.embed.batch_size], encoders, config, threads)
    rates: dict[str, list[float]] = {"pipeline": [], "decode_encode": []}
    with tempfile.TemporaryDirectory() as folder:
        job = ShardJob(shard, folder, "benchmark", "benchmark", specs)
        for repeat in range(_REPEATS):
            begin = time.perf_counter()
            _bare(samples, encoders, config, threads)
            middle = time.perf_counter()
            embed_shard(job, encoders, config.embed, threads)
            end = time.perf_counter()
            rates["decode_encode"].append(len(samples) / (middle - begin))
            rates["pipeline"].append(len(samples) / (end - middle))
            print(f"{repeat + 1} of {_REPEATS}: " + ", ".join(f"{n} {r[-1]:.1f} images/s" for n, r in rates.items()))
    ratios = [pipeline / bare for pipeline, bare in zip(rates["pipeline"], rates["decode_encode"], strict=True)]
    medians = {f"{name}_images_per_sec": round(statistics.median(values), 1) for name, values in rates.items()}
    print(
        json.dumps(
            {"pipeline_over_decode_encode": round(statistics.median(ratios), 3), **medians, "images": len(samples)}
        )
    )


def main() -> int:
    """Runs the benchmark."""
    return options.main(run, str(__doc__).splitlines()[0])


if __name__ == "__main__":
    sys.exit(main())
