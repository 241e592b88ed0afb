"""Builds the shards of an index as a Beam job, one shard a work item.

    memory shards --DealRows--> rows of each index shard --BuildShard--> shards

A work item builds its shard from Parquet in chunks, saves and reloads it, tunes and measures the reloaded one, and
gives the shard its name. An index of one shard reads the memory itself. The layout is left to `shard_store`, what makes
an index of the shards to `publication`.
"""

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from configs.base import Config
from configs.base import Index as IndexConfig
from index.building import partition_job
from index.engines import searcher
from index.measure import estimate, measurement
from index.measure.measurement import Queries
from index.store import index_manifest, keys, limits, routing, shard_store
from index.store.keys import KeyStream
from index.store.reader import ROUTER_FILE
from index.store.records import ShardRecord
from index.store.routing import Router
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.runner import Runner

QUERIES_FILE = "queries.parquet"
STAGE = "index.build"


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a worker needs to build a shard; names and numbers only.

    Attributes:
        index: folder of the index.
        number: of the build.
        memory: folder of the memory.
        config: of the index.
        seed: of what is drawn.
        shards: that are built.
        is_delta: whether they are added to an index that is there; their rows have been dealt out then.
        queries: file of the measuring queries.
        router: file of the cells; empty where shards are no regions.
        config_hash: of the index.
        build_hash: of this build's files.
    """

    index: str
    number: int
    memory: str
    config: IndexConfig
    seed: int
    shards: int
    is_delta: bool
    queries: str
    router: str
    config_hash: str
    build_hash: str

    @property
    def folder(self) -> str:
        """Folder of the build."""
        return storage.join(self.index, shard_store.build_path(self.number))

    @property
    def names(self) -> list[str]:
        """Names of the shards."""
        return shard_store.shard_names(self.shards)

    @property
    def metadata(self) -> dict[str, str]:
        """What every Parquet file of the build carries."""
        return {"config_hash": self.build_hash}

    def done(self) -> dict[str, tuple[ShardRecord, dict[str, list[float]]]]:
        """Returns the record and seconds of the shards that are done."""
        markers = {name: shard_store.read_marker(self.folder, name, self.build_hash) for name in self.names}
        return {name: marker for name, marker in markers.items() if marker}

    def read_queries(self) -> Queries:
        """Reads the measuring queries."""
        return Queries.from_table(schemas.read(self.queries, Queries.COLUMNS))

    def read_router(self) -> Router:
        """Reads the cells of the index."""
        if not self.router:
            return routing.without_regions(self.shards, 0)
        return Router.from_table(schemas.read(self.router, Router.COLUMNS), self.shards)

    def rows_of(self, number: int, groups: Sequence[str]) -> KeyStream:
        """Returns the rows of a shard: the whole memory's, or what was dealt to it."""
        memory = Embeddings(self.memory)
        if not self.is_delta and self.shards == 1:
            return keys.of_memory(memory)
        name = self.names[number]
        paths = [partition_job.part_path(self.folder, name, group) for group in sorted(groups)]
        return keys.of_files(paths, memory.encoder("key"), self.metadata, storage.join(self.folder, name))


def identity_of(config: Config) -> dict[str, Any]:
    """Returns what makes an index another one, beside the rows of its memory."""
    memory = Embeddings(config.memory_dir)
    return {"key_encoder": dataclasses.asdict(memory.encoder("key")), "seed": config.seed} | dataclasses.asdict(
        config.index
    )


def claim(config: Config, number: int = 0) -> Job:
    """Checks what goes in, takes the index folder for it, and draws queries and cells for a build.

    Args:
        config: of the whole line.
        number: of the build; 0 for that which the published index stands on, or the first.

    Raises:
        UserError: if the memory is not there or empty or has changed since the index was built, the queries are of
            another encoder, the config is impossible, or the folder belongs to another configuration.
    """
    index, memory = config.index, Embeddings(config.memory_dir)
    _check(config, memory)
    source = _measured_on(config, memory)
    keys.require_same_encoder(memory.encoder("key"), source, config.index_dir)
    config_hash = manifest.claim(config.index_dir, STAGE, identity_of(config))
    storage.write_json(storage.join(config.index_dir, "config.json"), dataclasses.asdict(config))
    published = index_manifest.read(config.index_dir) if index_manifest.exists(config.index_dir) else None
    if published and not number and published["memory"]["snapshot"] != memory.snapshot:
        raise UserError(f"{memory.folder}: has changed since {config.index_dir} was built; run index.reindex")
    number = number or (published["base"] if published else 1)
    base = published if published and published["base"] == number else None
    folder = storage.join(config.index_dir, shard_store.build_path(number))
    identity = {"index": config_hash, "memory": memory.snapshot, "measured_on": source.snapshot}
    if base:
        identity["memory"] = base["base_memory"]
        if source.folder == memory.folder:
            identity["measured_on"] = base["base_memory"]
    elif manifest.is_claimed_by_another(folder, STAGE, identity):
        # What a killed build left there is of a memory that is no more.
        storage.remove(folder)
    build_hash = manifest.claim(folder, STAGE, identity)
    # What is published keeps its shards, also where the memory has grown since and would have more.
    shards = base["regions"] if base else estimate.choose_shards(index, memory.rows, memory.encoder("key").dim)
    job = Job(
        index=config.index_dir,
        number=number,
        memory=memory.folder,
        config=index,
        seed=config.seed,
        shards=shards,
        is_delta=False,
        queries=storage.join(folder, QUERIES_FILE),
        router=storage.join(folder, ROUTER_FILE) if index.sharding == "routed" and shards > 1 else "",
        config_hash=config_hash,
        build_hash=build_hash,
    )
    if base and identity["memory"] != memory.snapshot:
        if len(job.done()) < len(job.names):
            raise UserError(f"{folder}: has lost shards of rows that have changed; run index.reindex --compact")
    if not storage.exists(job.queries):
        drawn = measurement.draw_queries(source, source.folder == memory.folder, index.max_queries, config.seed)
        schemas.write(job.queries, drawn.to_table(), job.metadata)
    if job.router and not storage.exists(job.router):
        sample = _sample(memory, shards)
        schemas.write(job.router, routing.fit(sample, shards, config.seed).to_table(), job.metadata)
    return job


# Shards of the memory that the cells are trained on: a sample of the rows of each, so that few files are read.
_SAMPLED_SHARDS = 256


def _sample(memory: Embeddings, shards: int) -> np.ndarray:
    """Returns keys from evenly spread shards of the memory to cut space by, at least one for each index shard."""
    numbers = [shard for shard, count in memory.shard_rows.items() if count]
    most = max(_SAMPLED_SHARDS, shards)
    drawn = [numbers[i] for i in np.unique(np.arange(most) * len(numbers) // most)]
    each = -(-routing.sample_rows(shards) // len(drawn))
    return np.concatenate([keys.of_memory(memory, (shard,)).sample(each) for shard in drawn])


def _check(config: Config, memory: Embeddings) -> None:
    if not memory.rows:
        raise UserError(f"{memory.folder}: holds no rows to index; its source is empty or all of it was rejected")
    limits.at_most_rows("index.shards", config.index.shards, memory.rows)
    limits.at_most_rows("index.k", config.index.k, memory.rows)


def _measured_on(config: Config, memory: Embeddings) -> Embeddings:
    """Returns the val split, or the memory where that is not embedded or has no rows."""
    val = config.queries_dir("val")
    if not storage.exists(storage.join(val, manifest.COMPLETE_FILE)):
        return memory
    split = Embeddings(val)
    return split if split.rows else memory


def build_shard(job: Job, number: int, groups: Sequence[str]) -> None:
    """Builds, measures and publishes one shard.

    Args:
        job: that it belongs to.
        number: of the shard.
        groups: that gave rows to it.
    """
    config, stream, name = job.config, job.rows_of(number, groups), job.names[number]
    # Space may have a region without rows; ScaNN has no searcher over nothing.
    kind = config.searcher if stream.rows else "exact"
    engine = searcher.kind(kind)
    plan = engine.plan(stream.rows, stream.dim, config)
    ids, images = stream.names()
    queries = job.read_queries()
    with shard_store.new_shard(job.folder, name) as local:
        saved = os.path.join(local, kind)
        os.makedirs(saved)
        start = time.perf_counter()
        engine.build(stream, plan).save(saved)
        secs = {"build": [time.perf_counter() - start]}
        visiting = nearness(job.read_router(), queries, number, job.is_delta)
        settings, lists, spent = measurement.measure_shard(
            engine.load(saved, plan), stream, ids, plan, queries, visiting, config
        )
        shard_store.write_contents(local, ids, images, lists, job.build_hash)
        files = shard_store.digests(local)
    path = storage.join(shard_store.build_path(job.number), name)
    record = ShardRecord(path, stream.rows, files, job.build_hash, kind, plan, settings, job.is_delta)
    shard_store.write_marker(job.folder, record, secs | spent)


def nearness(router: Router, queries: Queries, shard: int, is_delta: bool) -> np.ndarray:
    """Returns how many cells each query must probe to visit a shard, int64 `[Q]`; 0 where every query does."""
    if is_delta:
        return np.zeros(len(queries.keys), np.int64)
    cells = np.full(len(queries.keys), measurement.NEVER)
    for probe in reversed(router.probes):
        cells[router.visits(queries.keys, probe)[:, shard]] = probe
    return cells


class BuildShard(beam.DoFn):
    """Builds shards by their number."""

    def __init__(self, job: Job) -> None:
        """Keeps what workers need."""
        self._job = job

    def process(self, item: tuple[int, Iterable[str]]) -> Iterator[int]:
        """Builds one shard of the rows of some groups and yields its number."""
        number, groups = item
        build_shard(self._job, number, sorted(group for group in groups if group))
        yield number


def build_missing(job: Job, runner: Runner) -> int:
    """Builds the shards that are not done; returns how many those were.

    Raises:
        UserError: as a worker raised it.
    """
    done = job.done()
    missing = [number for number, name in enumerate(job.names) if name not in done]
    if not missing:
        return 0
    # A marker must not stand for a damaged shard.
    for number in missing:
        storage.remove(shard_store.marker_path(job.folder, job.names[number]))
    storage.remove_temporaries(job.folder)
    memory = Embeddings(job.memory)
    dealt = partition_job.groups(memory) if job.shards > 1 and not job.is_delta else []

    def build(pipeline: beam.Pipeline) -> None:
        # Every missing shard is built, be it of no rows at all.
        wanted = pipeline | "Shards" >> beam.Create([(number, "") for number in missing])
        if dealt:
            deal = partition_job.DealRows(job.folder, job.memory, job.names, job.read_router(), job.metadata)
            parts = (
                pipeline
                | "Groups" >> beam.Create(dealt)
                | "Spread groups" >> beam.Reshuffle()
                | "Deal" >> beam.ParDo(deal)
                | "Missing" >> beam.Filter(lambda part: part[0] in missing)
            )
            wanted = (wanted, parts) | beam.Flatten()
        _ = wanted | "By shard" >> beam.GroupByKey() | "Build" >> beam.ParDo(BuildShard(job))

    def measure() -> tuple[float, int]:
        built = len(storage.files(storage.join(job.folder, manifest.MARKERS), ".json")) / len(job.names)
        parts = storage.join(job.folder, partition_job.PARTS, manifest.MARKERS)
        read = len(storage.files(parts, ".json")) / len(dealt) if dealt else built
        return 0.2 * max(read, built) + 0.8 * built, round(built * memory.rows)

    runner.run(build, measure)
    storage.remove(storage.join(job.folder, partition_job.PARTS))
    return len(missing)
