"""One input shard to one Parquet shard: read, filter, decode, encode in batches, write, mark as done.

The work of one shard stays in one place, so that pixels never travel between workers and a shard is either done
or not. Inside, each thread takes a batch from bytes to vectors, with one thread of the encoder's own: more batches at
a time keep the cores busier than more threads on one batch. Which shards are to be done is left to `embed`.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from configs.base import Embed
from pipelines import schemas, sources, storage
from pipelines.decode import DecodeError, ImagePreprocess, decode, prepare
from pipelines.encoders import EncoderSet, EncoderSpec, ImageEncoder, TextEncoder, finish
from pipelines.errors import UserError
from pipelines.filters import RowFilters
from pipelines.manifest import FILTERED, REJECTS, Marker
from pipelines.opt_out import OptOut
from pipelines.sources import Filtered, InputShard, Reject, Sample
from pipelines.sources.sample import stated_digest


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """One input shard and where its vectors go.

    Attributes:
        shard: what is read.
        folder: where its files are written.
        config_hash: of the folder.
        run_id: of the command.
        encoders: of each vector column.
        is_memory: whether the filters are meant for it.
        attempt: 1, or more if its rejects are tried again.
    """

    shard: InputShard
    folder: str
    config_hash: str
    run_id: str
    encoders: dict[str, EncoderSpec]
    is_memory: bool = False
    attempt: int = 1

    @property
    def metadata(self) -> dict[str, str]:
        """What every Parquet file of the folder says of its origin."""
        infos = {column: dataclasses.asdict(spec.info) for column, spec in self.encoders.items()}
        origin = {f"{column}.{name}": str(value) for column, info in infos.items() for name, value in info.items()}
        return {"config_hash": self.config_hash, **origin}


@dataclasses.dataclass(frozen=True)
class Tools:
    """What is loaded once a process and shared by its threads."""

    encoders: EncoderSet
    filters: RowFilters
    opt_out: OptOut | None


# Rows of the shards that are under way in this process; the launcher's progress reads it where it shares the process.
in_flight: collections.Counter[str] = collections.Counter()

Outcome = Reject | Filtered


@dataclasses.dataclass(frozen=True)
class Item:
    """A wanted sample at its place in the shard; once decoded, with what its image encoders take."""

    place: int
    sample: Sample
    content_key: bytes = b""
    width: int | None = None
    height: int | None = None
    images: dict[ImagePreprocess, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Batch:
    """What became of the samples of one batch: rows with their vectors, and the others with their places."""

    rows: list[Item]
    vectors: dict[str, np.ndarray]
    others: list[tuple[int, Outcome]]


class BatchEmbedder:
    """Takes batches of one job from bytes to vectors; its threads share it."""

    def __init__(self, job: ShardJob, tools: Tools, embed: Embed) -> None:
        """Sorts the encoders by what they take."""
        self._job, self._tools, self._embed = job, tools, embed
        self._columns: dict[ImageEncoder | TextEncoder, list[str]] = collections.defaultdict(list)
        for column in job.encoders:
            if column in tools.encoders.columns:
                self._columns[tools.encoders.columns[column]].append(column)
        self._preprocesses = {e.preprocess for e in self._columns if isinstance(e, ImageEncoder)}

    def unwanted(self, sample: Sample) -> Outcome | None:
        """Returns why a sample is left out, by what is known before its image is decoded."""
        job = self._job
        if job.is_memory and (filtered := self._tools.filters.unwanted(sample)):
            return filtered
        for column, spec in job.encoders.items():
            if column in sample.vectors:
                continue
            if spec.kind == "precomputed":
                return Reject(sample.member, "read", "MissingVector", f"the source has no {column} for it")
            if spec.kind == "text" and not sample.caption:
                return Reject(sample.member, "read", "EmptyCaption", "there is no text to encode")
            if spec.kind == "image" and sample.vectors and not sample.image:
                return Reject(
                    sample.member, "read", "MissingImage", f"the source has vectors, and no image for {column}"
                )
        return None

    def _decode(self, item: Item) -> Item | Outcome:
        sample, is_memory = item.sample, self._job.is_memory
        is_brought = bool(sample.vectors) and not sample.image
        stated = stated_digest(sample.metadata)
        own = _digest_of_vectors(sample) if is_brought else hashlib.sha256(sample.image).digest()
        content_key = stated if is_brought and stated else own
        opt_out = self._tools.opt_out if is_memory else None
        if opt_out and (opt_out.names(sample.url, content_key) or opt_out.names(None, stated or content_key)):
            return Filtered(sample.member, "opt_out", sample.url or content_key.hex())
        if is_brought:
            known = [sample.metadata.get(name) for name in ("original_width", "original_height")]
            width, height = (value if isinstance(value, int) else None for value in known)
            return dataclasses.replace(item, content_key=content_key, width=width, height=height)
        try:
            picture = decode(sample.image, self._embed.max_image_pixels, self._preprocesses)
        except DecodeError as error:
            return Reject(sample.member, "decode", error.reason, str(error))
        width, height = picture.width, picture.height
        if is_memory and (wrong := self._tools.filters.wrong_size(sample.member, width, height)):
            return wrong
        images = {preprocess: prepare(picture, preprocess) for preprocess in self._preprocesses}
        return dataclasses.replace(item, content_key=content_key, width=width, height=height, images=images)

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Decodes and encodes the samples of one batch."""
        results = [(item.place, self._decode(item)) for item in items]
        others = [(place, result) for place, result in results if not isinstance(result, Item)]
        rows = [result for _, result in results if isinstance(result, Item)]
        if not rows:
            return Batch([], {}, others)
        vectors, guilty = self._encode(rows)
        finite = np.logical_and.reduce([np.isfinite(matrix).all(-1) for matrix in vectors.values()])
        for place, row in enumerate(rows):
            if place in guilty:
                others.append((row.place, Reject(row.sample.member, "encode", *guilty[place])))
            elif not finite[place]:
                message = "an encoder gave a vector that is not finite"
                others.append((row.place, Reject(row.sample.member, "encode", "NotFinite", message)))
        good = finite & ~np.isin(np.arange(len(rows)), list(guilty))
        kept = [row for row, is_good in zip(rows, good, strict=True) if is_good]
        return Batch(kept, {column: matrix[good] for column, matrix in vectors.items()}, others)

    def _encode(self, rows: Sequence[Item]) -> tuple[dict[str, np.ndarray], dict[int, tuple[str, str]]]:
        """Returns the vectors of each column, and by place in the batch the error of rows that an encoder fails on."""
        vectors: dict[str, np.ndarray] = {}
        guilty: dict[int, tuple[str, str]] = {}
        for column, spec in self._job.encoders.items():
            if column in rows[0].sample.vectors:
                brought = np.stack([row.sample.vectors[column] for row in rows])
                vectors[column] = finish(brought, spec)
        for encoder, columns in self._columns.items():
            wanted = [column for column in columns if column not in vectors]
            if not wanted:
                continue
            inputs: list[Any] = (
                [row.images[encoder.preprocess] for row in rows]
                if isinstance(encoder, ImageEncoder)
                else [row.sample.caption for row in rows]
            )
            matrix = encode_or_bisect(encoder, inputs, self._embed.batch_size, guilty)
            vectors |= dict.fromkeys(wanted, matrix)
        return vectors, guilty


def _digest_of_vectors(sample: Sample) -> bytes:
    return hashlib.sha256(b"".join(sample.vectors[name].tobytes() for name in sorted(sample.vectors))).digest()


def encode_or_bisect(
    encoder: ImageEncoder | TextEncoder, inputs: Sequence[Any], batch_size: int, guilty: dict[int, tuple[str, str]]
) -> np.ndarray:
    """Encodes a batch; where the encoder fails, halves it down to the inputs that it fails on.

    The others keep their places in the batch, and so their bits: those that are not asked for are blanked.

    Args:
        encoder: called with inputs, of which None is blank.
        inputs: at most `batch_size`.
        batch_size: of the encoder.
        guilty: takes the place of each input that fails, with type and text of the error.

    Returns:
        Vectors `[n, dim]` float32; those of the guilty are zero.

    Raises:
        UserError: if the encoder fails on every input of several: then it is not their fault.
    """
    try:
        return encoder.encode(inputs, batch_size)
    except UserError:
        raise
    except Exception as error:
        # What a graph raises is up to its operations.
        whole = f"{type(error).__name__}: {error}"
    found: dict[int, np.ndarray] = {}
    failed: dict[int, tuple[str, str]] = {}
    spans = [(0, len(inputs))]
    while spans:
        begin, end = spans.pop()
        try:
            part = encoder.encode([x if begin <= i < end else None for i, x in enumerate(inputs)], batch_size)
            found |= {place: part[place] for place in range(begin, end)}
        except UserError:
            raise
        except Exception as error:
            if end - begin > 1:
                spans += [(begin, (begin + end) // 2), ((begin + end) // 2, end)]
            else:
                failed[begin] = type(error).__name__, str(error)[:500]
    if not found and len(inputs) > 1:
        raise UserError(f"an encoder fails on every one of {len(inputs)} inputs ({whole[:500]})")
    guilty |= failed
    width = len(next(iter(found.values()))) if found else 0
    zero = np.zeros(width, np.float32)
    return np.stack([found.get(place, zero) for place in range(len(inputs))])


class ShardRun:
    """The rows of one shard as they come: what is not embedded is kept aside, with its place."""

    def __init__(self, job: ShardJob, tools: Tools, embed: Embed, threads: int) -> None:
        """Reads nothing yet."""
        self._job, self._embed, self._threads = job, embed, threads
        self._embedder = BatchEmbedder(job, tools, embed)
        self.rows_in = 0
        self.others: list[tuple[int, Outcome]] = []

    def _wanted(self) -> Iterator[Item]:
        for item in sources.read(self._job.shard, self._embed):
            place, self.rows_in = self.rows_in, self.rows_in + 1
            outcome = self._embedder.unwanted(item) if isinstance(item, Sample) else item
            if outcome:
                self.others.append((place, outcome))
            elif isinstance(item, Sample):
                yield Item(place, item)

    def batches(self) -> Iterator[Batch]:
        """Embeds the wanted samples, a batch a thread, in order, at most two waiting batches a thread ahead.

        A batch is always the same run of samples, whatever the number of threads, and so are its vectors.
        """
        items = self._wanted()
        with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
            ahead: collections.deque[concurrent.futures.Future[Batch]] = collections.deque()
            for batch in _cut(items, self._embed.batch_size):
                ahead.append(pool.submit(self._embedder, batch))
                if len(ahead) > 2 * self._threads:
                    yield self._taken(ahead.popleft().result())
            while ahead:
                yield self._taken(ahead.popleft().result())

    def _taken(self, batch: Batch) -> Batch:
        self.others += batch.others
        return batch


def _cut(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    part: list[Item] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _to_table(batch: Batch, shard: InputShard, first_row: int, schema: pa.Schema) -> pa.Table:
    samples = [row.sample for row in batch.rows]
    columns = {
        "id": schemas.make_id(shard.number, np.arange(first_row, first_row + len(samples))),
        "content_key": [row.content_key for row in batch.rows],
        "source_shard": [shard.container] * len(samples),
        "member": [sample.member for sample in samples],
        "url": [sample.url for sample in samples],
        "caption": [sample.caption for sample in samples],
        "label": [sample.label for sample in samples],
        "width": [row.width for row in batch.rows],
        "height": [row.height for row in batch.rows],
        "metadata": [_metadata_text(sample) for sample in samples],
    }
    arrays = [pa.array(columns[field.name], field.type) for field in schema if field.name in columns]
    arrays += [schemas.fixed_list(batch.vectors[field.name], field) for field in schema if field.name in batch.vectors]
    return pa.Table.from_arrays(arrays, schema=schema)


def _metadata_text(sample: Sample) -> str | None:
    if not sample.metadata:
        return None
    return json.dumps(sample.metadata, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)


def _write_vectors(uri: str, job: ShardJob, batches: Iterable[Batch]) -> int:
    """Writes the rows of all batches and returns how many the file has."""
    dtype = next(iter(job.encoders.values())).info.dtype
    schema = schemas.embeddings({column: spec.info.dim for column, spec in job.encoders.items()}, dtype)
    rows, waiting = 0, list[pa.Table]()
    with schemas.writer(uri, schema, job.metadata) as parquet:
        for batch in batches:
            if batch.rows:
                waiting.append(_to_table(batch, job.shard, rows, schema))
                rows += len(batch.rows)
            if sum(table.num_rows for table in waiting) >= schemas.ROW_GROUP_ROWS:
                parquet.write_table(pa.concat_tables(waiting))
                waiting.clear()
            in_flight[uri] += len(batch.rows) + len(batch.others)
        if waiting:
            parquet.write_table(pa.concat_tables(waiting))
    return schemas.count_rows(uri)


def embed_shard(job: ShardJob, tools: Tools, embed: Embed, threads: int) -> Marker:
    """Embeds one shard: writes its vectors, its rejects, what was filtered and, last, its marker.

    Args:
        job: the shard and its destination.
        tools: what the process has loaded; encoders at least of the job's columns.
        embed: batch size and limits.
        threads: batches that are decoded and encoded at a time.

    Returns:
        The marker that was written.
    """
    begin = time.monotonic()
    shard, output = job.shard, storage.join(job.folder, f"{job.shard.name}.parquet")
    run = ShardRun(job, tools, embed, threads)
    try:
        rows_out = _write_vectors(output, job, run.batches())
    finally:
        in_flight.pop(output, None)
    others = [outcome for _, outcome in sorted(run.others, key=lambda other: other[0])]
    rejects = [outcome for outcome in others if isinstance(outcome, Reject)]
    filtered = [outcome for outcome in others if isinstance(outcome, Filtered)]
    attempt = {"attempt": job.attempt}
    marker = Marker(
        number=shard.number,
        name=shard.name,
        uri=shard.uri,
        size_bytes=shard.size_bytes,
        etag=shard.etag,
        rows_in=run.rows_in,
        rows_out=rows_out,
        rows_rejected=_write_others(job, REJECTS, schemas.REJECTS, rejects, attempt),
        rows_filtered=_write_others(job, FILTERED, schemas.FILTERED, filtered, {}),
        filtered=dict(collections.Counter(outcome.filter for outcome in filtered)),
        retryable=sum(reject.retryable for reject in rejects),
        attempt=job.attempt,
        output_sha256=storage.sha256(output),
        config_hash=job.config_hash,
        run_id=job.run_id,
        secs=round(time.monotonic() - begin, 3),
    )
    marker.write(job.folder)
    return marker


def _write_others(
    job: ShardJob, folder: str, schema: pa.Schema, outcomes: Sequence[Outcome], more: dict[str, Any]
) -> int:
    """Writes rows that have no vectors and returns how many the file has."""
    uri = storage.join(job.folder, folder, f"{job.shard.name}.parquet")
    rows = [{"source_shard": job.shard.container, **more, **dataclasses.asdict(outcome)} for outcome in outcomes]
    schemas.write(uri, pa.Table.from_pylist(rows, schema=schema), job.metadata)
    return schemas.count_rows(uri)
