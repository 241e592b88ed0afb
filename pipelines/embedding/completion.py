"""Finishes embedded folders: selects the memory rows that are used, then writes what makes the folders readable.

The splits come first, because their rows decide which rows of the memory may be used. How rows are compared is up to
`pipelines.filtering`.
"""

from collections.abc import Mapping, Sequence

from configs.base import Filters
from pipelines import manifest, storage
from pipelines.embedding.folders import Folder
from pipelines.embedding.request import Request
from pipelines.errors import UserError
from pipelines.filtering import leaks, selection
from pipelines.filtering.selection import MemoryShards, Selection, SelectionJob
from pipelines.manifest import Embeddings
from pipelines.runner import Runner
from pipelines.upkeep import removal


def complete(folders: Sequence[Folder], request: Request, runner: Runner) -> Selection:
    """Finishes the folders, of which the first is the memory, and returns its selection.

    Raises:
        UserError: if no row of the memory is left, or as `select`.
    """
    memory, *splits = folders
    for split in splits:
        manifest.complete(split.path, split.markers, split.config_hash, passed_over=split.passed_over)
    queries = {split.name: Embeddings(split.path) for split in splits}
    removed = removal.settled(request.places)
    chosen = select(memory.shards_done(), queries, request.filters, request.seed, runner, removed, names=request.names)
    drops = {shard.name: manifest.Drops(sum(shard.dropped.values()), shard.sha256) for shard in chosen.shards}
    if sum(drop.rows for drop in drops.values()) == sum(marker.rows_out for marker in memory.markers):
        why = leaks.advice(memory.path, chosen, sum(marker.rows_out for marker in memory.markers))
        raise UserError(
            f"{memory.path}: every row was dropped ({counts(chosen.totals)}); {why or 'check --config.filters'}"
        )
    manifest.complete(memory.path, memory.markers, memory.config_hash, drops, passed_over=memory.passed_over)
    return chosen


def counts(rows: Mapping[str, int]) -> str:
    """Returns counts by reason as text: `opt_out 3, leakage 12`; `0 rows` without any."""
    return ", ".join(f"{name} {count:,}" for name, count in rows.items()) or "0 rows"


def select(
    memory: MemoryShards,
    splits: Mapping[str, Embeddings],
    filters: Filters,
    seed: int,
    runner: Runner,
    removed: str = "",
    names: Sequence[str] = (),
) -> Selection:
    """Makes the selection of a memory, or returns the present one if it was made in the same way.

    Args:
        memory: with all its shards.
        splits: those that are embedded.
        filters: `opt_out` is a whole path.
        seed: of the config.
        runner: not used if no filter is on.
        removed: file of the digests of removed images; empty for none.
        names: of the classes, if the filters look for them in captions.

    Raises:
        UserError: as `selection.describe`, or as a worker raised it.
    """
    job = selection.describe(memory, splits, filters, seed, removed, names)
    if present := _present(job):
        return present
    # In this order, so that half a selection is never taken for a whole one.
    storage.remove(storage.join(memory.folder, manifest.COMPLETE_FILE))
    storage.remove(storage.join(job.folder, selection.FILE))
    storage.remove(job.folder)
    if job.is_idle or not memory.shards:
        selection.write(job)
    else:
        from pipelines.filtering import selection_job

        selection_job.run(job, runner)
    return selection.read(memory.folder)


def _present(job: SelectionJob) -> Selection | None:
    """Returns the stored selection if it has the job's identity and all its files."""
    if not storage.exists(storage.join(job.folder, selection.FILE)):
        return None
    stored = selection.read(job.memory.folder)
    files = {storage.name(path) for path in storage.files(job.folder, ".parquet")}
    is_ours = stored.identity == job.identity and {f"{shard.name}.parquet" for shard in stored.shards} <= files
    return stored if is_ours else None
