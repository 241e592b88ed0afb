"""Makes a selection as a Beam job.

    memory shard --Screen--> opt-outs and leaks; of the other rows digests by bucket, vectors by cell
    bucket --CompareImages--> exact duplicates
    cell   --CompareKeys----> near duplicates
    memory shard --WriteShard--> its file of dropped rows
    all of them --WriteSelection--> `selection.json`

Each shard is read once (pivots before that). What travels: 22 bytes for a dropped row; 40 bytes a row for exact
duplicates; for near duplicates twice 8 + 2 d bytes a row, or once where there is but one cell.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsList, TaggedOutput
from apache_beam.utils.shared import Shared

from pipelines import schemas, storage
from pipelines.filtering import dropped, duplicates, selection
from pipelines.filtering.dropped import REASONS
from pipelines.filtering.leakage import Queries
from pipelines.filtering.opt_out import OptOut
from pipelines.filtering.selection import DroppedShard, Example, Job, MemoryShard
from pipelines.filtering.similarity import NONE, unit
from pipelines.manifest import Embeddings
from pipelines.runner import Runner
from pipelines.schemas import content_keys, unit_keys

_IMAGES, _CELLS = "images", "cells"
_SCREENED = "_screened"
_EXAMPLES = 4

Packed = tuple[int, bytes]
Pair = tuple[int, tuple[bytes, bytes]]
# Beam types its outputs by this.
Screened: TypeAlias = Packed | TaggedOutput[Literal["images"], Pair] | TaggedOutput[Literal["cells"], Pair]


class ReadPivots(beam.DoFn):
    """Reads the rows of a shard that are pivots."""

    def __init__(self, job: Job) -> None:
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


class Screen(beam.DoFn):
    """Reads a shard once: drops what was removed, opt-outs and leaks, sends on what duplicates are found by."""

    def __init__(self, job: Job) -> None:
        """Keeps what workers need."""
        self._job = job
        self._shared_queries, self._shared_lists = Shared(), {"removed": Shared(), "opt_out": Shared()}

    def process(self, shard: MemoryShard, pivots: Sequence[bytes] = ()) -> Iterator[Screened]:
        """Yields (shard, packed drops), (bucket, (ids, digests)) and (cell, (ids, vectors)) of a shard."""
        job, drops = self._job, [b""]
        lists = {reason: uri for reason, uri in (("removed", job.removed), ("opt_out", job.opt_out)) if uri}
        wanted = {"url": lists, "metadata": lists, "key": job.leakage or job.near_duplicates}
        columns = ["id", "content_key", *(name for name, is_wanted in wanted.items() if is_wanted)]
        vectors = np.frombuffer(b"".join(pivots), np.float16).reshape(-1, job.memory.key.dim)
        centres = duplicates.different(vectors)
        for block in job.memory.blocks(shard, columns):
            ids, images = block.column("id").to_numpy(), content_keys(block.column("content_key"))
            keys = unit(unit_keys(block.column("key"), job.memory.key, shard.name)) if wanted["key"] else None
            stays = np.ones(len(ids), bool)
            for reason, uri in lists.items():
                is_listed = stays & self._listed(reason, uri, block, images)
                drops.append(dropped.records(ids[is_listed], reason).tobytes())
                stays &= ~is_listed
            if job.leakage:
                leaks = self._leaks(ids[stays], images[stays], keys[stays])  # type: ignore[index]
                drops.append(leaks.tobytes())
                stays &= ~np.isin(ids, leaks["id"])
            ids, images = ids[stays], images[stays]
            if job.exact_duplicates:
                parts = duplicates.buckets(images, job.memory.rows)
                for part in np.unique(parts):
                    inside = parts == part
                    yield TaggedOutput(_IMAGES, (int(part), (ids[inside].tobytes(), images[inside].tobytes())))
            if job.near_duplicates:
                rows = duplicates.rounded(keys[stays])  # type: ignore[index]
                for cell, places in duplicates.cells(rows, centres):
                    yield TaggedOutput(_CELLS, (cell, (ids[places].tobytes(), rows[places].tobytes())))
        # Every shard yields, so that every shard gets a file.
        yield shard.number, b"".join(drops)
        storage.write_json(storage.join(job.folder, _SCREENED, f"{shard.name}.json"), {})

    def _listed(self, reason: str, uri: str, block: pa.RecordBatch, images: np.ndarray) -> np.ndarray:
        listed = self._shared_lists[reason].acquire(lambda: OptOut.load(uri))
        return listed.matches_rows(block, images)

    def _leaks(self, ids: np.ndarray, images: np.ndarray, keys: np.ndarray) -> np.ndarray:
        queries = self._shared_queries.acquire(lambda: Queries.load(self._job.splits))
        query, cosine = queries.copies(images, keys, self._job.leakage)
        found = query != NONE
        query = query[found]
        return dropped.records(ids[found], "leakage", queries.splits[query] + 1, queries.ids[query], cosine[found])


def _by_shard(rows: np.ndarray) -> Iterator[Packed]:
    """Yields (shard, packed records)."""
    shards, _ = schemas.split_ids(rows["id"])
    for shard in np.unique(shards):
        yield int(shard), rows[shards == shard].tobytes()


class CompareImages(beam.DoFn):
    """Finds the exact duplicates of a bucket."""

    def process(self, item: tuple[int, Iterable[tuple[bytes, bytes]]]) -> Iterator[Packed]:
        """Yields (shard, packed drops)."""
        ids, images = (b"".join(part) for part in zip(*item[1], strict=True))
        rows, twins = duplicates.exact(np.frombuffer(ids, np.int64), np.frombuffer(images, "S32"))
        yield from _by_shard(dropped.records(rows, "exact_duplicates", 0, twins, 1.0))


class CompareKeys(beam.DoFn):
    """Finds the near duplicates of a cell."""

    def __init__(self, dim: int, threshold: float) -> None:
        """Keeps what workers need.

        Args:
            dim: width of the keys.
            threshold: smallest cosine.
        """
        self._dim, self._threshold = dim, threshold

    def process(self, item: tuple[int, Iterable[tuple[bytes, bytes]]]) -> Iterator[Packed]:
        """Yields (shard, packed drops)."""
        ids, vectors = (b"".join(part) for part in zip(*item[1], strict=True))
        keys = np.frombuffer(vectors, np.float16).reshape(-1, self._dim)
        rows, twins, cosines = duplicates.near(np.frombuffer(ids, np.int64), keys, self._threshold)
        yield from _by_shard(dropped.records(rows, "near_duplicates", 0, twins, cosines))


class WriteShard(beam.DoFn):
    """Writes what is dropped of a shard."""

    def __init__(self, job: Job) -> None:
        """Keeps what workers need."""
        self._job = job
        self._names = {shard.number: shard.name for shard in job.memory.shards}

    def process(self, item: tuple[int, Iterable[bytes]]) -> Iterator[tuple[str, tuple[DroppedShard, bytes]]]:
        """Writes the file and yields what is known of it, with the examples it has."""
        number, parts = item
        rows, name = dropped.merge(parts), self._names[number]
        path = storage.join(self._job.folder, f"{name}.parquet")
        schemas.write(path, dropped.to_table(rows, list(self._job.splits)), self._job.metadata)
        counts = {reason: int((rows["reason"] == place).sum()) for place, reason in enumerate(REASONS)}
        counts = {reason: count for reason, count in counts.items() if count}
        yield selection.FILE, (DroppedShard(number, name, counts, storage.sha256(path)), _examples(rows).tobytes())


def _examples(rows: np.ndarray) -> np.ndarray:
    """Returns of each reason with twins the few records of the lowest similarity, which a threshold is judged by."""
    rows = rows[rows["folder"] >= 0]
    rows = rows[np.lexsort((rows["id"], rows["similarity"], rows["reason"]))]
    place = np.arange(len(rows)) - np.searchsorted(rows["reason"], rows["reason"])
    return rows[place < _EXAMPLES]


class WriteSelection(beam.DoFn):
    """Writes `selection.json`, once every shard has its file."""

    def __init__(self, job: Job) -> None:
        """Keeps what workers need."""
        self._job = job

    def process(self, item: tuple[str, Iterable[tuple[DroppedShard, bytes]]]) -> None:
        """Takes what is known of all shards."""
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


def run(job: Job, runner: Runner) -> None:
    """Makes the selection.

    Raises:
        UserError: as a worker raised it.
    """
    shards = job.memory.shards
    picks: dict[int, np.ndarray] = {}
    if job.near_duplicates:
        picks = duplicates.pivot_rows({shard.number: shard.rows for shard in shards}, job.seed)

    def build(pipeline: beam.Pipeline) -> None:
        pivots = []
        if picks:
            drawn = [(shard, picks[shard.number]) for shard in shards if shard.number in picks]
            read = pipeline | "Draws" >> beam.Create(drawn) | "Spread draws" >> beam.Reshuffle()
            pivots = [AsList(read | "Pivots" >> beam.ParDo(ReadPivots(job)))]
        screened = (
            pipeline
            | "Shards" >> beam.Create(shards)
            | "Spread" >> beam.Reshuffle()
            | "Screen" >> beam.ParDo(Screen(job), *pivots).with_outputs(_IMAGES, _CELLS, main="drops")
        )
        exact = screened[_IMAGES] | "By bucket" >> beam.GroupByKey() | "Compare images" >> beam.ParDo(CompareImages())
        compare = CompareKeys(job.memory.key.dim, job.near_duplicates)
        near = screened[_CELLS] | "By cell" >> beam.GroupByKey() | "Compare keys" >> beam.ParDo(compare)
        _ = (
            (screened["drops"], exact, near)
            | beam.Flatten()
            | "By shard" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(WriteShard(job))
            | "All" >> beam.GroupByKey()
            | "Finish" >> beam.ParDo(WriteSelection(job))
        )

    def measure() -> tuple[float, int]:
        written = len(storage.files(job.folder, ".parquet"))
        seen = len(storage.files(storage.join(job.folder, _SCREENED), ".json")) or written
        share = (seen + written) / (2 * len(shards))
        return share, round(seen / len(shards) * job.memory.rows)

    runner.run(build, measure)
