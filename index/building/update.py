"""Updates a published index to its memory: removed rows become tombstones, new rows shards of their own (deltas).

    memory shards that differ --compare--> rows that are gone, rows that are new
    rows that are new --BuildShard--> delta shards --publish--> manifest of the next version

Existing shards are not touched. The new version is searched with the settings of the old one. See `remeasure` for how
it is measured; the caller decides whether its recall is good enough.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from configs.base import Index as IndexConfig
from configs.base import Places
from index.building import partition_job, publication, remeasure
from index.building.build_job import BuildJob, BuildShard
from index.building.claim import identity_of
from index.building.difference import Difference, compare
from index.measure import curve
from index.store import index_manifest, shard_store
from index.store.keys import COLUMNS
from index.store.reader import TOMBSTONES, TOMBSTONES_FILE, Index
from index.store.records import ShardRecord
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.runner import Runner

_STAGE = "index.update"
_GROUP = "00000"


def run(places: Places, index: IndexConfig, seed: int, runner: Runner) -> tuple[dict[str, Any], Difference]:
    """Publishes the next version of an index if its memory has changed.

    Args:
        places: of memory and index.
        index: config of the index.
        seed: of the index.
        runner: of the command.

    Returns:
        The manifest that is now published, and what has changed.

    Raises:
        UserError: if the index has another configuration, is damaged, or does not fit its memory.
    """
    before, memory = Index.open(places.index), Embeddings(places.memory)
    manifest.check_claim(places.index, index_manifest.STAGE, identity_of(memory, index, seed))
    if before.memory_snapshot == memory.snapshot:
        return before.facts, Difference({}, {})
    difference = compare(before, memory)
    if (rows := before.rows - difference.removed + difference.added) != memory.rows:
        raise UserError(
            f"{before.folder}: would hold {rows:,} rows, but {memory.folder} has {memory.rows:,}; "
            "run web-memory reindex --compact to rebuild"
        )
    job = _claim(before, memory, difference, index, seed)
    done = _build_deltas(job, memory, difference, runner)
    return _publish(job, before, memory, difference, done), difference


def _claim(index: Index, memory: Embeddings, difference: Difference, config: IndexConfig, seed: int) -> BuildJob:
    """Claims the folder of the next version and plans its deltas, which are of the average size of a shard."""
    number = index.version + 1
    folder = storage.join(index.folder, shard_store.build_path(number))
    identity = {"index": index.facts["config_hash"], "parent": index.fingerprint, "memory": memory.snapshot}
    if manifest.is_claimed_by_another(folder, _STAGE, identity):
        # A command was killed here that updated to an older memory, or from an older index.
        storage.remove(folder)
    base = [shard.rows for shard in index.shards if not shard.is_delta]
    queries = remeasure.queries_path(index)
    shard_store.check_file(
        storage.join(index.folder, queries), index.facts["files"][queries], "run web-memory build again"
    )
    return BuildJob(
        index=index.folder,
        number=number,
        memory=memory.folder,
        config=config,
        seed=seed,
        shards=-(-difference.added * len(base) // max(sum(base), 1)),
        is_delta=True,
        queries=storage.join(index.folder, queries),
        router="",
        config_hash=index.facts["config_hash"],
        build_hash=manifest.claim(folder, _STAGE, identity),
    )


_Done = dict[str, tuple[ShardRecord, dict[str, list[float]]]]


def _build_deltas(job: BuildJob, memory: Embeddings, difference: Difference, runner: Runner) -> _Done:
    """Builds the unfinished deltas; returns the record and the seconds of every delta."""
    done = job.done()
    missing = [number for number, name in enumerate(job.names) if name not in done]
    storage.remove_temporaries(job.folder)
    if missing:
        _deal(job, memory, difference)

        def build(pipeline: beam.Pipeline) -> None:
            items = [(number, (_GROUP,)) for number in missing]
            _ = pipeline | beam.Create(items) | "Spread" >> beam.Reshuffle() | "Build" >> beam.ParDo(BuildShard(job))

        def measure() -> tuple[float, int]:
            share = len(storage.files(storage.join(job.folder, manifest.MARKERS), ".json")) / job.shards
            return share, round(share * difference.added)

        runner.run(build, measure, "building the first delta")
        done = job.done()
    storage.remove(storage.join(job.folder, partition_job.PARTS))
    return done


def _deal(job: BuildJob, memory: Embeddings, difference: Difference) -> None:
    """Writes the new rows, in the global order, to one file for each delta."""
    tables, waiting = _new_rows(memory, difference), None
    for number, name in enumerate(job.names):
        left = (number + 1) * difference.added // job.shards - number * difference.added // job.shards
        waiting = waiting or next(tables)
        path = partition_job.part_path(job.folder, name, _GROUP)
        with schemas.writer(path, waiting.schema.remove_metadata(), job.metadata) as parquet:
            while left:
                waiting = waiting if waiting is not None and waiting.num_rows else next(tables)
                part = waiting.slice(0, left)
                parquet.write_table(part.replace_schema_metadata(parquet.schema.metadata), schemas.ROW_GROUP_ROWS)
                waiting, left = waiting.slice(part.num_rows), left - part.num_rows


def _new_rows(memory: Embeddings, difference: Difference) -> Iterator[pa.Table]:
    for shard, ids in difference.new.items():
        table = memory.read(shard, list(COLUMNS))
        memory.check(shard)
        yield table.filter(pa.array(np.isin(table["id"].to_numpy(), ids)))


def _publish(job: BuildJob, index: Index, memory: Embeddings, difference: Difference, done: _Done) -> dict[str, Any]:
    """Measures the next version, publishes it, and returns its manifest."""
    old = index.facts
    records = [*index.shards, *(done[name][0] for name in job.names)]
    removed = _all_removed(index, difference)
    files = {path: facts for path, facts in old["files"].items() if storage.name(path) != TOMBSTONES_FILE}
    if removed:
        path = storage.join(shard_store.build_path(job.number), TOMBSTONES_FILE)
        uri = storage.join(job.index, path)
        schemas.write(uri, _tombstones(index, removed), job.metadata)
        files[path] = shard_store.file_facts(uri)
    queries = job.read_queries()
    shards = remeasure.without_removed(index, records, removed, queries, memory)
    k, target = old["recall"]["k"], old["recall"]["target"]
    points, _ = curve.measure(shards, queries, k, target)
    chosen = curve.point_at(shards, index.point, queries, k)
    facts = {
        **{name: value for name, value in old.items() if name not in ("fingerprint", "rates")},
        "version": job.number,
        "parent": index.fingerprint,
        "memory": publication.memory_facts(memory),
        "rows": memory.rows,
        "shards": [dataclasses.asdict(record) for record in records],
        "files": files,
        "tombstones": sum(map(len, removed.values())),
        **publication.judged(points, chosen, queries, job.config),
    }
    secs = {**old["rates"]["secs"], **{record.path: spent for record, spent in done.values()}}
    rates = publication.rates(points, chosen, shards, records, secs)
    return index_manifest.write(job.index, facts, rates)


def _all_removed(index: Index, difference: Difference) -> dict[int, np.ndarray]:
    """Returns the rows of each index shard that are gone now or were removed before, by the shard's number."""
    removed = {}
    for number in range(len(index.shards)):
        rows = np.union1d(index.removed(number), difference.gone.get(number, np.empty(0, np.int64)))
        if len(rows):
            removed[number] = rows
    return removed


def _tombstones(index: Index, removed: dict[int, np.ndarray]) -> pa.Table:
    """Returns the removed rows of all shards, by shard and row."""
    tables = [TOMBSTONES.empty_table()]
    for number, rows in removed.items():
        record = index.shards[number]
        ids, images = shard_store.read_names(index.folder, record)
        columns = [
            pa.array([record.path] * len(rows), pa.string()),
            pa.array(rows),
            pa.array(ids[rows]),
            schemas.digests(images[rows]),
        ]
        tables.append(pa.Table.from_arrays(columns, schema=TOMBSTONES))
    return pa.concat_tables(tables).combine_chunks()
