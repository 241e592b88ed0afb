"""Makes a selection as a Beam job.

    memory shard --Kept--> what each class keeps of the rows that name it, if that is bounded
    memory shard --Screen--> removed rows, opt-outs and leaks; digests of the other rows by bucket, their keys by cell
    bucket --CompareImages--> exact duplicates
    cell   --CompareKeys----> near duplicates
    memory shard --WriteShard--> its file of dropped rows
    all of them --WriteSelection--> `selection.json`

Each shard is read once (pivots before that). Between workers travel 26 bytes per dropped row, 40 bytes per row for
exact duplicates, and for near duplicates twice 8 + 2 d bytes per row (once if there is a single cell).
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsIter, AsList
from apache_beam.utils.shared import Shared

from pipelines import manifest, schemas, storage
from pipelines.filtering import dropped, duplicates, leakage, selection
from pipelines.filtering.dropped import REMOVED
from pipelines.filtering.leakage import Queries
from pipelines.filtering.selection import Compared, MemoryShard, SelectionJob
from pipelines.filtering.selection_files import SCREENED, Facts, Packed, WriteSelection, WriteShard, nearest
from pipelines.filtering.similarity import NONE, unit
from pipelines.filtering.unwanted import opt_out, removed_list, surplus
from pipelines.filtering.unwanted.opt_out import OptOut
from pipelines.filtering.unwanted.surplus import Surplus
from pipelines.runner import Runner
from pipelines.schemas import THUMBNAIL, content_keys, unit_keys

_DROPS, _IMAGES, _CELLS, _NEAR, _MET = "drops", "images", "cells", "near", "met"

Pair = tuple[int, tuple[bytes, bytes]]
# What a shard is screened for, and what of it: one stream, since DaskRunner gives all outputs of a DoFn to everyone.
Screened = tuple[str, Packed | Pair | Facts | bytes]


def run(job: SelectionJob, runner: Runner) -> None:
    """Makes the selection.

    Raises:
        UserError: as a worker raised it.
    """
    shards = job.memory.shards
    drawn = _drawn(job)

    def build(pipeline: beam.Pipeline) -> None:
        known = {"pivots": AsList(pipeline | "Draw" >> Pivots(drawn, job))} if drawn else {}
        if job.concepts_per_class:
            known["kept"] = AsList(pipeline | "Balance" >> Kept(job))
        screened = (
            pipeline
            | "Shards" >> beam.Create(shards)
            | "Spread" >> beam.Reshuffle()
            | "Screen" >> beam.ParDo(Screen(job), **known)
        )
        drops = screened | "Drops" >> beam.ParDo(Only(_DROPS)).with_output_types(Packed)
        images = screened | "Images" >> beam.ParDo(Only(_IMAGES)).with_output_types(Pair)
        cells = screened | "Cells" >> beam.ParDo(Only(_CELLS)).with_output_types(Pair)
        kept = screened | "Near" >> beam.ParDo(Only(_NEAR)).with_output_types(Facts)
        met = screened | "Met" >> beam.ParDo(Only(_MET)).with_output_types(bytes)
        exact = images | "By bucket" >> beam.GroupByKey() | "Compare images" >> beam.ParDo(CompareImages())
        near = cells | "By cell" >> beam.GroupByKey() | "Compare keys" >> beam.ParDo(CompareKeys(job))
        written = (
            (drops, exact, near)
            | beam.Flatten()
            | "By shard" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(WriteShard(job))
        )
        _ = (
            (written, kept)
            | "Facts" >> beam.Flatten()
            | "All" >> beam.GroupByKey()
            | "Finish" >> beam.ParDo(WriteSelection(job), AsIter(met | "Different" >> beam.Distinct()))
        )

    runner.run(build, functools.partial(_measure, job), "comparing the first shards", "selection", "rows")


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
    screened = len(storage.files(storage.join(job.folder, SCREENED), ".json")) or written
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


class Kept(beam.PTransform):
    """Finds what each class keeps of the rows that name it, packed as one text of bytes (`surplus.merge`)."""

    def __init__(self, job: SelectionJob) -> None:
        """Keeps what workers need."""
        super().__init__()
        self._job = job

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """Returns the one text of bytes."""
        most = self._job.concepts_per_class
        return (
            pipeline
            | "Captions" >> beam.Create(self._job.memory.shards)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(ReadCaptions(self._job))
            | "Merge" >> beam.CombinePerKey(functools.partial(surplus.merge, most=most))
            | "Whole" >> beam.Values()
        )


class ReadCaptions(beam.DoFn):
    """Finds what each class keeps of the rows of a shard."""

    def __init__(self, job: SelectionJob) -> None:
        """Keeps what workers need."""
        self._job = job

    def setup(self) -> None:
        """Prepares the names."""
        self._surplus = _surplus(self._job)

    def process(self, shard: MemoryShard) -> Iterator[tuple[int, bytes]]:
        """Yields the rows that classes keep, under the one key 0."""
        kept = b""
        for block in self._job.memory.blocks(shard, ["id", "caption"]):
            ids, captions = block.column("id").to_numpy(), block.column("caption").to_pylist()
            kept = surplus.merge([kept, self._surplus.kept(ids, captions)], self._job.concepts_per_class)
        yield 0, kept


def _surplus(job: SelectionJob) -> Surplus:
    return Surplus(job.names, job.concepts_per_class, job.identity["seed"])


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
    """Rows of a block: ids int64 `[n]`, and what of them is compared (keys `[n, 0]` if not read)."""

    ids: np.ndarray
    contents: leakage.Rows

    @property
    def images(self) -> np.ndarray:
        return self.contents.images

    @property
    def keys(self) -> np.ndarray:
        return self.contents.keys

    def where(self, mask: np.ndarray) -> "_Rows":
        return _Rows(self.ids[mask], self.contents.where(mask))


class _Screening:
    """What a worker found in the blocks of a shard: records of dropped rows, and of those that nearly were."""

    def __init__(self) -> None:
        self.drops, self.near = [b""], np.empty(0, dropped.RECORD)
        self.compared = Compared()

    def add_near(self, records: np.ndarray) -> None:
        self.near = nearest(np.concatenate([self.near, records]))


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
        self._columns += ["caption"] if job.concepts_per_class else []

    def setup(self) -> None:
        """Prepares the names of classes, if rows are dropped by them."""
        self._surplus = _surplus(self._job) if self._job.concepts_per_class else None

    def process(
        self, shard: MemoryShard, pivots: Sequence[bytes] = (), kept: Sequence[bytes] = ()
    ) -> Iterator[Screened]:
        """Yields drops (shard, packed), images (bucket, (ids, digests)), cells (cell, (ids, keys)), facts, entries."""
        job, found = self._job, _Screening()
        job.memory.check(shard)
        met = {*self._filtered(shard)}
        centres = duplicates.different(np.frombuffer(b"".join(pivots), np.float16).reshape(-1, job.memory.key.dim))
        bounds = self._surplus.bounds(kept[0]) if self._surplus else np.empty(0, np.uint64)
        has_pixels = job.rule.pixels > 0 and job.memory.has_column(shard, THUMBNAIL)
        for block in job.memory.blocks(shard, [*self._columns, *([THUMBNAIL] if has_pixels else [])]):
            rows = self._rows(block, shard)
            drops = self._drops(rows, block, found, met)
            if self._surplus:
                drops = np.concatenate([drops, self._beyond(block, drops["id"], bounds)])
            found.drops.append(drops.tobytes())
            rows = rows.where(~np.isin(rows.ids, drops["id"]))
            if job.exact_duplicates:
                yield from _by_bucket(rows, job.memory.rows)
            if job.near_duplicates:
                yield from _by_cell(rows, centres)
        yield from ((_MET, entry) for entry in sorted(met))
        # Every shard yields, so that every shard gets a file.
        yield _DROPS, (shard.number, b"".join(found.drops))
        yield _NEAR, (selection.FILE, (found.compared, found.near.tobytes()))
        storage.write_json(storage.join(job.folder, SCREENED, f"{shard.name}.json"), {})

    def _rows(self, block: pa.RecordBatch, shard: MemoryShard) -> _Rows:
        ids, images = block.column("id").to_numpy(), content_keys(block.column("content_key"))
        keys = np.empty((len(ids), 0), np.float32)
        if "key" in self._columns:
            keys = unit(unit_keys(block.column("key"), self._job.memory.key, shard.name))
        return _Rows(ids, leakage.Rows(images, keys, *leakage.read_thumbnails(block)))

    def _list(self, reason: str) -> OptOut:
        """Returns the list of a reason, which a process loads once."""
        return self._shared_lists[reason].acquire(functools.partial(_load, reason, self._lists[reason]))

    def _filtered(self, shard: MemoryShard) -> list[bytes]:
        """Returns the entries of the opt-out list that rows of the shard met when it was embedded."""
        path = storage.join(self._job.memory.folder, manifest.FILTERED, f"{shard.name}.parquet")
        if "opt_out" not in self._lists or not storage.exists(path):
            return []
        table = schemas.read(path, ["filter", "value"])
        values = [row["value"] for row in table.to_pylist() if row["filter"] == "opt_out"]
        digests = np.frombuffer(b"".join(part for value in values for part in opt_out.digests_of(value)), "S32")
        return opt_out.as_bytes(digests[self._list("opt_out").has(digests)])

    def _drops(self, rows: _Rows, block: pa.RecordBatch, screening: _Screening, met: set[bytes]) -> np.ndarray:
        """Returns `RECORD`s of the rows that a list names or that leak; each row once, the lists first.

        Args:
            rows: of the block.
            block: of the shard.
            screening: gets what is near to being dropped.
            met: gets the entries of the opt-out list that rows meet.
        """
        found, stays = [np.empty(0, dropped.RECORD)], np.ones(len(rows.ids), bool)
        for reason in self._lists:
            is_listed, entries = self._list(reason).met(block)
            if reason == "opt_out":
                met |= {*opt_out.as_bytes(entries)}
            is_listed &= stays
            found.append(dropped.records(rows.ids[is_listed], reason))
            stays &= ~is_listed
        if self._job.leakage:
            found.append(self._leaks(rows.where(stays), screening))
        return np.concatenate(found)

    def _beyond(self, block: pa.RecordBatch, gone: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """Returns `RECORD`s of the rows of a block, without those that are gone, that no class keeps."""
        assert self._surplus
        ids, captions = block.column("id").to_numpy(), block.column("caption").to_pylist()
        is_surplus = self._surplus.surplus(ids, captions, bounds) & ~np.isin(ids, gone)
        return dropped.records(ids[is_surplus], "concepts_per_class")

    def _leaks(self, rows: _Rows, screening: _Screening) -> np.ndarray:
        queries = self._shared_queries.acquire(lambda: Queries.load(self._job.splits))
        matches = queries.matches(rows.contents, self._job.rule)
        found = np.flatnonzero(matches.query != NONE)
        query = matches.query[found]
        records = dropped.records(
            rows.ids[found],
            "leakage",
            queries.splits[query] + 1,
            queries.ids[query],
            matches.cosine[found],
            matches.pixels[found],
        )
        is_copy = matches.is_copy[found]
        screening.add_near(records[~is_copy])
        by_cosine = int((~rows.contents.shown).sum()) if self._job.rule.pixels else len(rows.ids)
        screening.compared += Compared(matches.pairs, matches.rows, by_cosine)
        return records[is_copy]


def _load(reason: str, uri: str) -> OptOut:
    return OptOut(removed_list.read(uri).digests) if reason == REMOVED else OptOut.load(uri)


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

    def process(self, item: Screened) -> Iterator[Any]:
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
