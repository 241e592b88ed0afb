"""Finishes embedded folders: decides which rows of the memory are used, then writes what makes the folders readable.

Queries come first, since what they hold decides which rows of the memory may be used. How rows are compared is left to
`pipelines.filtering`.
"""

from collections.abc import Mapping

from configs.base import Config, Filters
from pipelines import manifest, storage
from pipelines.embedding.embed_plan import Folder
from pipelines.errors import UserError
from pipelines.filtering import selection
from pipelines.filtering.selection import Job, MemoryShards, Selection
from pipelines.manifest import Embeddings
from pipelines.runner import Runner


def complete(folders: list[Folder], filters: Filters, config: Config, runner: Runner) -> Selection:
    """Finishes the folders, of which the first is the memory, and returns its selection.

    Raises:
        UserError: if every row of the memory was dropped, or as `select`.
    """
    memory, *splits = folders
    for split in splits:
        manifest.complete(split.path, split.markers, split.config_hash)
    queries = {split.name: Embeddings(split.path) for split in splits}
    removed = config.removed_file if storage.exists(config.removed_file) else ""
    chosen = select(memory.shards_done(), queries, filters, config.seed, runner, removed)
    drops = {shard.name: manifest.Drops(sum(shard.dropped.values()), shard.sha256) for shard in chosen.shards}
    if sum(drop.rows for drop in drops.values()) == sum(marker.rows_out for marker in memory.markers):
        raise UserError(f"{memory.path}: every row was dropped ({counts(chosen.totals)}); check --config.filters")
    manifest.complete(memory.path, memory.markers, memory.config_hash, drops)
    return chosen


def counts(rows: Mapping[str, int]) -> str:
    """Returns counts as a summary shows them: `opt_out 3, leakage 12`."""
    return ", ".join(f"{name} {count:,}" for name, count in rows.items()) or "0 rows"


def _finished(job: Job) -> Selection | None:
    if not storage.exists(storage.join(job.folder, selection.FILE)):
        return None
    found = selection.read(job.memory.folder)
    there = {storage.name(path) for path in storage.files(job.folder, ".parquet")}
    is_ours = found.identity == job.identity and {f"{shard.name}.parquet" for shard in found.shards} <= there
    return found if is_ours else None


def select(
    memory: MemoryShards,
    splits: Mapping[str, Embeddings],
    filters: Filters,
    seed: int,
    runner: Runner,
    removed: str = "",
) -> Selection:
    """Makes the selection of a memory, unless the same has been made already.

    Args:
        memory: with all its shards.
        splits: those that are embedded.
        filters: `opt_out` with its whole path.
        seed: of the config.
        runner: not used if no filter is on.
        removed: the list of what was removed for good; empty for none.

    Raises:
        UserError: as `plan`, or as a worker raised it.
    """
    job = selection.plan(memory, splits, filters, seed, removed)
    if finished := _finished(job):
        return finished
    # First of all, so that no half of a selection is ever taken for one.
    storage.remove(storage.join(memory.folder, manifest.COMPLETE_FILE))
    storage.remove(storage.join(job.folder, selection.FILE))
    storage.remove(job.folder)
    if job.is_idle or not memory.shards:
        selection.write(job, [], [])
    else:
        from pipelines.filtering import selection_job

        selection_job.run(job, runner)
    return selection.read(memory.folder)
