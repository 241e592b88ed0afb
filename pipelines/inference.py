"""One input shard to one Parquet shard: read, decode, encode in batches, write, mark as done.

The work of one shard stays in one place, so that pixels never travel between workers and a shard is either done
or not. Inside, each thread takes a batch from bytes to vectors, with one thread of the encoder's own: more batches at
a time keep the cores busier than more threads on one batch. Which shards are to be done is left to `embed`.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from configs.base import Embed
from pipelines import schemas, sources, storage
from pipelines.decode import DecodeError, ImagePreprocess, decode, prepare
from pipelines.encoders import EncoderSet, EncoderSpec
from pipelines.manifest import REJECTS, Marker
from pipelines.sources import InputShard, Reject, Sample


@dataclasses.dataclass(frozen=True)
class ShardJob:
    """One input shard and where its vectors go."""

    shard: InputShard
    folder: str
    config_hash: str
    run_id: str
    encoders: dict[str, EncoderSpec]

    @property
    def metadata(self) -> dict[str, str]:
        """What every Parquet file of the folder says of its origin."""
        infos = {role: dataclasses.asdict(spec.info) for role, spec in self.encoders.items()}
        origin = {f"{role}.{name}": str(value) for role, info in infos.items() for name, value in info.items()}
        return {"config_hash": self.config_hash, **origin}


# Rows of the shards that are under way in this process; the launcher's progress reads it where it shares the process.
in_flight: collections.Counter[str] = collections.Counter()


@dataclasses.dataclass(frozen=True)
class Decoded:
    """A sample whose image is decoded to what each image encoder takes."""

    sample: Sample
    content_key: bytes
    width: int
    height: int
    arrays: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Batch:
    """What became of the samples of one batch: rows with a vector for each role, or rejects."""

    rows: list[Decoded]
    vectors: dict[str, np.ndarray]
    rejects: list[Reject]


def _decode(
    sample: Sample | Reject, preprocesses: dict[str, ImagePreprocess], needs_text: bool, embed: Embed
) -> Decoded | Reject:
    if isinstance(sample, Reject):
        return sample
    if needs_text and not sample.caption:
        return Reject(sample.member, "read", "EmptyCaption", "there is no text to encode")
    try:
        image = decode(sample.image, embed.max_image_pixels)
    except DecodeError as error:
        return Reject(sample.member, "decode", error.reason, str(error))
    arrays = {role: prepare(image, preprocess) for role, preprocess in preprocesses.items()}
    return Decoded(sample, hashlib.sha256(sample.image).digest(), image.width, image.height, arrays)


def _embed_batch(samples: list[Sample | Reject], encoders: EncoderSet, roles: frozenset[str], embed: Embed) -> Batch:
    image = {role: encoder for role, encoder in encoders.image.items() if role in roles}
    text = {role: encoder for role, encoder in encoders.text.items() if role in roles}
    preprocesses = {role: encoder.preprocess for role, encoder in image.items()}
    decoded = [_decode(sample, preprocesses, bool(text), embed) for sample in samples]
    rejects = [item for item in decoded if isinstance(item, Reject)]
    rows = [item for item in decoded if isinstance(item, Decoded)]
    if not rows:
        return Batch([], {}, rejects)
    vectors = {role: e.encode([row.arrays[role] for row in rows], embed.batch_size) for role, e in image.items()}
    captions = [row.sample.caption or "" for row in rows]
    vectors |= {role: e.encode(captions, embed.batch_size) for role, e in text.items()}
    finite = np.logical_and.reduce([np.isfinite(matrix).all(-1) for matrix in vectors.values()])
    for row in itertools.compress(rows, ~finite):
        rejects.append(Reject(row.sample.member, "encode", "NotFinite", "an encoder gave a vector that is not finite"))
    return Batch(
        list(itertools.compress(rows, finite)), {role: matrix[finite] for role, matrix in vectors.items()}, rejects
    )


def _embed_batches(job: ShardJob, encoders: EncoderSet, embed: Embed, threads: int) -> Iterator[Batch]:
    """Embeds the samples of a shard, a batch a thread, in order, at most one waiting batch a thread ahead.

    A batch is always the same run of samples, whatever the number of threads, and so are its vectors.
    """
    roles = frozenset(job.encoders)
    samples = sources.read(job.shard, embed)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        ahead: collections.deque[concurrent.futures.Future[Batch]] = collections.deque()
        while batch := list(itertools.islice(samples, embed.batch_size)):
            ahead.append(pool.submit(_embed_batch, batch, encoders, roles, embed))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _to_table(batch: Batch, shard: InputShard, first_row: int, schema: pa.Schema) -> pa.Table:
    samples = [row.sample for row in batch.rows]
    columns = {
        "id": schemas.make_id(shard.number, np.arange(first_row, first_row + len(samples))),
        "content_key": [row.content_key for row in batch.rows],
        "source_shard": [shard.uri] * len(samples),
        "member": [sample.member for sample in samples],
        "url": [sample.url for sample in samples],
        "caption": [sample.caption for sample in samples],
        "label": [sample.label for sample in samples],
        "width": [row.width for row in batch.rows],
        "height": [row.height for row in batch.rows],
    }
    arrays = [pa.array(columns[field.name], field.type) for field in schema if field.name in columns]
    arrays += [schemas.fixed_list(batch.vectors[field.name], field) for field in schema if field.name in batch.vectors]
    return pa.Table.from_arrays(arrays, schema=schema)


def embed_shard(job: ShardJob, encoders: EncoderSet, embed: Embed, threads: int) -> Marker:
    """Embeds one shard: writes its vectors, its rejects and, last, its marker.

    Args:
        job: the shard and its destination.
        encoders: the loaded encoders, at least those of the job's roles.
        embed: batch size and limits.
        threads: batches that are decoded and encoded at a time.

    Returns:
        The marker that was written.
    """
    begin = time.monotonic()
    shard = job.shard
    dtype = next(iter(job.encoders.values())).info.dtype
    schema = schemas.embeddings({role: spec.info.dim for role, spec in job.encoders.items()}, dtype)
    output = storage.join(job.folder, f"{shard.name}.parquet")

    rejects: list[Reject] = []
    rows, waiting = 0, list[pa.Table]()
    with schemas.writer(output, schema, job.metadata) as parquet:
        for batch in _embed_batches(job, encoders, embed, threads):
            rejects += batch.rejects
            if batch.rows:
                waiting.append(_to_table(batch, shard, rows, schema))
                rows += len(batch.rows)
            if sum(table.num_rows for table in waiting) >= schemas.ROW_GROUP_ROWS:
                parquet.write_table(pa.concat_tables(waiting))
                waiting.clear()
            in_flight[output] = rows + len(rejects)
        if waiting:
            parquet.write_table(pa.concat_tables(waiting))

    _write_rejects(storage.join(job.folder, REJECTS, f"{shard.name}.parquet"), shard, rejects, job.metadata)
    marker = Marker(
        number=shard.number,
        name=shard.name,
        uri=shard.uri,
        size_bytes=shard.size_bytes,
        etag=shard.etag,
        rows_in=rows + len(rejects),
        rows_out=rows,
        rows_rejected=len(rejects),
        output_sha256=storage.sha256(output),
        config_hash=job.config_hash,
        run_id=job.run_id,
        secs=round(time.monotonic() - begin, 3),
    )
    marker.write(job.folder)
    del in_flight[output]
    return marker


def _write_rejects(uri: str, shard: InputShard, rejects: list[Reject], metadata: dict[str, str]) -> None:
    rows = [{"source_shard": shard.uri, "attempt": 1, **dataclasses.asdict(reject)} for reject in rejects]
    schemas.write(uri, pa.Table.from_pylist(rows, schema=schemas.REJECTS), metadata)
