"""Input shards to Parquet shards: read, embed in batches, write, mark as done.

The work of one shard stays in one place, so that pixels never travel between workers and a shard is either done
or not. Each thread takes a batch from bytes to vectors, with one thread of the encoder's own: more batches at a time
keep the cores busier than more threads on one batch. What is done to a batch is left to `inference`, which shards are
to be done to `embed`.
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
from pipelines.embedding.inference import Batch, BatchEmbedder, Item, Outcome, ShardJob, Tools
from pipelines.errors import UserError
from pipelines.manifest import FILTERED, REJECTS, Marker, read_marker
from pipelines.sources import Filtered, InputShard, Reject, Sample

# Rows of the shards that are under way in this process; the launcher's progress reads it where it shares the process.
in_flight: collections.Counter[str] = collections.Counter()


class ShardRun:
    """One shard on its way: what was read of it, and the files that its batches are written to."""

    def __init__(self, job: ShardJob, tools: Tools, embed: Embed) -> None:
        """Opens the file of vectors, which has its name once `finish` is called; reads nothing yet."""
        self.job, self._embed = job, embed
        self.embedder = BatchEmbedder(job, tools, embed)
        self._begin = time.monotonic()
        self._rows_in = self._rows = 0
        self._others: list[tuple[int, Outcome]] = []
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
            outcome = self.embedder.unwanted(item) if isinstance(item, Sample) else item
            if outcome:
                self._others.append((place, outcome))
            elif isinstance(item, Sample):
                yield Item(place, item)

    def read(self) -> Iterator[list[Item]]:
        """Yields the wanted samples in batches: always the same, whatever the threads, and so are their vectors."""
        part: list[Item] = []
        for item in self._wanted():
            part.append(item)
            if len(part) == self._embed.batch_size:
                yield part
                part = []
        if part:
            yield part

    def write(self, batch: Batch) -> None:
        """Writes the rows of a batch, and keeps aside what is not embedded."""
        self._others += batch.others
        if batch.rows:
            self._waiting.append(_to_table(batch, self.job.shard, self._rows, self._schema))
            self._rows += len(batch.rows)
        if sum(table.num_rows for table in self._waiting) >= schemas.ROW_GROUP_ROWS:
            self._write_waiting()
        in_flight[self._output] += len(batch.rows) + len(batch.others)

    def _write_waiting(self) -> None:
        if self._waiting:
            self._parquet.write_table(pa.concat_tables(self._waiting))
            self._waiting.clear()

    def finish(self) -> None:
        """Ends the file of vectors, and writes the rejects, what was filtered and, last, the marker."""
        job, shard = self.job, self.job.shard
        with self._files:
            self._write_waiting()
        others = [outcome for _, outcome in sorted(self._others, key=lambda other: other[0])]
        rejects = [outcome for outcome in others if isinstance(outcome, Reject)]
        filtered = [outcome for outcome in others if isinstance(outcome, Filtered)]
        Marker(
            number=shard.number,
            name=shard.name,
            uri=shard.uri,
            size_bytes=shard.size_bytes,
            etag=shard.etag,
            rows_in=self._rows_in,
            rows_out=schemas.count_rows(self._output),
            rows_rejected=_write_others(job, REJECTS, schemas.REJECTS, rejects, {"attempt": job.attempt}),
            rows_filtered=_write_others(job, FILTERED, schemas.FILTERED, filtered, {}),
            filtered=dict(collections.Counter(outcome.filter for outcome in filtered)),
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

    While the last batches of a shard are embedded and its files are written, the next one's are under way, so that no
    thread waits at a shard's end. At most two batches a thread are ahead of the one that is written next.
    """

    def __init__(self, tools: Tools, embed: Embed, threads: int) -> None:
        """Starts nothing yet.

        Args:
            tools: what the process has loaded; encoders at least of the columns of all shards.
            embed: batch size and limits.
            threads: batches that are decoded and encoded at a time.
        """
        self._tools, self._embed, self._most_ahead = tools, embed, 2 * threads
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._runs: list[ShardRun] = []
        # Batches in the order of the source; None ends a shard.
        self._ahead: collections.deque[tuple[ShardRun, concurrent.futures.Future[Batch] | None]] = collections.deque()

    def add(self, job: ShardJob) -> None:
        """Reads a shard to its end, and writes what is embedded meanwhile; a shard that is done is left so.

        Raises:
            UserError: if storage fails, or an encoder on everything. No shard that was under way is done then.
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
        """Writes what is under way; errors as `add`. The line takes no more shards."""
        while self._ahead:
            self._take()
        self._pool.shutdown()

    def _append(self, run: ShardRun, batch: concurrent.futures.Future[Batch] | None) -> None:
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
        """Within it, an error abandons every shard that is under way; one of the storage names this shard."""
        try:
            yield
        except BaseException as error:
            self._pool.shutdown(cancel_futures=True)
            self._ahead.clear()
            while self._runs:
                self._runs.pop().abandon(error)
            if isinstance(error, OSError):
                uri = job.shard.uri
                raise UserError(f"{uri}: {error}; run the same command again once that is mended") from error
            raise


def _is_done(job: ShardJob) -> bool:
    """Tells whether a worker that was lost since has embedded the shard."""
    marker = read_marker(job.folder, job.shard.name, job.config_hash)
    return bool(marker) and storage.exists(storage.join(job.folder, f"{job.shard.name}.parquet"))


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


def _write_others(
    job: ShardJob, folder: str, schema: pa.Schema, outcomes: Sequence[Outcome], more: dict[str, Any]
) -> int:
    """Writes rows that have no vectors and returns how many the file has."""
    uri = storage.join(job.folder, folder, f"{job.shard.name}.parquet")
    rows = [{"source_shard": job.shard.container, **more, **dataclasses.asdict(outcome)} for outcome in outcomes]
    schemas.write(uri, pa.Table.from_pylist(rows, schema=schema), job.metadata)
    return schemas.count_rows(uri)
