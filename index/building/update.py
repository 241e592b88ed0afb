"""Brings a published index up to its memory: removed rows become tombstones, new rows shards of their own (deltas).

    memory shards that differ --compare--> rows that are gone, rows that are new
    rows that are new --BuildShard--> delta shards --publish--> manifest of the next version

What differs is told by the manifest: of a memory shard with the same bytes only the rows that are dropped or no longer
dropped, of one with other bytes every row. Shards that are there are not touched. The new version is searched as the
version before; whether it is good enough is left to the caller, how it is measured to `remeasure`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from configs.base import Config
from index.building import build_job, partition_job, publication, remeasure
from index.building.build_job import BuildShard, Job
from index.measure import curve
from index.store import index_manifest, shard_store
from index.store.keys import COLUMNS
from index.store.reader import TOMBSTONE_COLUMNS, TOMBSTONES_FILE, Index
from index.store.records import ShardRecord
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.runner import Runner

_STAGE = "index.update"
_GROUP = "00000"
_TOMBSTONES = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("content_key", pa.binary(32), nullable=False),
    ]
)
assert tuple(_TOMBSTONES.names) == TOMBSTONE_COLUMNS


@dataclasses.dataclass(frozen=True)
class Difference:
    """How the rows of a memory differ from those that can be found.

    Attributes:
        gone: of the number of each index shard that loses rows these rows, int64, ascending.
        new: of the number of each memory shard that brings rows their ids, int64, ascending.
    """

    gone: dict[int, np.ndarray]
    new: dict[int, np.ndarray]

    @property
    def removed(self) -> int:
        """Rows that are gone."""
        return sum(map(len, self.gone.values()))

    @property
    def added(self) -> int:
        """Rows that are new."""
        return sum(map(len, self.new.values()))


def compare(index: Index, memory: Embeddings) -> Difference:
    """Finds the rows that an index lacks or has too many, reading only shards of the memory that have changed.

    Args:
        index: that is published.
        memory: as it is now.
    """
    then, now = index.facts["memory"]["shards"], memory.shard_facts
    changed = {name for name in {*then, *now} if then.get(name) != now.get(name)}
    kept = {name for name in changed & then.keys() & now.keys() if then[name]["sha256"] == now[name]["sha256"]}
    # Rows that no change can touch are not looked at: of a memory that only grew, none.
    touched = np.unique([then[name]["number"] for name in changed & then.keys()]).astype(np.int64)
    wanted = {now[name]["number"]: _ids(memory, now[name]["number"]) for name in changed & now.keys()}
    same = np.concatenate([np.empty(0, np.int64), *(wanted[now[name]["number"]] for name in kept)])
    gone: dict[int, np.ndarray] = {}
    there = [np.empty(0, np.int64)]
    for number in range(len(index.shards)) if len(touched) else ():
        ids, _ = shard_store.read_names(index.folder, index.shards[number])
        live = np.ones(len(ids), bool)
        live[index.removed(number)] = False
        live &= np.isin(schemas.split_ids(ids)[0], touched)
        stays = live & np.isin(ids, same)
        there.append(ids[stays])
        if len(rows := np.flatnonzero(live & ~stays)):
            gone[number] = rows
    known = np.concatenate(there)
    fresh = {number: np.sort(ids[~np.isin(ids, known)]) for number, ids in sorted(wanted.items())}
    return Difference(gone, {number: ids for number, ids in fresh.items() if len(ids)})


def _ids(memory: Embeddings, shard: int) -> np.ndarray:
    return memory.read(shard, ["id"])["id"].to_numpy()


def run(config: Config, runner: Runner) -> tuple[dict[str, Any], Difference]:
    """Publishes the next version of an index, if its memory has changed.

    Args:
        config: of the whole line.
        runner: of the command.

    Returns:
        The manifest that is published now, and what was changed.

    Raises:
        UserError: if the index is of another configuration, damaged, or does not fit its memory.
    """
    index, memory = Index.open(config.index_dir), Embeddings(config.memory_dir)
    manifest.check_claim(config.index_dir, build_job.STAGE, build_job.identity_of(config))
    if index.memory_snapshot == memory.snapshot:
        return index.facts, Difference({}, {})
    difference = compare(index, memory)
    if (rows := index.rows - difference.removed + difference.added) != memory.rows:
        raise UserError(
            f"{index.folder}: would hold {rows:,} rows of the {memory.rows:,} of {memory.folder}; "
            "run index.reindex --compact to build anew"
        )
    job = _claim(config, index, memory, difference)
    done = _build_deltas(job, memory, difference, runner)
    return _publish(job, index, memory, difference, done), difference


def _claim(config: Config, index: Index, memory: Embeddings, difference: Difference) -> Job:
    """Takes the folder of the next version and says which deltas are to be built: as large as shards are on average."""
    number = index.version + 1
    folder = storage.join(index.folder, shard_store.build_path(number))
    identity = {"index": index.facts["config_hash"], "parent": index.fingerprint, "memory": memory.snapshot}
    if manifest.is_claimed_by_another(folder, _STAGE, identity):
        # What a killed command left there is of a memory or an index that is no more.
        storage.remove(folder)
    base = [shard.rows for shard in index.shards if not shard.is_delta]
    return Job(
        index=index.folder,
        number=number,
        memory=memory.folder,
        config=config.index,
        seed=config.seed,
        shards=-(-difference.added * len(base) // max(sum(base), 1)),
        is_delta=True,
        queries=storage.join(index.folder, remeasure.queries_path(index)),
        router="",
        config_hash=index.facts["config_hash"],
        build_hash=manifest.claim(folder, _STAGE, identity),
    )


_Done = dict[str, tuple[ShardRecord, dict[str, list[float]]]]


def _build_deltas(job: Job, memory: Embeddings, difference: Difference, runner: Runner) -> _Done:
    """Builds the deltas that are not done; returns the records and seconds of all."""
    done = job.done()
    missing = [number for number, name in enumerate(job.names) if name not in done]
    if missing:
        storage.remove_temporaries(job.folder)
        _deal(job, memory, difference)

        def build(pipeline: beam.Pipeline) -> None:
            items = [(number, (_GROUP,)) for number in missing]
            _ = pipeline | beam.Create(items) | "Spread" >> beam.Reshuffle() | "Build" >> beam.ParDo(BuildShard(job))

        def measure() -> tuple[float, int]:
            share = len(storage.files(storage.join(job.folder, manifest.MARKERS), ".json")) / job.shards
            return share, round(share * difference.added)

        runner.run(build, measure)
        done = job.done()
    storage.remove(storage.join(job.folder, partition_job.PARTS))
    return done


def _deal(job: Job, memory: Embeddings, difference: Difference) -> None:
    """Writes the new rows, in the global order, to a file for each delta."""
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
        yield table.filter(pa.array(np.isin(table["id"].to_numpy(), ids)))


def _publish(job: Job, index: Index, memory: Embeddings, difference: Difference, done: _Done) -> dict[str, Any]:
    """Measures the next version, publishes it, and returns its manifest."""
    old = index.facts
    records = [*index.shards, *(done[name][0] for name in job.names)]
    removed = {
        number: np.union1d(index.removed(number), difference.gone.get(number, np.empty(0, np.int64)))
        for number in range(len(index.shards))
    }
    removed = {number: rows for number, rows in removed.items() if len(rows)}
    files = {path: facts for path, facts in old["files"].items() if storage.name(path) != TOMBSTONES_FILE}
    if removed:
        path = storage.join(shard_store.build_path(job.number), TOMBSTONES_FILE)
        uri = storage.join(job.index, path)
        schemas.write(uri, _tombstones(index, removed), job.metadata)
        files[path] = shard_store.file_facts(uri)
    queries = job.read_queries()
    shards = remeasure.without_removed(index, records, removed, queries, memory)
    k, target = old["recall"]["k"], old["recall"]["target"]
    points, _ = curve.measure(shards, index.router.probes, queries, k, target)
    chosen = curve.point_at(shards, index.level, index.probe, queries, k)
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


def _tombstones(index: Index, removed: dict[int, np.ndarray]) -> pa.Table:
    """Returns the removed rows of all shards, by shard and row."""
    tables = [_TOMBSTONES.empty_table()]
    for number, rows in removed.items():
        record = index.shards[number]
        ids, images = shard_store.read_names(index.folder, record)
        digests = images[rows].tobytes()
        columns = [
            pa.array([record.path] * len(rows), pa.string()),
            pa.array(rows),
            pa.array(ids[rows]),
            pa.array([digests[i : i + 32] for i in range(0, len(digests), 32)], pa.binary(32)),
        ]
        tables.append(pa.Table.from_arrays(columns, schema=_TOMBSTONES))
    return pa.concat_tables(tables).combine_chunks()
