"""Makes a selection as a Beam job.

    memory shard --Screen--> removed rows, opt-outs and leaks; digests of the other rows by bucket, their keys by cell
    bucket --CompareImages--> exact duplicates
    cell   --CompareKeys----> near duplicates
    memory shard --WriteShard--> its file of dropped rows
    all of them --WriteSelection--> `selection.json`

Each shard is read once (pivots before that). Between workers travel 22 bytes per dropped row, 40 bytes per row for
exact duplicates, and for near duplicates twice 8 + 2 d bytes per row (once if there is a single cell).
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsList
from apache_beam.utils.shared import Shared

from pipelines import schemas, storage
from pipelines.filtering import dropped, duplicates, selection
from pipelines.filtering.dropped import REASONS, REMOVED
from pipelines.filtering.leakage import Queries
from pipelines.filtering.opt_out import OptOut
from pipelines.filtering.selection import DroppedShard, Example, MemoryShard, SelectionJob
from pipelines.filtering.similarity import NONE, unit
from pipelines.manifest import Embeddings
from pipelines.runner import Runner
from pipelines.schemas import content_keys, unit_keys

_DROPS, _IMAGES, _CELLS = "drops", "images", "cells"
_SCREENED = "_screened"
_EXAMPLES = 4

Packed = tuple[int, bytes]
Pair = tuple[int, tuple[bytes, bytes]]
# What a shard is screened for, and what of it: one stream, since DaskRunner gives all outputs of a DoFn to everyone.
Screened = tuple[str, Packed | Pair]


def run(job: SelectionJob, runner: Runner) -> None:
    """Makes the selection.

    Raises:
        UserError: as a worker raised it.
    """
    shards = job.memory.shards
    drawn = _drawn(job)

    def build(pipeline: beam.Pipeline) -> None:
        pivots = [AsList(pipeline | "Draw" >> Pivots(drawn, job))] if drawn else []
        screened = (
            pipeline
            | "Shards" >> beam.Create(shards)
            | "Spread" >> beam.Reshuffle()
            | "Screen" >> beam.ParDo(Screen(job), *pivots)
        )
        drops = screened | "Drops" >> beam.ParDo(Only(_DROPS)).with_output_types(Packed)
        images = screened | "Images" >> beam.ParDo(Only(_IMAGES)).with_output_types(Pair)
        cells = screened | "Cells" >> beam.ParDo(Only(_CELLS)).with_output_types(Pair)
        exact = images | "By bucket" >> beam.GroupByKey() | "Compare images" >> beam.ParDo(CompareImages())
        near = cells | "By cell" >> beam.GroupByKey() | "Compare keys" >> beam.ParDo(CompareKeys(job))
        _ = (
            (drops, exact, near)
            | beam.Flatten()
            | "By shard" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(WriteShard(job))
            | "All" >> beam.GroupByKey()
            | "Finish" >> beam.ParDo(WriteSelection(job))
        )

    runner.run(build, functools.partial(_measure, job))


def _drawn(job: SelectionJob) -> list[tuple[MemoryShard, np.ndarray]]:
    """Returns the shards with pivots, and the rows of each that are pivots."""
    if not job.near_duplicates:
        return []
    shards = job.memory.shards
    picks = duplicates.pivot_rows({shard.number: shard.rows for shard in shards}, job.seed)
    return [(shard, picks[shard.number]) for shard in shards if shard.number in picks]


def _measure(job: SelectionJob) -> tuple[float, int]:
    """Returns the share of the work that is done and the number of screened rows, from the files on storage."""
    shards = len(job.memory.shards)
    written = len(storage.files(job.folder, ".parquet"))
    screened = len(storage.files(storage.join(job.folder, _SCREENED), ".json")) or written
    return (screened + written) / (2 * shards), round(screened / shards * job.memory.rows)


class Pivots(beam.PTransform):
    """Reads the pivots, float16 `[d]` each as bytes, from the shards that they were drawn from."""

    def __init__(self, drawn: Sequence[tuple[MemoryShard, np.ndarray]], job: SelectionJob) -> None:
        """Keeps what was drawn: shards, and rows of each."""
        super().__init__()
        self._drawn, self._job = drawn, job

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Returns the pivots."""
        return (
            pipeline
            | "Draws" >> beam.Create(self._drawn)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(ReadPivots(self._job))
        )


class ReadPivots(beam.DoFn):
    """Reads the rows of a shard that are pivots."""

    def __init__(self, job: SelectionJob) -> None:
        """Keeps what workers need."""
        self._job = job

    def process(self, item: tuple[MemoryShard, np.ndarray]) -> Iterator[bytes]:
        """Yields each pivot, float16 `[d]`."""
        shard, rows = item
        begin = 0
        for block in self._job.memory.blocks(shard, ["key"]):
            inside = rows[(rows >= begin) & (rows < begin + block.num_rows)] - begin
            if len(inside):
                keys = block.column("key").take(pa.array(inside))
                yield from map(bytes, duplicates.rounded(unit(unit_keys(keys, self._job.memory.key, shard.name))))
            begin += block.num_rows


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Rows of a block: ids int64 `[n]`, content keys `S32` `[n]`, unit keys float32 `[n, d]` (`[n, 0]` if not read)."""

    ids: np.ndarray
    images: np.ndarray
    keys: np.ndarray

    def where(self, mask: np.ndarray) -> "_Rows":
        return _Rows(self.ids[mask], self.images[mask], self.keys[mask])


class Screen(beam.DoFn):
    """Reads a shard once: drops removed rows, opt-outs and leaks, and hands on the others to find duplicates."""

    def __init__(self, job: SelectionJob) -> None:
        """Keeps what workers need."""
        self._job = job
        self._lists = {reason: uri for reason, uri in ((REMOVED, job.removed), ("opt_out", job.opt_out)) if uri}
        self._shared_queries, self._shared_lists = Shared(), {reason: Shared() for reason in self._lists}
        self._columns = ["id", "content_key"]
        self._columns += ["url", "metadata"] if self._lists else []
        self._columns += ["key"] if job.leakage or job.near_duplicates else []

    def process(self, shard: MemoryShard, pivots: Sequence[bytes] = ()) -> Iterator[Screened]:
        """Yields drops (shard, packed), images (bucket, (ids, digests)) and cells (cell, (ids, keys)) of a shard."""
        job, drops = self._job, [b""]
        centres = duplicates.different(np.frombuffer(b"".join(pivots), np.float16).reshape(-1, job.memory.key.dim))
        for block in job.memory.blocks(shard, self._columns):
            rows = self._rows(block, shard)
            found = self._drops(rows, block)
            drops.append(found.tobytes())
            rows = rows.where(~np.isin(rows.ids, found["id"]))
            if job.exact_duplicates:
                yield from _by_bucket(rows, job.memory.rows)
            if job.near_duplicates:
                yield from _by_cell(rows, centres)
        # Every shard yields, so that every shard gets a file.
        yield _DROPS, (shard.number, b"".join(drops))
        storage.write_json(storage.join(job.folder, _SCREENED, f"{shard.name}.json"), {})

    def _rows(self, block: pa.RecordBatch, shard: MemoryShard) -> _Rows:
        ids, images = block.column("id").to_numpy(), content_keys(block.column("content_key"))
        keys = np.empty((len(ids), 0), np.float32)
        if "key" in self._columns:
            keys = unit(unit_keys(block.column("key"), self._job.memory.key, shard.name))
        return _Rows(ids, images, keys)

    def _drops(self, rows: _Rows, block: pa.RecordBatch) -> np.ndarray:
        """Returns `RECORD`s of the rows that a list names or that leak; each row once, the lists first."""
        found, stays = [np.empty(0, dropped.RECORD)], np.ones(len(rows.ids), bool)
        for reason, uri in self._lists.items():
            listed = self._shared_lists[reason].acquire(functools.partial(OptOut.load, uri))
            is_listed = stays & listed.matches_rows(block, rows.images)
            found.append(dropped.records(rows.ids[is_listed], reason))
            stays &= ~is_listed
        if self._job.leakage:
            found.append(self._leaks(rows.where(stays)))
        return np.concatenate(found)

    def _leaks(self, rows: _Rows) -> np.ndarray:
        queries = self._shared_queries.acquire(lambda: Queries.load(self._job.splits))
        query, cosine = queries.copies(rows.images, rows.keys, self._job.leakage)
        found = query != NONE
        query = query[found]
        return dropped.records(rows.ids[found], "leakage", queries.splits[query] + 1, queries.ids[query], cosine[found])


def _by_bucket(rows: _Rows, memory_rows: int) -> Iterator[Screened]:
    """Yields ids and content keys for `CompareImages`."""
    parts = duplicates.buckets(rows.images, memory_rows)
    for part in np.unique(parts):
        inside = parts == part
        yield _IMAGES, (int(part), (rows.ids[inside].tobytes(), rows.images[inside].tobytes()))


def _by_cell(rows: _Rows, centres: np.ndarray) -> Iterator[Screened]:
    """Yields ids and keys for `CompareKeys`."""
    keys = duplicates.rounded(rows.keys)
    for cell, places in duplicates.cells(keys, centres):
        yield _CELLS, (cell, (rows.ids[places].tobytes(), keys[places].tobytes()))


def _by_shard(rows: np.ndarray) -> Iterator[Packed]:
    """Yields (shard, packed records)."""
    shards, _ = schemas.split_ids(rows["id"])
    for shard in np.unique(shards):
        yield int(shard), rows[shards == shard].tobytes()


class Only(beam.DoFn):
    """Passes on one kind of what `Screen` yields."""

    def __init__(self, kind: str) -> None:
        """Keeps the kind."""
        self._kind = kind

    def process(self, item: Screened) -> Iterator[Packed | Pair]:
        """Yields what is of the kind."""
        if item[0] == self._kind:
            yield item[1]


class CompareImages(beam.DoFn):
    """Finds the exact duplicates of a bucket."""

    def process(self, item: tuple[int, Iterable[tuple[bytes, bytes]]]) -> Iterator[Packed]:
        """Yields (shard, packed drops)."""
        ids, images = (b"".join(part) for part in zip(*item[1], strict=True))
        rows, twins = duplicates.exact(np.frombuffer(ids, np.int64), np.frombuffer(images, "S32"))
        yield from _by_shard(dropped.records(rows, "exact_duplicates", 0, twins, 1.0))


class CompareKeys(beam.DoFn):
    """Finds the near duplicates of a cell."""

    def __init__(self, job: SelectionJob) -> None:
        """Keeps what workers need."""
        self._dim, self._threshold = job.memory.key.dim, job.near_duplicates

    def process(self, item: tuple[int, Iterable[tuple[bytes, bytes]]]) -> Iterator[Packed]:
        """Yields (shard, packed drops)."""
        ids, vectors = (b"".join(part) for part in zip(*item[1], strict=True))
        keys = np.frombuffer(vectors, np.float16).reshape(-1, self._dim)
        rows, twins, cosines = duplicates.near(np.frombuffer(ids, np.int64), keys, self._threshold)
        yield from _by_shard(dropped.records(rows, "near_duplicates", 0, twins, cosines))


class WriteShard(beam.DoFn):
    """Writes the dropped rows of a shard."""

    def __init__(self, job: SelectionJob) -> None:
        """Keeps what workers need."""
        self._job = job
        self._names = {shard.number: shard.name for shard in job.memory.shards}

    def process(self, item: tuple[int, Iterable[bytes]]) -> Iterator[tuple[str, tuple[DroppedShard, bytes]]]:
        """Writes the file of a shard, and yields its facts and examples."""
        number, parts = item
        rows, name = dropped.merge(parts), self._names[number]
        path = storage.join(self._job.folder, f"{name}.parquet")
        schemas.write(path, dropped.to_table(rows, list(self._job.splits)), self._job.metadata)
        counts = {reason: int((rows["reason"] == place).sum()) for place, reason in enumerate(REASONS)}
        counts = {reason: count for reason, count in counts.items() if count}
        yield selection.FILE, (DroppedShard(number, name, counts, storage.sha256(path)), _examples(rows).tobytes())


def _examples(rows: np.ndarray) -> np.ndarray:
    """Returns the few records of the lowest similarity for each reason with twins, to judge the threshold by."""
    rows = rows[rows["folder"] >= 0]
    rows = rows[np.lexsort((rows["id"], rows["similarity"], rows["reason"]))]
    place = np.arange(len(rows)) - np.searchsorted(rows["reason"], rows["reason"])
    return rows[place < _EXAMPLES]


class WriteSelection(beam.DoFn):
    """Writes `selection.json` once every shard has its file."""

    def __init__(self, job: SelectionJob) -> None:
        """Keeps what workers need."""
        self._job = job

    def process(self, item: tuple[str, Iterable[tuple[DroppedShard, bytes]]]) -> None:
        """Takes the facts and examples of all shards."""
        shards, examples = zip(*item[1], strict=True)
        rows = _examples(np.frombuffer(b"".join(examples), dropped.RECORD))
        storage.remove(storage.join(self._job.folder, _SCREENED))
        selection.write(self._job, shards, [self._named(row) for row in rows])

    def _named(self, row: Any) -> Example:
        splits = list(self._job.splits)
        folder = int(row["folder"])
        return Example(
            REASONS[row["reason"]],
            round(float(row["similarity"]), 6),
            int(row["id"]),
            self._member(0, int(row["id"])),
            ["memory", *splits][folder],
            int(row["twin"]),
            self._member(folder, int(row["twin"])),
        )

    def _member(self, folder: int, row: int) -> str:
        number = row >> schemas.ROW_BITS
        tables: Iterable[pa.Table | pa.RecordBatch]
        if folder:
            tables = [Embeddings(list(self._job.splits.values())[folder - 1]).read(number, ["id", "member"])]
        else:
            shard = next(shard for shard in self._job.memory.shards if shard.number == number)
            tables = self._job.memory.blocks(shard, ["id", "member"])
        found = (table["member"][int(i)] for table in tables for i in np.flatnonzero(table["id"].to_numpy() == row))
        return str(next(found))
