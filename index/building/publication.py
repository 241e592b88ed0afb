"""Publishes an index of finished shards: measures it as a whole and writes its manifest.

    shards --curve--> point to search at, recall --publish--> manifest

See `build_job` for how shards are built, and `update` for how an index follows a changed memory.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from configs.base import Index as IndexConfig
from index.building.build_job import BuildJob
from index.measure import curve
from index.measure.curve import MeasuredShard
from index.measure.measurement import Queries
from index.store import index_manifest, shard_store
from index.store.records import Point, ShardRecord
from pipelines import storage
from pipelines.errors import UserError, command
from pipelines.manifest import Embeddings
from pipelines.schemas import EncoderInfo


def measured_shards(index: str, records: Sequence[ShardRecord]) -> Iterator[MeasuredShard]:
    """Yields what the curve needs of each shard of an index folder."""
    for record in records:
        yield MeasuredShard(record.settings, shard_store.read_lists(index, record), record.is_region)


def memory_facts(memory: Embeddings) -> dict[str, Any]:
    """Returns the manifest's entry for the memory, which later tells which of its shards have changed."""
    return {"snapshot": memory.snapshot, "rows": memory.rows, "shards": memory.shard_facts}


def published(job: BuildJob) -> dict[str, Any] | None:
    """Returns the manifest if an index is published.

    Raises:
        UserError: if a file of it is missing or damaged.
    """
    if not index_manifest.exists(job.index):
        return None
    facts = index_manifest.read(job.index)
    for file, known in facts["files"].items():
        shard_store.check_file(storage.join(job.index, file), known, f"run {command(index_manifest.STAGE)} again")
    for shard in facts["shards"]:
        for file, known in shard["files"].items():
            uri = storage.join(job.index, shard["path"], file)
            if not storage.exists(uri) or storage.size_bytes(uri) != known["bytes"]:
                raise UserError(f"{uri}: is missing or truncated; run web-memory reindex --compact to rebuild")
    return facts


def publish(job: BuildJob) -> dict[str, Any]:
    """Measures the whole index, publishes it as the first version or replaces the last, and returns the manifest."""
    memory = Embeddings(job.memory)
    return publish_of(job, memory_facts(memory), memory.encoder("key"))


def publish_of(
    job: BuildJob, memory: Mapping[str, Any], key_encoder: EncoderInfo, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Publishes as `publish` the index of rows that are in no folder of embeddings.

    Args:
        job: the build.
        memory: the manifest's entry for the rows.
        key_encoder: of the keys.
        more: entries of the manifest that other indexes have not.
    """
    done, config, queries = job.done(), job.config, job.read_queries()
    records = [done[name][0] for name in job.names]
    shards = list(measured_shards(job.index, records))
    points, chosen = curve.measure(shards, queries, config.k, config.target_recall)
    inputs = [path for path in (job.queries, job.router) if path]
    facts = {
        "config_hash": job.config_hash,
        "version": job.number,
        "parent": "",
        "base": job.number,
        "base_memory": memory["snapshot"],
        "memory": memory,
        "rows": sum(record.rows for record in records),
        "key_encoder": dataclasses.asdict(key_encoder),
        "sharding": config.sharding,
        "regions": job.shards,
        "shards": [dataclasses.asdict(record) for record in records],
        "files": {
            storage.join(shard_store.build_path(job.number), storage.name(path)): shard_store.file_facts(path)
            for path in inputs
        },
        "tombstones": 0,
        **judged(points, chosen, queries, config),
        **(more or {}),
    }
    secs = {record.path: done[record.name][1] for record in records}
    return index_manifest.write(job.index, facts, rates(points, chosen, shards, records, secs))


def judged(points: Sequence[Point], chosen: Point, queries: Queries, config: IndexConfig) -> dict[str, Any]:
    """Returns the manifest's entries for the search and its recall."""
    return {
        "search": dataclasses.asdict(chosen),
        "curve": [dataclasses.asdict(point) for point in points],
        "recall": {
            "k": config.k,
            "mean": chosen.recall[str(config.k)],
            "target": config.target_recall,
            "queries": len(queries.keys) - queries.tuning,
            "tuning_queries": queries.tuning,
            "of": "rows of the memory, each searched without itself" if queries.of_memory else "the val split",
        },
    }


def rates(
    points: Sequence[Point],
    chosen: Point,
    shards: Sequence[MeasuredShard],
    records: Sequence[ShardRecord],
    secs: dict[str, dict[str, list[float]]],
) -> dict[str, Any]:
    """Returns the timings: seconds of each shard, and queries/s of each point of the curve and of exact search.

    Args:
        points: of the curve.
        chosen: one of them.
        shards: the measured shards.
        records: of the same shards.
        secs: from each shard's marker, by its path.
    """

    def of(point: Point) -> float:
        spent = 0.0
        for shard, record in zip(shards, records, strict=True):
            setting = shard.setting(point)
            spent += shard.settings[setting].visits * secs[record.path]["search"][setting]
        return round(1 / max(spent, 1e-9), 1)

    queries = len(shards[0].lists.exact[0])
    exact = sum(secs[record.path]["exact"][0] for record in records)
    return {
        "queries_per_sec": of(chosen),
        "exact_queries_per_sec": round(queries / max(exact, 1e-9), 1),
        "curve_queries_per_sec": [of(point) for point in points],
        "secs": secs,
    }
