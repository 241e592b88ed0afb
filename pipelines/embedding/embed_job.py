"""The embedding job as a Beam pipeline: shard names are spread over the workers, each shard is done in one place."""

import multiprocessing
import uuid

import apache_beam as beam
from apache_beam.utils.shared import Shared

from configs.base import Embed, Filters
from pipelines.embedding import shard_run
from pipelines.embedding.embed_plan import Folder
from pipelines.embedding.inference import ShardJob, Tools
from pipelines.embedding.shard_run import ShardLine
from pipelines.encoders.handles import EncoderSet, EncoderSpec, keep_freed_memory, one_thread_a_call
from pipelines.errors import UserError
from pipelines.filtering.opt_out import OptOut
from pipelines.filtering.row_filters import RowFilters
from pipelines.runner import Runner

_ROWS_PER_BYTE = 1 / 16_384


class EmbedShard(beam.DoFn):
    """Embeds shards; the encoders of a process are loaded once and shared by its threads."""

    def __init__(self, encoders: dict[str, EncoderSpec], embed: Embed, filters: Filters, processes: int) -> None:
        """Keeps what workers need.

        Args:
            encoders: of all columns that any shard asks for.
            embed: batch size and limits.
            filters: of the memory.
            processes: workers on each machine, which share its cores.
        """
        self._specs, self._embed, self._filters, self._processes = encoders, embed, filters, processes
        self._shared = Shared()

    def _threads(self) -> int:
        return self._embed.threads or max(1, multiprocessing.cpu_count() // self._processes)

    def _load(self) -> Tools:
        one_thread_a_call(self._threads())
        keep_freed_memory()
        opt_out = OptOut.load(self._filters.opt_out) if self._filters.opt_out else None
        return Tools(EncoderSet(self._specs), RowFilters(self._filters), opt_out)

    def start_bundle(self) -> None:
        """Loads what the process does not have yet."""
        tools = self._shared.acquire(self._load)
        self._line = ShardLine(tools, self._embed, self._threads())

    def process(self, job: ShardJob) -> None:
        """Embeds a shard; its last batches are written with the next one's."""
        self._line.add(job)

    def finish_bundle(self) -> None:
        """Writes what is left of the last shards."""
        self._line.finish()


def run(
    folders: list[Folder],
    encoders: dict[str, EncoderSpec],
    embed: Embed,
    filters: Filters,
    runner: Runner,
) -> None:
    """Embeds the pending shards of all folders; afterwards each folder knows its markers.

    Args:
        folders: outputs with their pending shards.
        encoders: of all columns.
        embed: batch size and limits.
        filters: of the memory.
        runner: of the command.
    """
    run_id = uuid.uuid4().hex[:12]
    jobs = [
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

    def build(pipeline: beam.Pipeline) -> None:
        _ = (
            pipeline
            | "Shards" >> beam.Create(jobs)
            | "Spread" >> beam.Reshuffle()
            | "Embed" >> beam.ParDo(EmbedShard(encoders, embed, filters, runner.processes))
        )

    def measure() -> tuple[float, int]:
        for folder in folders:
            folder.refresh()
        shards = [(shard, folder.done.get(shard.name)) for folder in folders for shard in folder.shards]
        done = sum(marker.rows_in for _, marker in shards if marker)
        # How many rows a tar holds is known when it is done; until then it is as dense as those that are.
        tars = [(shard.size_bytes, marker.rows_in) for shard, marker in shards if marker and not shard.rows]
        density = sum(rows for _, rows in tars) / max(sum(size for size, _ in tars), 1) or _ROWS_PER_BYTE
        left = sum(shard.rows or shard.size_bytes * density for shard, marker in shards if not marker)
        now = done + sum(shard_run.in_flight.values())
        return min(now / max(done + left, 1), 1.0), now

    runner.run(build, measure)
    measure()
    if missing := [(folder, shard) for folder in folders for shard in folder.pending]:
        folder, shard = missing[0]
        raise UserError(
            f"{folder.path}: {len(missing)} shards are missing after the job ({shard.name}); --config.workdir must be "
            "on storage that all workers and this machine reach"
        )
