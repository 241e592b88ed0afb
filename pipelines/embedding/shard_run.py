"""Input shards to Parquet shards: read, embed in batches, write, mark as done.

One worker does all the work of a shard, so that pixels never travel between workers and a shard is either done or
not. Each thread takes a batch from bytes to vectors, with one thread of the encoder's own: more batches at a time keep
the cores busier than more threads per batch. What happens to a batch is up to `inference`, which shards are pending to
`folders`.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from configs.base import Embed
from pipelines import schemas, sources, storage
from pipelines.embedding.inference import BatchEmbedder, EmbeddedBatch, Item, ShardJob, Tools, Unused
from pipelines.errors import UserError, full_disk
from pipelines.manifest import FILTERED, REJECTS, Marker, read_marker
from pipelines.sources import Filtered, InputShard, Reject, Sample

# Rows of the unfinished shards of this process, by output file; progress reads it where job and launcher share it.
in_flight: collections.Counter[str] = collections.Counter()


class ShardRun:
    """One shard in progress: the rows that were read so far, and the files that its batches are written to."""

    def __init__(self, job: ShardJob, tools: Tools, embed: Embed) -> None:
        """Opens the file of vectors, which gets its name from `finish`; reads nothing yet."""
        self.job, self._embed = job, embed
        self.embedder = BatchEmbedder(job, tools, embed)
        self._begin = time.monotonic()
        self._rows_in = self._rows = 0
        self._unused: list[tuple[int, Unused]] = []
        self._waiting: list[pa.Table] = []
        self._output = storage.join(job.folder, f"{job.shard.name}.parquet")
        dtype = next(iter(job.encoders.values())).info.dtype
        self._schema = schemas.embeddings({column: spec.info.dim for column, spec in job.encoders.items()}, dtype)
        with contextlib.ExitStack() as stack:
            self._parquet = stack.enter_context(schemas.writer(self._output, self._schema, job.metadata))
            stack.callback(in_flight.pop, self._output, None)
            self._files = stack.pop_all()

    def _wanted(self) -> Iterator[Item]:
        for item in sources.read(self.job.shard, self._embed):
            place, self._rows_in = self._rows_in, self._rows_in + 1
            unused = self.embedder.unwanted(item) if isinstance(item, Sample) else item
            if unused:
                self._unused.append((place, unused))
            elif isinstance(item, Sample):
                yield Item(place, item)

    def read(self) -> Iterator[list[Item]]:
        """Yields the wanted samples in batches; neither these nor their vectors depend on the number of threads."""
        part: list[Item] = []
        for item in self._wanted():
            part.append(item)
            if len(part) == self._embed.batch_size:
                yield part
                part = []
        if part:
            yield part

    def write(self, batch: EmbeddedBatch) -> None:
        """Writes the rows of a batch, and keeps its unused rows for `finish`."""
        self._unused += batch.unused
        if batch.rows:
            self._waiting.append(_to_table(batch, self.job.shard, self._rows, self._schema))
            self._rows += len(batch.rows)
        if sum(table.num_rows for table in self._waiting) >= schemas.ROW_GROUP_ROWS:
            self._write_waiting()
        in_flight[self._output] += len(batch.rows) + len(batch.unused)

    def _write_waiting(self) -> None:
        if self._waiting:
            self._parquet.write_table(pa.concat_tables(self._waiting))
            self._waiting.clear()

    def finish(self) -> None:
        """Ends the file of vectors, then writes the rejected and the filtered rows and, last, the marker."""
        job, shard = self.job, self.job.shard
        with self._files:
            self._write_waiting()
        unused = [row for _, row in sorted(self._unused, key=lambda entry: entry[0])]
        rejects = [row for row in unused if isinstance(row, Reject)]
        filtered = [row for row in unused if isinstance(row, Filtered)]
        Marker(
            number=shard.number,
            name=shard.name,
            uri=shard.uri,
            size_bytes=shard.size_bytes,
            etag=shard.etag,
            rows_in=self._rows_in,
            rows_out=schemas.count_rows(self._output),
            rows_rejected=_write_unused(job, REJECTS, schemas.REJECTS, rejects, {"attempt": job.attempt}),
            rows_filtered=_write_unused(job, FILTERED, schemas.FILTERED, filtered, {}),
            filtered=dict(collections.Counter(row.filter for row in filtered)),
            retryable=sum(reject.retryable for reject in rejects),
            attempt=job.attempt,
            output_sha256=storage.sha256(self._output),
            config_hash=job.config_hash,
            run_id=job.run_id,
            secs=round(time.monotonic() - self._begin, 3),
        ).write(job.folder)

    def abandon(self, error: BaseException) -> None:
        """Removes the file of vectors, if it is not finished."""
        self._files.__exit__(type(error), error, None)


class ShardLine:
    """Takes shards one after another through the threads of a process.

    While the last batches of a shard are embedded and its files are written, the next shard is read already, so that
    no thread waits at the end of a shard. At most two batches per thread are ahead of the one that is written next.
    """

    def __init__(self, tools: Tools, embed: Embed, threads: int) -> None:
        """Starts nothing yet.

        Args:
            tools: what the process has loaded, with the encoders of all columns of all shards.
            embed: batch size and limits.
            threads: batches that are decoded and encoded at once.
        """
        self._tools, self._embed, self._most_ahead = tools, embed, 2 * threads
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._runs: list[ShardRun] = []
        # Batches in the order of the source; None ends a shard.
        self._ahead: collections.deque[tuple[ShardRun, concurrent.futures.Future[EmbeddedBatch] | None]] = (
            collections.deque()
        )

    def add(self, job: ShardJob) -> None:
        """Reads a shard to its end, writing embedded batches meanwhile; does nothing if the shard is done.

        Raises:
            UserError: if storage fails, or an encoder fails on every input. Unfinished shards leave nothing then.
        """
        with self._or_abandon(job):
            if _is_done(job):
                return
            run = ShardRun(job, self._tools, self._embed)
            self._runs.append(run)
            for items in run.read():
                self._append(run, self._pool.submit(run.embedder, items))
            self._append(run, None)

    def finish(self) -> None:
        """Writes all unfinished shards; errors as `add`. The line takes no more shards."""
        while self._ahead:
            self._take()
        self._pool.shutdown()

    def _append(self, run: ShardRun, batch: concurrent.futures.Future[EmbeddedBatch] | None) -> None:
        self._ahead.append((run, batch))
        while len(self._ahead) > self._most_ahead:
            self._take()

    def _take(self) -> None:
        run, batch = self._ahead.popleft()
        with self._or_abandon(run.job):
            if batch:
                run.write(batch.result())
            else:
                run.finish()
                self._runs.remove(run)

    @contextlib.contextmanager
    def _or_abandon(self, job: ShardJob) -> Iterator[None]:
        """A context in which an error abandons every unfinished shard; one of the storage names the place."""
        try:
            yield
        except BaseException as error:
            self._pool.shutdown(cancel_futures=True)
            self._ahead.clear()
            while self._runs:
                self._runs.pop().abandon(error)
            if isinstance(error, OSError):
                # The source's own failures are rejects and user errors, so this is where the shard is written.
                where = f"{job.folder}: {error}, while {job.shard.uri} was embedded"
                raise full_disk(error, job.folder) or UserError(
                    f"{where}; fix that and run the same command again"
                ) from error
            raise


def _is_done(job: ShardJob) -> bool:
    """Tells whether a worker has embedded the shard already, and was lost before it could report that."""
    marker = read_marker(job.folder, job.shard.name, job.config_hash)
    return bool(marker) and storage.exists(storage.join(job.folder, f"{job.shard.name}.parquet"))


def _to_table(batch: EmbeddedBatch, shard: InputShard, first_row: int, schema: pa.Schema) -> pa.Table:
    columns = _columns(batch.rows, shard, first_row)
    arrays = [pa.array(columns[field.name], field.type) for field in schema if field.name in columns]
    arrays += [schemas.fixed_list(batch.vectors[field.name], field) for field in schema if field.name in batch.vectors]
    return pa.Table.from_arrays(arrays, schema=schema)


def _columns(rows: Sequence[Item], shard: InputShard, first_row: int) -> dict[str, Any]:
    """Returns the columns of `schemas.embeddings` that are not vectors."""
    samples = [row.sample for row in rows]
    return {
        "id": schemas.make_id(shard.number, np.arange(first_row, first_row + len(samples))),
        "content_key": [row.content_key for row in rows],
        "source_shard": [shard.container] * len(samples),
        "member": [sample.member for sample in samples],
        "url": [sample.url for sample in samples],
        "caption": [sample.caption for sample in samples],
        "label": [sample.label for sample in samples],
        "width": [row.width for row in rows],
        "height": [row.height for row in rows],
        "metadata": [_metadata_text(sample) for sample in samples],
    }


def _metadata_text(sample: Sample) -> str | None:
    if not sample.metadata:
        return None
    return json.dumps(sample.metadata, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)


def _write_unused(job: ShardJob, folder: str, schema: pa.Schema, unused: Sequence[Unused], more: dict[str, Any]) -> int:
    """Writes rows that have no vectors; returns how many rows the file then has."""
    uri = storage.join(job.folder, folder, f"{job.shard.name}.parquet")
    rows = [{"source_shard": job.shard.container, **more, **dataclasses.asdict(row)} for row in unused]
    schemas.write(uri, pa.Table.from_pylist(rows, schema=schema), job.metadata)
    return schemas.count_rows(uri)
