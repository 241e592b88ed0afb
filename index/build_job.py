"""Builds index shards as a Beam job, one shard a work item, and judges the index once all are there.

A work item reads its range of the memory, builds, saves and reloads the searcher, tunes and measures the reloaded
one, and publishes the shard. The layout of what is published is left to `shard_store`.
"""

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam

from configs.base import Config
from configs.base import Index as IndexConfig
from index import keys, limits, measurement, searcher, shard_store
from index.measurement import Queries
from index.shard_store import ShardRecord
from pipelines import manifest, runner, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.progress import Stage


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a worker needs to build a shard; names and numbers only.

    Attributes:
        folder: of the index.
        memory: folder of the memory.
        queries: folder that the measuring queries are drawn from; the memory's own where there is no other.
        config: of the index.
        seed: of the draw of queries.
        config_hash: of the index; set once its folder is claimed.
    """

    folder: str
    memory: str
    queries: str
    config: IndexConfig
    seed: int
    config_hash: str = ""

    @property
    def names(self) -> list[str]:
        """Names of the shards."""
        return shard_store.shard_names(self.config.shards)

    def read_queries(self) -> Queries:
        """Reads the measuring queries."""
        of_memory = self.queries == self.memory
        return measurement.read_queries(Embeddings(self.queries), of_memory, self.config.max_queries, self.seed)

    def done(self) -> dict[str, tuple[ShardRecord, dict[str, float]]]:
        """Returns the record and seconds of the shards that are done."""
        markers = {name: shard_store.read_marker(self.folder, name, self.config_hash) for name in self.names}
        return {name: marker for name, marker in markers.items() if marker}


def claim(config: Config) -> Job:
    """Checks what goes in and takes the index folder for it.

    Raises:
        UserError: if the memory is not there or empty, the queries are of another encoder, the config is impossible,
            or the folder belongs to another configuration.
    """
    index, memory = config.index, Embeddings(config.memory_dir)
    key = memory.encoder("key")
    _check(config, memory)
    source = _measured_on(config, memory)
    keys.require_same_encoder(key, source, config.index_dir)
    job = Job(config.index_dir, memory.folder, source.folder, index, config.seed)
    identity = {
        "memory": memory.snapshot,
        "key_encoder": dataclasses.asdict(key),
        "measured_on": source.snapshot,
        "seed": config.seed,
        **dataclasses.asdict(index),
    }
    job = dataclasses.replace(job, config_hash=manifest.claim(job.folder, shard_store.STAGE, identity))
    storage.write_json(storage.join(job.folder, "config.json"), dataclasses.asdict(config))
    return job


def _check(config: Config, memory: Embeddings) -> None:
    index = config.index
    searcher.kind(index.searcher)
    limits.require("seed", config.seed, 0)
    limits.require("index.leaves", index.leaves, 0)
    limits.require("index.max_queries", index.max_queries, 1)
    if not 0 < index.target_recall <= 1:
        raise UserError(f"--config.index.target_recall={index.target_recall}: must be above 0 and at most 1")
    if not memory.rows:
        raise UserError(f"{memory.folder}: holds no rows to index; its source is empty or all of it was rejected")
    limits.require("index.shards", index.shards, 1, memory.rows)
    limits.require("index.k", index.k, 1, memory.rows)


def _measured_on(config: Config, memory: Embeddings) -> Embeddings:
    """Returns the val split, or the memory where that is not embedded or has no rows."""
    val = config.queries_dir("val")
    if not storage.exists(storage.join(val, manifest.COMPLETE_FILE)):
        return memory
    split = Embeddings(val)
    return split if split.rows else memory


def build_shard(job: Job, number: int) -> None:
    """Builds, measures and publishes one shard."""
    config, memory = job.config, Embeddings(job.memory)
    begin, end = (s * memory.rows // config.shards for s in (number, number + 1))
    rows = keys.read_range(memory, begin, end)
    engine = searcher.kind(config.searcher)
    plan = engine.plan(len(rows.ids), rows.keys.shape[1], config)
    with shard_store.new_shard(job.folder, job.names[number]) as local:
        saved = os.path.join(local, config.searcher)
        os.makedirs(saved)
        start = time.perf_counter()
        engine.build(searcher.ArrayKeys(rows.keys), plan).save(saved)
        secs = {"build": time.perf_counter() - start}
        loaded = engine.load(saved, plan)
        parameters, lists, spent = measurement.tune_and_measure(loaded, rows, plan, job.read_queries(), config)
        shard_store.write_contents(local, rows, lists, job.config_hash)
        recall = round(float(lists.recall().mean()), 6)
        files = shard_store.digests(local)
    record = ShardRecord(job.names[number], len(rows.ids), files, plan, parameters, recall)
    shard_store.write_marker(job.folder, record, job.config_hash, secs | spent)


class BuildShard(beam.DoFn):
    """Builds shards by their number."""

    def __init__(self, job: Job) -> None:
        """Keeps what workers need."""
        self._job = job

    def process(self, number: int) -> Iterator[int]:
        """Builds one shard and yields its number."""
        build_shard(self._job, number)
        yield number


def build_missing(job: Job, beam_args: Sequence[str], stage: Stage) -> int:
    """Builds the shards that are not done; returns how many those were.

    Raises:
        UserError: as a worker raised it.
    """
    done = job.done()
    missing = [number for number, name in enumerate(job.names) if name not in done]
    if not missing:
        return 0
    # A manifest must not name shards that are being replaced, and a marker must not stand for a damaged one.
    storage.remove(storage.join(job.folder, shard_store.MANIFEST_FILE))
    for number in missing:
        storage.remove(shard_store.marker_path(job.folder, job.names[number]))
    storage.remove_temporaries(job.folder)

    rows = Embeddings(job.memory).rows

    def build(pipeline: beam.Pipeline) -> None:
        _ = (
            pipeline
            | "Shards" >> beam.Create(missing)
            | "Spread" >> beam.Reshuffle()
            | "Build" >> beam.ParDo(BuildShard(job))
        )

    def measure() -> tuple[float, int]:
        share = len(storage.files(storage.join(job.folder, manifest.MARKERS), ".json")) / len(job.names)
        return share, round(share * rows)

    runner.run(build, beam_args, stage, measure)
    return len(missing)


def finish(job: Job) -> tuple[dict[str, Any], dict[str, float]]:
    """Measures the whole index and writes its manifest; all shards must be done.

    Returns:
        The manifest's facts, and the seconds that all shards together took of each kind.
    """
    memory, done, config = Embeddings(job.memory), job.done(), job.config
    records = [done[name][0] for name in job.names]
    recalls = measurement.merge_lists(
        [shard_store.read_lists(job.folder, record, job.config_hash) for record in records]
    ).recall()
    of_memory = job.queries == job.memory
    tuning = min(Embeddings(job.queries).rows, config.max_queries) // 2
    facts = {
        "config_hash": job.config_hash,
        "memory": memory.snapshot,
        "rows": memory.rows,
        "key_encoder": dataclasses.asdict(memory.encoder("key")),
        "searcher": config.searcher,
        "shards": [dataclasses.asdict(record) for record in records],
        "recall": {
            "k": config.k,
            "mean": round(float(recalls.mean()), 6),
            "target": config.target_recall,
            "queries": len(recalls),
            "of": "rows of the memory, each searched without itself" if of_memory else "the val split",
            "tuning_queries": tuning if any(record.plan.leaves for record in records) else 0,
        },
    }
    shard_store.write_manifest(job.folder, facts)
    kinds = ("build", "tune", "search", "exact")
    return facts, {kind: sum(secs[kind] for _, secs in done.values()) for kind in kinds}
