"""How fast the trainer reads a memory that is larger than the machine's, against what the disk gives.

    python -m benchmarks.train_host --rows=5000000 --folder=DIR    # 31 GB; the files are kept in DIR
    python -m benchmarks.train_host --rows=400 --batch=16 --k=5 --dim=32 --classes=7 --steps=4

The memory is rows of random numbers, written as `train.table=host` writes them; each list names random rows of it,
which is the worst case. The page cache of the files is dropped, then steps of the shapes in `benchmarks.train` are
trained as by `model.train`. Before and after, threads that only call `pread` read as many random rows as a step needs
from the same uncached files: `read_over_disk` is the trainer's rate over the better of the two. `waited_share` is the
share of the steps' time that they waited for rows. The last line is one JSON
object.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from benchmarks.train import SETTING, print_figures, random_split, shape_parser, task_of, train_config
from model.data import host_tables
from model.data.vectors import Column
from model.training.trainer import Trainer
from pipelines import schemas

_THREADS = 32
_COLUMNS = ("key", "value_text")


@dataclasses.dataclass(frozen=True)
class _RandomColumn(Column):
    """A column of any number of rows that are in no file, in chunks that are alike."""

    rows: int
    dim: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.dim

    def chunks(self) -> Iterator[np.ndarray]:
        chunk = np.random.default_rng(0).standard_normal((schemas.ROW_GROUP_ROWS, self.dim), np.float32)
        for first in range(0, self.rows, len(chunk)):
            yield chunk[: self.rows - first]


def forget(folder: pathlib.Path) -> list[pathlib.Path]:
    """Drops the files of the memory from the page cache, and returns them."""
    files = sorted(folder.rglob("*.arrow"))
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    return files


def disk(files: Sequence[pathlib.Path], rows: int, row_bytes: int, seed: int) -> float:
    """Returns the MB/s at which threads read random rows of uncached files."""
    rng, descriptors = np.random.default_rng(seed), [os.open(file, os.O_RDONLY) for file in files]
    for descriptor in descriptors:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    jobs = [
        (descriptor, places)
        for descriptor, file in zip(descriptors, files, strict=True)
        for places in np.array_split(np.sort(rng.integers(file.stat().st_size // row_bytes, size=rows)), _THREADS)
    ]

    def read(job: tuple[int, np.ndarray]) -> int:
        return sum(len(os.pread(job[0], row_bytes, int(place) * row_bytes)) for place in job[1])

    begin = time.perf_counter()
    with ThreadPoolExecutor(_THREADS) as pool:
        size = sum(pool.map(read, jobs))
    secs = time.perf_counter() - begin
    for descriptor in descriptors:
        os.close(descriptor)
    return 1e-6 * size / secs


def measure(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, float]:
    """Returns the rates of the trainer and of the disk."""
    vectors = [_RandomColumn(None, name, args.rows, args.dim) for name in _COLUMNS]  # type: ignore[arg-type]
    split, counts = random_split(args, args.k, args.batch * args.steps)
    task = task_of(args, split, counts, vectors[0], {"text": vectors[1]})
    tables = host_tables.load(task, "float32", str(folder))
    trainer = Trainer("mam", task, tables, train_config(args, args.steps))
    state, _ = trainer.steps(trainer.start(0), 0, 1, SETTING)
    tables["train"].rates()
    row_bytes, rows = 4 * args.dim, args.batch * args.k
    bare = [disk(forget(folder), rows, row_bytes, 1)]
    forget(folder)
    begin = time.perf_counter()
    jax.block_until_ready(trainer.steps(state, 0, args.steps, SETTING))
    secs = time.perf_counter() - begin
    reached = tables["train"].rates()
    bare.append(disk(forget(folder), rows, row_bytes, 2))
    return {
        "read_over_disk": reached["mb_per_sec"] / max(bare),
        **reached,
        "disk_mb_per_sec": max(bare),
        "step_ms": 1000 * secs / (args.steps - 1),
        "table_gb": 1e-9 * sum(file.stat().st_size for file in folder.rglob("*.arrow")),
        "memory_gb": 1e-9 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def main(argv: Sequence[str]) -> int:
    """Prints the figures."""
    parser = shape_parser(str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", default="", help="where the memory is kept; if empty it is removed")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="web-memory-") as temporary:
        print_figures(measure(args, pathlib.Path(args.folder or temporary)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
