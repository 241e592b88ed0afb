"""What each stage will take on disk, in memory and of time, from row counts, vector widths and measured rates."""

import dataclasses
import math
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence

from configs.base import Index, Neighbors
from index.engines import searcher
from index.measure import estimate
from pipelines import storage
from pipelines.encoders.handles import EncoderSpec
from pipelines.progress import counted
from pipelines.schemas import THUMBNAIL_SIDE
from pipelines.sources import Sample
from workflow.checking.encoder_check import Speed

UNKNOWN = "not estimated"
# Ids, digests, names of files and sizes of a row, in Parquet.
_ROW_BYTES = 150
# An id and a score.
_ENTRY_BYTES = 12


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one stage takes; None is not estimated.

    Attributes:
        stage: its name.
        what: rows that it makes, in words.
        disk_bytes: that it writes.
        memory_bytes: that it holds at once, beside libraries and models.
        secs: that it works.
    """

    stage: str
    what: str
    disk_bytes: int
    memory_bytes: int | None = None
    secs: float | None = None


def row_bytes(specs: Mapping[str, EncoderSpec], columns: Sequence[str], samples: Sequence[Sample]) -> int:
    """Returns the bytes of a row of an embedded folder: its vectors, its thumbnail, its texts."""
    texts = [len((sample.caption or "").encode()) + len(str(sample.metadata or "")) for sample in samples]
    each = sum(texts) // max(len(texts), 1)
    vectors = sum(specs[column].info.dim * (2 if specs[column].info.dtype == "float16" else 4) for column in columns)
    return vectors + THUMBNAIL_SIDE**2 + _ROW_BYTES + each


def of_embedding(
    rows: Mapping[str, int], specs: Mapping[str, EncoderSpec], samples: Mapping[str, Sequence[Sample]], speed: Speed
) -> Cost:
    """Returns the cost of embedding; arguments by source, of which the memory alone has all columns."""
    disk, secs = 0, 0.0
    for name, count in rows.items():
        columns = list(specs) if name == "memory" else ["key"]
        disk += count * row_bytes(specs, columns, samples[name])
        secs += speed.secs(count, columns)
    return Cost("embed", counted(sum(rows.values()), "row"), disk, None, secs or None)


def of_index(rows: int, dim: int, index: Index) -> Cost:
    """Returns the cost of the index of a memory.

    Raises:
        UserError: if no plan fits the config.
    """
    shards = estimate.choose_shards(index, rows, dim)
    in_shard = math.ceil(rows / shards)
    size = estimate.size(searcher.kind(index.searcher).plan(in_shard, dim, index), in_shard, dim)
    return Cost(
        "build",
        f"{counted(shards, 'shard')} of {counted(in_shard, 'row')}",
        shards * size.disk_bytes,
        size.peak_bytes,
    )


def of_lists(queries: int, memory: int, wanted: Neighbors, bytes_a_row: int) -> Cost:
    """Returns the cost of the neighbour lists, with every memory row that some list may name."""
    named = min(queries * wanted.k, memory)
    disk = queries * wanted.k * _ENTRY_BYTES + named * bytes_a_row
    return Cost("neighbors", f"{counted(queries, 'list')} of {wanted.k}", disk)


def of_training(queries: int, named: int, specs: Mapping[str, EncoderSpec], is_on_host: bool) -> Cost:
    """Returns the memory of the trainer: the queries, and the memory rows that lists name unless they are in files."""
    dims = sum(spec.info.dim for spec in specs.values())
    held = 4 * (queries * specs["key"].info.dim + (0 if is_on_host else named * dims))
    return Cost("train", f"{counted(queries, 'query')}, up to {counted(named, 'memory row')}", 0, held)


def free_bytes(workdir: str) -> int | None:
    """Returns the free bytes of the disk of a workdir, which need not exist; None for a remote one."""
    if storage.is_url(workdir):
        return None
    folder = pathlib.Path(workdir).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def memory_bytes() -> int:
    """Returns the memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def shown(number: float | None) -> str:
    """Returns bytes as people say them: `3.20 GB`, `14.1 MB`."""
    if number is None:
        return UNKNOWN
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
