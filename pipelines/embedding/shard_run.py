"""Input shards to Parquet shards: read, embed in batches, write, mark as done.

One worker does all the work of a shard, so that pixels never travel between workers and a shard is either done or
not. Each thread takes a batch from bytes to vectors, with one thread of the encoder's own: more batches at a time keep
the cores busier than more threads per batch. What happens to a batch is up to `inference`, to its texts to `texts`;
which shards are pending to `folders`.
"""

import bisect
import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.base import Embed
from pipelines import schemas, sources, storage
from pipelines.embedding.inference import BatchEmbedder, EmbeddedBatch, Item, ShardJob, Tools, Unused
from pipelines.embedding.texts import WINDOW_BATCHES, ShardTexts, Window
from pipelines.errors import UserError, full_disk
from pipelines.manifest import FILTERED, REJECTS, Marker, read_marker
from pipelines.sources import Filtered, InputShard, Reject, Sample
from pipelines.sources.sample import storable_text

# Of why a row is not used, and of the value that did not pass.
_MAX_TEXT_CHARS = 500

# Rows that are not used and wait for a batch before them to be written.
_MOST_WAITING = 4096
# Whose texts are embedded while later batches are.
_MOST_WINDOWS = 2
_UNUSED = {REJECTS: schemas.REJECTS, FILTERED: schemas.FILTERED}

# Rows of the unfinished shards of this process, by output file; progress reads it where job and launcher share it.
in_flight: collections.Counter[str] = collections.Counter()


class ShardRun:
    """One shard in progress: the rows that were read so far, and the files that its batches are written to."""

    def __init__(self, job: ShardJob, tools: Tools, embed: Embed) -> None:
        """Opens the file of vectors, which gets its name from `finish`; reads nothing yet."""
        self.job, self._embed = job, embed
        self.embedder = BatchEmbedder(job, tools, embed)
        self._begin = time.monotonic()
        self._rows_in = self._rows = self._unknown_classes = self._collected = 0
        # Here, not in the job: the names of many classes would travel with every shard.
        self._passed_over: collections.Counter[str] = collections.Counter()
        # Rows after which a batch and a window of texts end: until they are written, those that are not used wait.
        self._span = max(_MOST_WAITING, 16 * embed.batch_size)
        self._texts = ShardTexts(self.embedder.texts, job.encoders, embed.batch_size, self._span)
        self._shard = dataclasses.replace(job.shard, labels=tools.labels.get(job.folder), others=self._passed_over)
        # The first places of the batches that are not written yet, in their order.
        self._begun: collections.deque[int] = collections.deque()
        self._waiting: list[pa.Table] = []
        self._output = storage.join(job.folder, f"{job.shard.name}.parquet")
        dtype = next(iter(job.encoders.values())).info.dtype
        dims = {column: spec.info.dim for column, spec in job.encoders.items()}
        self._schema = schemas.embeddings(dims, dtype, thumbnails=True)
        with contextlib.ExitStack() as stack:
            self._parquet = stack.enter_context(schemas.writer(self._output, self._schema, job.metadata))
            self._unused = stack.enter_context(_UnusedRows(job))
            stack.callback(in_flight.pop, self._output, None)
            self._files = stack.pop_all()

    def read(self) -> Iterator[list[Item]]:
        """Yields the wanted samples in batches; neither these nor their vectors depend on the number of threads.

        A batch also ends where many rows have passed since it began.
        """
        part: list[Item] = []
        for item in sources.read(self._shard, self._embed):
            place, self._rows_in = self._rows_in, self._rows_in + 1
            unused = self.embedder.unwanted(item) if isinstance(item, Sample) else item
            if unused:
                self._unused.add(place, unused)
            elif isinstance(item, Sample):
                if not part:
                    self._begun.append(place)
                part.append(Item(place, item))
            if part and (len(part) == self._embed.batch_size or self._rows_in - part[0].place >= self._span):
                yield part
                part = []
            self._unused.write(self._begun[0] if self._begun else self._rows_in)
        if part:
            yield part

    def collect(self, batch: EmbeddedBatch) -> bool:
        """Takes the next batch of `read`, embedded but for its texts; tells whether the window is full."""
        place, self._collected = self._begun[self._collected], self._collected + 1
        return self._texts.add(batch, place)

    def end_window(self, pool: concurrent.futures.ThreadPoolExecutor) -> Window:
        """Begins to embed the texts of the collected batches; `write` waits for them."""
        return self._texts.end_window(pool)

    def write(self, window: Window) -> None:
        """Writes the batches of a window, once their texts are embedded."""
        for batch in self._texts.whole(window):
            self._write(batch)

    def _write(self, batch: EmbeddedBatch) -> None:
        """Writes the rows of a batch, and its unused rows once no earlier row can follow."""
        self._collected -= 1
        self._begun.popleft()
        for place, unused in batch.unused:
            self._unused.add(place, unused)
        if batch.rows:
            self._waiting.append(_to_table(batch, self.job.shard, self._rows, self._schema))
            self._rows += len(batch.rows)
            self._unknown_classes += sum(row.sample.unknown_class for row in batch.rows)
        if sum(table.num_rows for table in self._waiting) >= schemas.ROW_GROUP_ROWS:
            self._write_waiting()
        in_flight[self._output] += len(batch.rows) + len(batch.unused)

    def _write_waiting(self) -> None:
        if self._waiting:
            self._parquet.write_table(pa.concat_tables(self._waiting))
            self._waiting.clear()

    def finish(self) -> None:
        """Ends the files of vectors, of rejected and of filtered rows, then writes the marker."""
        job, shard, unused = self.job, self.job.shard, self._unused
        with self._files:
            self._write_waiting()
        Marker(
            number=shard.number,
            name=shard.name,
            uri=shard.uri,
            size_bytes=shard.size_bytes,
            etag=shard.etag,
            rows_in=self._rows_in,
            rows_out=schemas.count_rows(self._output),
            rows_rejected=schemas.count_rows(_unused_file(job, REJECTS)),
            rows_filtered=schemas.count_rows(_unused_file(job, FILTERED)),
            filtered=dict(unused.filtered),
            passed_over=dict(self._passed_over),
            retryable=unused.retryable,
            attempt=job.attempt,
            unknown_classes=self._unknown_classes,
            output_sha256=storage.sha256(self._output),
            output_footer=schemas.footer_sha256(self._output),
            rejects_sha256=storage.sha256(_unused_file(job, REJECTS)),
            filtered_sha256=storage.sha256(_unused_file(job, FILTERED)),
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
    no thread waits at the end of a shard. At most two batches per thread are ahead of those that wait for texts, which
    are at most two windows and the one that is filled.
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
        # Windows whose texts are embedded; None ends a shard.
        self._windows: collections.deque[tuple[ShardRun, Window | None]] = collections.deque()

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
        self._write(0)
        self._pool.shutdown()

    def _append(self, run: ShardRun, batch: concurrent.futures.Future[EmbeddedBatch] | None) -> None:
        self._ahead.append((run, batch))
        while len(self._ahead) > self._most_ahead:
            self._take()

    def _take(self) -> None:
        run, batch = self._ahead.popleft()
        with self._or_abandon(run.job):
            if not batch or run.collect(batch.result()):
                self._windows.append((run, run.end_window(self._pool)))
            if not batch:
                self._windows.append((run, None))
        self._write(_MOST_WINDOWS)

    def _write(self, most: int) -> None:
        """Writes the oldest windows until at most so many wait for texts, and finishes shards that have none left.

        Batches of images alone, each a window, may wait behind texts, too: at most as many as those windows may have.
        """
        while self._windows:
            held = [window for _, window in self._windows if window]
            is_short = sum(bool(window.texts) for window in held) <= most
            run, window = self._windows[0]
            if window and window.texts and is_short and len(held) <= most * WINDOW_BATCHES:
                return
            self._windows.popleft()
            with self._or_abandon(run.job):
                if window:
                    run.write(window)
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
            self._windows.clear()
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
        schemas.THUMBNAIL: [row.thumbnail for row in rows],
    }


def _metadata_text(sample: Sample) -> str | None:
    if not sample.metadata:
        return None
    return json.dumps(sample.metadata, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)


def _storable(row: Unused) -> dict[str, Any]:
    """Returns the fields of an unused row with texts of bounded length that UTF-8 can hold; members stay whole."""
    fields = dataclasses.asdict(row)
    texts = {name: storable_text(text) for name, text in fields.items() if isinstance(text, str)}
    return fields | {name: text if name == "member" else text[:_MAX_TEXT_CHARS] for name, text in texts.items()}


def _unused_file(job: ShardJob, folder: str) -> str:
    return storage.join(job.folder, folder, f"{job.shard.name}.parquet")


class _UnusedRows:
    """The rejected and the filtered rows of a shard, written in the order of their places, a few thousand at a time.

    Attributes:
        filtered: how many rows were filtered, by filter.
        retryable: how many rejected rows may be readable later.
    """

    def __init__(self, job: ShardJob) -> None:
        """Opens nothing yet."""
        self._job = job
        self._held: list[tuple[int, Unused]] = []
        self._enough = _MOST_WAITING
        self._rows: dict[str, list[dict[str, Any]]] = {REJECTS: [], FILTERED: []}
        self._files: dict[str, pq.ParquetWriter] = {}
        self._stack = contextlib.ExitStack()
        self.filtered: collections.Counter[str] = collections.Counter()
        self.retryable = 0

    def __enter__(self) -> "_UnusedRows":
        """Opens both files, which get their names when they are whole."""
        with contextlib.ExitStack() as stack:
            for folder, schema in _UNUSED.items():
                writer = schemas.writer(_unused_file(self._job, folder), schema, self._job.metadata)
                self._files[folder] = stack.enter_context(writer)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Writes what is left and ends the files; after an error neither gets its name."""
        if error:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._enough = 0
            self.write(sys.maxsize)
            for folder in _UNUSED:
                self._write_group(folder)

    def add(self, place: int, row: Unused) -> None:
        """Takes a row that was found at a place of the source."""
        self._held.append((place, row))
        if isinstance(row, Filtered):
            self.filtered[row.filter] += 1
        else:
            self.retryable += row.retryable

    def write(self, end: int) -> None:
        """Writes the rows before a place, if there are enough of them; none before it may be added afterwards."""
        if len(self._held) < self._enough:
            return
        self._held.sort(key=lambda entry: entry[0])
        count = bisect.bisect_left(self._held, end, key=lambda entry: entry[0])
        for _, row in self._held[:count]:
            folder = REJECTS if isinstance(row, Reject) else FILTERED
            more = {"attempt": self._job.attempt} if folder == REJECTS else {}
            rows = self._rows[folder]
            rows.append({"source_shard": self._job.shard.container, **more, **_storable(row)})
            if len(rows) == schemas.ROW_GROUP_ROWS:
                self._write_group(folder)
        del self._held[:count]
        self._enough = len(self._held) + _MOST_WAITING

    def _write_group(self, folder: str) -> None:
        self._files[folder].write_table(pa.Table.from_pylist(self._rows[folder], schema=_UNUSED[folder]))
        self._rows[folder] = []
