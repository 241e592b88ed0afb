"""Builds the shards of an index as a Beam job; each shard is one work item.

    memory shards --DealRows--> rows of each index shard --BuildShard--> shards

A work item reads its shard from Parquet in chunks, builds, saves and reloads it, tunes and measures the reloaded
searcher, and publishes the shard. An index of one shard reads the memory directly. See `shard_store` for the layout,
`claim` for what happens before, and `publication` for how shards become an index.
"""

import dataclasses
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam

from configs.base import Index as IndexConfig
from index.building import partition_job
from index.engines import planner, searcher
from index.engines.planner import Parameters
from index.measure import measurement
from index.measure.measurement import Queries, Region
from index.store import keys, routing, shard_store
from index.store.keys import KeyStream
from index.store.records import ShardRecord
from index.store.routing import Router
from pipelines import manifest, schemas, storage
from pipelines.manifest import Embeddings
from pipelines.runner import Runner

QUERIES_FILE = "queries.parquet"


@dataclasses.dataclass(frozen=True)
class BuildJob:
    """All that a worker needs to build a shard; names and numbers only.

    Attributes:
        index: folder of the index.
        number: of the build.
        memory: folder of the memory.
        config: of the index.
        seed: for drawing queries.
        shards: number of shards to build.
        is_delta: whether the shards are added to an existing index; their rows have then been dealt out already.
        queries: file of the measuring queries.
        router: file of the leaves; empty if shards are not regions.
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
        """Returns the record and the seconds of each finished shard, by name."""
        markers = {name: shard_store.read_marker(self.folder, name, self.build_hash) for name in self.names}
        return {name: marker for name, marker in markers.items() if marker}

    def read_queries(self) -> Queries:
        """Reads the measuring queries."""
        return Queries.from_table(schemas.read(self.queries, Queries.COLUMNS))

    def read_router(self) -> Router:
        """Reads the leaves of the index."""
        if not self.router:
            return routing.without_regions(self.shards, 0)
        return Router.from_table(schemas.read(self.router, Router.COLUMNS), self.shards)

    def region(self, number: int) -> Region | None:
        """Returns what a shard is searched by if it is a region."""
        if not self.router:
            return None
        router, k = self.read_router(), self.config.k
        # Only ScaNN re-ranks.
        factors = planner.REGION_FACTORS if self.config.searcher == "scann" else (1,)
        parameters = [Parameters(leaves, math.ceil(k * factor), k) for leaves in router.steps for factor in factors]
        return Region(router, number, parameters)

    def rows_of(self, number: int, groups: Sequence[str]) -> KeyStream:
        """Returns the rows of a shard: those of the whole memory, or those dealt to it."""
        memory = Embeddings(self.memory)
        if not self.is_delta and self.shards == 1:
            return keys.of_memory(memory)
        name = self.names[number]
        paths = [partition_job.part_path(self.folder, name, group) for group in sorted(groups)]
        return keys.of_files(paths, memory.encoder("key"), self.metadata, storage.join(self.folder, name))


def build_shard(job: BuildJob, number: int, groups: Sequence[str]) -> None:
    """Builds, measures and publishes one shard.

    Args:
        job: the build it belongs to.
        number: of the shard.
        groups: those that dealt rows to it.
    """
    config, stream, name = job.config, job.rows_of(number, groups), job.names[number]
    # Space may have a region without rows; ScaNN has no searcher over nothing.
    kind = config.searcher if stream.rows else "exact"
    engine = searcher.kind(kind)
    plan = engine.plan(stream.rows, stream.dim, config)
    region, centres = job.region(number), None
    if region and plan.leaves:
        centres = region.router.leaves_of(number)
        plan = dataclasses.replace(plan, leaves=len(centres))
    ids, images = stream.names()
    queries = job.read_queries()
    with shard_store.new_shard(job.folder, name) as local:
        saved = os.path.join(local, kind)
        os.makedirs(saved)
        start = time.perf_counter()
        engine.build(stream, plan, centres=centres).save(saved)
        secs = {"build": [time.perf_counter() - start]}
        loaded = engine.load(saved, plan)
        settings, lists, spent = measurement.measure_shard(loaded, stream, ids, plan, queries, config, region)
        shard_store.write_contents(local, ids, images, lists, job.build_hash)
        files = shard_store.digests(local)
    path = storage.join(shard_store.build_path(job.number), name)
    is_region = region is not None
    record = ShardRecord(path, stream.rows, files, job.build_hash, kind, plan, settings, job.is_delta, is_region)
    shard_store.write_marker(job.folder, record, secs | spent)


class BuildShard(beam.DoFn):
    """Builds shards by their number."""

    def __init__(self, job: BuildJob) -> None:
        """Keeps what workers need."""
        self._job = job

    def process(self, item: tuple[int, Iterable[str]]) -> Iterator[int]:
        """Builds one shard from the rows of some groups and yields its number."""
        number, groups = item
        build_shard(self._job, number, sorted(group for group in groups if group))
        yield number


def build_missing(job: BuildJob, runner: Runner) -> int:
    """Builds the unfinished shards and returns their number.

    Raises:
        UserError: as a worker raised it.
    """
    done = job.done()
    missing = [number for number, name in enumerate(job.names) if name not in done]
    storage.remove_temporaries(job.folder)
    if missing:
        _build(job, missing, runner)
    # Also those of a command that was killed after its last shard.
    storage.remove(storage.join(job.folder, partition_job.PARTS))
    return len(missing)


def _build(job: BuildJob, missing: Sequence[int], runner: Runner) -> None:
    """Runs the Beam job that builds shards by their numbers."""
    # A marker must not stand for a damaged shard.
    for number in missing:
        storage.remove(shard_store.marker_path(job.folder, job.names[number]))
    memory = Embeddings(job.memory)
    dealt = partition_job.groups(memory) if job.shards > 1 and not job.is_delta else []

    def build(pipeline: beam.Pipeline) -> None:
        # Every missing shard is built, even one without rows.
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

    runner.run(build, measure, "building the first shard")
