"""The embedding job as a Beam pipeline: names of shards are spread over workers, which embed whole shards."""

import functools
import multiprocessing
import uuid
from collections.abc import Mapping, Sequence

import apache_beam as beam
from apache_beam.utils.shared import Shared

from configs.base import Embed, Filters
from pipelines.embedding import shard_run
from pipelines.embedding.folders import Folder
from pipelines.embedding.inference import ShardJob, Tools
from pipelines.embedding.shard_run import ShardLine
from pipelines.encoders.handles import EncoderSpec
from pipelines.encoders.loaded import EncoderSet
from pipelines.encoders.process import keep_freed_memory, one_thread_a_call
from pipelines.errors import UserError
from pipelines.filtering.row_filters import RowFilters
from pipelines.filtering.unwanted.opt_out import OptOut
from pipelines.manifest import Marker
from pipelines.progress import counted
from pipelines.runner import Runner
from pipelines.sources import InputShard
from pipelines.sources.labels import Labels

_ROWS_PER_BYTE = 1 / 16_384


def run(
    folders: Sequence[Folder],
    encoders: Mapping[str, EncoderSpec],
    embed: Embed,
    filters: Filters,
    runner: Runner,
    names: Sequence[str] = (),
) -> None:
    """Embeds the pending shards of all folders; afterwards each folder knows its markers.

    Args:
        folders: outputs with their pending shards.
        encoders: of all columns.
        embed: batch size and limits.
        filters: of the memory.
        runner: of the command.
        names: of the classes, if the filters look for them in captions.

    Raises:
        UserError: as a worker raised it, or if outputs of the workers are missing.
    """
    jobs = _jobs(folders)
    labels = {folder.path: folder.labels for folder in folders if folder.labels}

    def build(pipeline: beam.Pipeline) -> None:
        _ = (
            pipeline
            | "Shards" >> beam.Create(jobs)
            | "Spread" >> beam.Reshuffle()
            | "Embed" >> beam.ParDo(EmbedShard(dict(encoders), embed, filters, runner.processes, labels, names))
        )

    runner.run(build, functools.partial(_measure, folders), "starting workers, loading encoders")
    _check_done(folders)


class EmbedShard(beam.DoFn):
    """Embeds shards; a process loads its encoders once, and its threads share them.

    Attributes:
        encoders: of all columns that any shard asks for.
        embed: batch size and limits.
    """

    def __init__(
        self,
        encoders: dict[str, EncoderSpec],
        embed: Embed,
        filters: Filters,
        processes: int,
        labels: Mapping[str, Labels],
        names: Sequence[str] = (),
    ) -> None:
        """Keeps what workers need.

        Args:
            encoders: of all columns that any shard asks for.
            embed: batch size and limits.
            filters: of the memory.
            processes: workers on each machine, which share its cores.
            labels: of each folder whose labels are names.
            names: of the classes, if the filters look for them in captions.
        """
        self.encoders, self.embed, self._filters, self._processes = encoders, embed, filters, processes
        self._labels, self._names = labels, tuple(names)
        self._shared = Shared()

    def start_bundle(self) -> None:
        """Loads what the process has not loaded yet."""
        tools = self._shared.acquire(self._load)
        self._line = ShardLine(tools, self.embed, self._threads())

    def process(self, job: ShardJob) -> None:
        """Embeds a shard; its last batches are written while the next shard is read."""
        self._line.add(job)

    def finish_bundle(self) -> None:
        """Writes the rest of the last shards."""
        self._line.finish()

    def _threads(self) -> int:
        return self.embed.threads or max(1, multiprocessing.cpu_count() // self._processes)

    def _load(self) -> Tools:
        one_thread_a_call(self._threads())
        keep_freed_memory()
        opt_out = OptOut.load(self._filters.opt_out) if self._filters.opt_out else None
        return Tools(EncoderSet(self.encoders), RowFilters(self._filters, self._names), opt_out, self._labels)


def _jobs(folders: Sequence[Folder]) -> list[ShardJob]:
    run_id = uuid.uuid4().hex[:12]
    return [
        ShardJob(
            shard,
            folder.path,
            folder.config_hash,
            run_id,
            folder.encoders,
            folder.is_memory,
            folder.attempts.get(shard.name, 1),
        )
        for folder in folders
        for shard in folder.pending
    ]


def _measure(folders: Sequence[Folder]) -> tuple[float, int]:
    """Returns the share of rows that are done, and their number, from the markers on storage."""
    for folder in folders:
        folder.refresh()
    pairs = [
        (shard, folder.done[shard.name]) for folder in folders for shard in folder.shards if shard.name in folder.done
    ]
    done = sum(marker.rows_in for _, marker in pairs)
    left = _rows_left([shard for folder in folders for shard in folder.pending], pairs)
    now = done + sum(shard_run.in_flight.values())
    return min(now / max(done + left, 1), 1.0), now


def _rows_left(pending: Sequence[InputShard], done: Sequence[tuple[InputShard, Marker]]) -> float:
    """Estimates the rows of pending shards; files with an unknown number count as dense as the files done so far."""
    files = [(shard.size_bytes, marker.rows_in) for shard, marker in done if not shard.rows]
    density = sum(rows for _, rows in files) / max(sum(size for size, _ in files), 1) or _ROWS_PER_BYTE
    return sum(shard.rows or shard.size_bytes * density for shard in pending)


def _check_done(folders: Sequence[Folder]) -> None:
    """Raises a `UserError` if a shard is still pending after the job."""
    for folder in folders:
        folder.refresh()
    if missing := [(folder, shard) for folder in folders for shard in folder.pending]:
        folder, shard = missing[0]
        raise UserError(
            f"{folder.path}: lacks {counted(len(missing), 'shard')} after the job ({shard.name}); --config.workdir "
            "must be on storage that all workers and this machine reach"
        )
