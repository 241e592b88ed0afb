"""Compares the embed command with the bare work that it cannot avoid, and with a tf.data pipeline written by hand.

    python benchmarks/embed.py --config=configs/tiny_imagenet_lt.py --config.data=DATA
    python benchmarks/embed.py --config=configs/demo.py --processes --memory     # 15 minutes more

Images of the config's memory are copied into tars of equal size. Their key encoder then embeds them several times: in
the Beam job, in a loop that decodes and encodes, in a loop that only encodes, and in a tf.data pipeline that writes
vectors to Parquet (in a process of its own, with TensorFlow's own threads). The four run in turn; ratios are medians of
the repeats. The rate of the job is its marginal rate, between the markers of its first and its last shard. The last
line is a JSON object.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import io
import itertools
import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.children import Child
from configs.base import Config, Encoders, Filters, Source
from pipelines import embed, fields, options, sources
from pipelines.encoders import model_files
from pipelines.encoders.handles import resolve
from pipelines.encoders.loaded import ImageEncoder
from pipelines.encoders.process import keep_freed_memory, one_thread_a_call
from pipelines.images.decode import decode, prepare
from pipelines.runner import Runner
from pipelines.sources import Sample

_REPEATS = 5
_TARS, _TAR_IMAGES = 3, 512
# Smaller shards for two worker processes, so that each of them gets several.
_SMALL_TARS, _SMALL_TAR_IMAGES = 12, 128
_MEMORY_IMAGES = (6_000, 60_000)
_TWO = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


def _write_tars(samples: Sequence[Sample], folder: pathlib.Path, tars: int, images: int) -> None:
    folder.mkdir(parents=True)
    endless = itertools.cycle(samples)
    for shard in range(tars):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for row in range(images):
                data = next(endless).image
                info = tarfile.TarInfo(f"{shard:05d}{row:05d}.jpg")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def _config(config: Config, data: pathlib.Path, workdir: str, threads: int) -> Config:
    return Config(
        data=str(data),
        workdir=workdir,
        memory=Source(format="img2dataset", path="*.tar"),
        train_set=Source(),
        val_set=Source(),
        test_set=Source(),
        encoders=Encoders(config.encoders.key, (), ()),
        embed=dataclasses.replace(config.embed, threads=threads),
        filters=Filters(leakage=0.0),
    )


def _job(
    config: Config, data: pathlib.Path, skipped: int, beam: Sequence[str] = (), threads: int = 0
) -> tuple[float, float]:
    """Returns the marginal images/s of a whole job, and the bytes of its Parquet files over those of its vectors.

    Args:
        config: names the encoder.
        data: folder of the tars.
        skipped: markers that are left out at the beginning and, besides the last one, at the end.
        beam: flags for Beam.
        threads: of each process; 0 for all.
    """
    with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stdout(io.StringIO()):
        embed.run(_config(config, data, workdir, threads), Runner(beam))
        memory = pathlib.Path(workdir) / "memory"
        when = sorted(path.stat().st_mtime_ns for path in (memory / "_done").glob("*.json"))
        # Workers start and end at different times; between these markers all of them work.
        begin, end = skipped, len(when) - 1 - skipped
        files = list(memory.glob("*.parquet"))
        width = pq.read_schema(files[0]).field("key").type.list_size
        stored = sum(file.stat().st_size for file in files)
        vectors = sum(pq.read_metadata(file).num_rows for file in files) * width * 4
        rows = pq.read_metadata(files[0]).num_rows
        return (end - begin) * rows / (when[end] - when[begin]) * 1e9, stored / vectors


def _bare(samples: Sequence[Sample], encoder: ImageEncoder, config: Config, threads: int) -> float:
    """Returns images/s of decoding and encoding alone."""
    size = config.embed.batch_size

    def work(first: int) -> None:
        batch = samples[first : first + size]
        pictures = [decode(s.image, config.embed.max_image_pixels, [encoder.preprocess]) for s in batch]
        encoder.encode([prepare(picture, encoder.preprocess) for picture in pictures], size)

    return _rate(work, len(samples), size, threads)


def _encode_only(encoder: ImageEncoder, images: int, size: int, threads: int) -> float:
    """Returns images/s of the encoder on pixels in memory."""
    side = encoder.preprocess.size
    batch = list(np.random.default_rng(0).integers(0, 256, (size, side, side, 3), np.uint8))
    return _rate(lambda _: encoder.encode(batch, size), images, size, threads)


def _rate(work: object, images: int, size: int, threads: int) -> float:
    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(0, images, size)))  # type: ignore[arg-type]
    return images / (time.perf_counter() - begin)


def _by_hand(folder: str, data: str, size: int, crop: float, batch_size: int) -> None:
    """Embeds all tars with tf.data for each line on standard input, and answers with images/s."""
    import tensorflow as tf

    model = tf.saved_model.load(folder)

    def members() -> Iterator[bytes]:
        for path in sorted(pathlib.Path(data).glob("*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    yield tar.extractfile(member).read()  # type: ignore[union-attr]

    def pixels(image: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(image, channels=3)
        shape = tf.cast(tf.shape(image)[:2], tf.float32)
        side = tf.cast(tf.reduce_min(shape) * crop, tf.int32)
        top, left = (tf.shape(image)[0] - side) // 2, (tf.shape(image)[1] - side) // 2
        image = tf.image.crop_to_bounding_box(image, top, left, side, side)
        image = tf.image.resize(image, (size, size), "bicubic", antialias=True)
        return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)

    def run() -> float:
        images, tables, begin = 0, [], 0.0
        data_set = tf.data.Dataset.from_generator(members, output_signature=tf.TensorSpec((), tf.string))
        data_set = data_set.map(pixels, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(2)
        with tempfile.TemporaryDirectory() as out:
            for batch in data_set:
                vectors = tf.math.l2_normalize(model(batch), -1).numpy()
                # The marginal rate, as of the job: the first batch pays for tracing and starting.
                if not begin:
                    begin = time.perf_counter()
                else:
                    images += len(vectors)
                flat = pa.array(vectors.reshape(-1))
                tables.append(pa.table({"key": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}))
            pq.write_table(pa.concat_tables(tables), f"{out}/x.parquet", compression="zstd", use_dictionary=False)
            return images / (time.perf_counter() - begin)

    for _ in sys.stdin:
        print(run(), flush=True)


def _start_by_hand(encoder: ImageEncoder, config: Config, data: pathlib.Path) -> Child:
    """Starts the tf.data pipeline in a process of its own."""
    spec = resolve(config.encoders.key, config.encoders.dtype)
    folder = model_files.local_folder(spec.model, spec.description)
    wanted = encoder.preprocess
    arguments = [str(folder), str(data), wanted.size, wanted.crop_fraction, config.embed.batch_size]
    return Child([sys.executable, __file__, "--by-hand", json.dumps(arguments)], quiet=True)


def _peak_kib(config_file: str, flags: Sequence[str]) -> int:
    """Returns the peak resident memory of a whole embed command."""
    code = (
        "import resource, sys; from pipelines import embed; assert embed.main(sys.argv[1:]) == 0;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"--config={config_file}", *flags], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


def _memory_ratio(config: Config, samples: Sequence[Sample], root: pathlib.Path) -> float:
    peaks = []
    for images in _MEMORY_IMAGES:
        _write_tars(samples, root / f"{images}", images // _TAR_IMAGES + 1, _TAR_IMAGES)
        (root / "config.py").write_text("from configs.base import Config\ndef get_config():\n    return Config()\n")
        leaves = fields.leaves(_config(config, root / f"{images}", str(root / f"out-{images}"), 0))
        peaks.append(_peak_kib(str(root / "config.py"), [f"--config.{leaf.name}={leaf.shown}" for leaf in leaves]))
        print(f"{images:,} images: peak {peaks[-1] / 1024:,.0f} MiB", flush=True)
    return peaks[1] / peaks[0]


def _measure(
    config: Config, samples: Sequence[Sample], encoder: ImageEncoder, by_hand: Child, root: pathlib.Path, both: bool
) -> tuple[dict[str, float], float]:
    """Runs each way once; returns their images/s, and Parquet bytes over vector bytes.

    Args:
        config: names the encoder.
        samples: images in memory.
        encoder: loaded.
        by_hand: the tf.data pipeline.
        root: folder of the tars, in `tars/` and `small/`.
        both: whether to measure one and two worker processes, too.
    """
    threads, size = multiprocessing.cpu_count(), config.embed.batch_size
    pipeline, share = _job(config, root / "tars", 0)
    measured = {
        "pipeline": pipeline,
        "decode_encode": _bare(samples, encoder, config, threads),
        "encode": _encode_only(encoder, len(samples), size, threads),
        "tf_data": by_hand.rate(),
    }
    if both:
        measured["one_process"] = _job(config, root / "small", 2, threads=1)[0]
        measured["two_processes"] = _job(config, root / "small", 2, _TWO, threads=1)[0]
    return measured, share


def _ratio(rates: Mapping[str, Sequence[float]], over: str, under: str) -> float:
    return round(statistics.median(a / b for a, b in zip(rates[over], rates[under], strict=True)), 3)


def run(config: Config, processes: bool = False, memory: bool = False) -> None:
    """Measures and prints."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    threads = multiprocessing.cpu_count()
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        shard = sources.plan(config.memory, config.data, config.embed, str(root / "listing"))[0]
        read = (item for item in sources.read(shard, config.embed) if isinstance(item, Sample))
        samples = list(itertools.islice(read, _TARS * _TAR_IMAGES))
        _write_tars(samples, root / "tars", _TARS, _TAR_IMAGES)
        _write_tars(samples, root / "small", _SMALL_TARS, _SMALL_TAR_IMAGES)
        one_thread_a_call(threads)
        keep_freed_memory()
        encoder = ImageEncoder(resolve(config.encoders.key, config.encoders.dtype))
        by_hand = _start_by_hand(encoder, config, root / "tars")
        # The first runs of each pay for tracing.
        by_hand.rate()
        _encode_only(encoder, 4 * config.embed.batch_size, config.embed.batch_size, threads)
        rates: dict[str, list[float]] = collections.defaultdict(list)
        share = 0.0
        for repeat in range(_REPEATS):
            measured, share = _measure(config, samples, encoder, by_hand, root, processes)
            for name, rate in measured.items():
                rates[name].append(rate)
            shown = ", ".join(f"{name} {rate:.1f} images/s" for name, rate in measured.items())
            print(f"{repeat + 1} of {_REPEATS}: {shown}", flush=True)
        by_hand.close()
        result = {
            "pipeline_over_decode_encode": _ratio(rates, "pipeline", "decode_encode"),
            "pipeline_over_encode": _ratio(rates, "pipeline", "encode"),
            "pipeline_over_tf_data": _ratio(rates, "pipeline", "tf_data"),
            **({"two_processes_over_one": _ratio(rates, "two_processes", "one_process")} if processes else {}),
            "parquet_over_vector_bytes": round(share, 4),
            **({"peak_memory_60000_over_6000": round(_memory_ratio(config, samples, root), 3)} if memory else {}),
            **{f"{name}_images_per_sec": round(statistics.median(values), 1) for name, values in rates.items()},
            "images": len(samples),
            "repeats": _REPEATS,
        }
        print(json.dumps(result))


def main() -> int:
    """Runs the benchmark."""
    if sys.argv[1:2] == ["--by-hand"]:
        _by_hand(*json.loads(sys.argv[2]))
        return 0
    switches = {
        "processes": "measure two worker processes against one, each with one thread, too",
        "memory": "measure the peak memory at 6,000 and 60,000 images, too",
    }
    return options.main(run, str(__doc__).splitlines()[0], switches=switches)


if __name__ == "__main__":
    sys.exit(main())
