"""Prepares a build: checks its inputs, claims the folders, and draws the measuring queries and the leaves of space."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from configs.base import Index as IndexConfig
from configs.base import Places
from index.building import partition_job
from index.building.build_job import QUERIES_FILE, BuildJob
from index.engines import searcher
from index.measure import estimate, measurement
from index.store import index_manifest, keys, routing, shard_store
from index.store.reader import ROUTER_FILE
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError, command
from pipelines.manifest import Embeddings

# What was drawn, until the build ends; afterwards the manifest knows.
_DRAWN_FILE = f"{partition_job.PARTS}/drawn.json"
# Memory shards that the leaves are trained on: a sample of the rows of each, so that few files are read.
SAMPLED_SHARDS = 256


def identity_of(memory: Embeddings, index: IndexConfig, seed: int) -> dict[str, Any]:
    """Returns what identifies an index, apart from the rows of its memory."""
    return {"key_encoder": dataclasses.asdict(memory.encoder("key")), "seed": seed} | dataclasses.asdict(index)


def claim_build(places: Places, index: IndexConfig, seed: int, number: int = 0, memory_folder: str = "") -> BuildJob:
    """Checks the inputs, claims the index folder, and draws queries and leaves for a build.

    Args:
        places: of memory, queries and index.
        index: config of the index.
        seed: for drawing queries.
        number: of the build; 0 for the base of the published index, or the first build.
        memory_folder: of the memory, if it is another than that of the places.

    Raises:
        UserError: if the memory is missing or empty or has changed since the index was built, the queries are from
            another encoder, the config is impossible, or the folder belongs to another configuration.
    """
    memory = Embeddings(memory_folder or places.memory)
    check(index, memory)
    source = _measured_on(places.queries("val"), memory)
    keys.require_same_encoder(memory.encoder("key"), source, places.index)
    manifest.release(places.index, index_manifest.STAGE, identity_of(memory, index, seed))
    config_hash = manifest.claim(places.index, index_manifest.STAGE, identity_of(memory, index, seed))
    manifest.write_config(places.index, places.config)
    number, base = _base_of(places.index, memory, number)
    folder = storage.join(places.index, shard_store.build_path(number))
    identity = {"index": config_hash, **_inputs(memory, source, base)}
    if not base and manifest.is_claimed_by_another(folder, index_manifest.STAGE, identity):
        # A build of an older memory was killed here.
        storage.remove(folder)
    build_hash = manifest.claim(folder, index_manifest.STAGE, identity)
    # A published index keeps its number of shards, even if the memory has grown since and would get more.
    shards = base["regions"] if base else estimate.choose_shards(index, memory.rows, memory.encoder("key").dim)
    job = BuildJob(
        index=places.index,
        number=number,
        memory=memory.folder,
        config=index,
        seed=seed,
        shards=shards,
        is_delta=False,
        queries=storage.join(folder, QUERIES_FILE),
        router=storage.join(folder, ROUTER_FILE) if index.sharding == "routed" and shards > 1 else "",
        config_hash=config_hash,
        build_hash=build_hash,
    )
    if identity["memory"] != memory.snapshot and len(job.done()) < len(job.names):
        raise UserError(f"{folder}: has lost shards whose rows have changed; run web-memory reindex --compact")
    _draw(job, memory, source, base)
    return job


def check(index: IndexConfig, memory: Embeddings) -> None:
    """Raises a `UserError` if a memory has too few rows for an index, or a searcher does not do what is asked."""
    if not memory.rows:
        raise UserError(f"{memory.folder}: has no rows to index; its source is empty or all rows were rejected")
    if index.shards > memory.rows:
        raise UserError(f"--config.index.shards={index.shards}: must be at most {memory.rows}, the rows of the memory")
    searcher.kind(index.searcher).plan(memory.rows, memory.encoder("key").dim, index)


def _measured_on(val: str, memory: Embeddings) -> Embeddings:
    """Returns the val split, or the memory if the split is not embedded or has no rows."""
    if not storage.exists(storage.join(val, manifest.COMPLETE_FILE)):
        return memory
    split = Embeddings(val)
    return split if split.rows else memory


def _base_of(index: str, memory: Embeddings, number: int) -> tuple[int, Mapping[str, Any] | None]:
    """Returns the number of the build, and the published manifest if this build is its base.

    Args:
        index: folder of the index.
        memory: as it is now.
        number: of the build; 0 to choose.

    Raises:
        UserError: if the number is to be chosen and the published index is of an older memory.
    """
    published = index_manifest.read(index) if index_manifest.exists(index) else None
    if not published:
        return number or 1, None
    if not number and published["memory"]["snapshot"] != memory.snapshot:
        raise UserError(f"{memory.folder}: has changed since {index} was built; run web-memory reindex")
    number = number or published["base"]
    return number, published if published["base"] == number else None


def _inputs(memory: Embeddings, source: Embeddings, base: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns the snapshots of the rows that are indexed and of those that are searched for to measure it."""
    indexed = base["base_memory"] if base else memory.snapshot
    return {"memory": indexed, "measured_on": indexed if source.folder == memory.folder else source.snapshot}


def _draw(job: BuildJob, memory: Embeddings, source: Embeddings, base: Mapping[str, Any] | None) -> None:
    """Draws the measuring queries and the leaves, unless they have been drawn for this build.

    Raises:
        UserError: if one of the files is damaged or of another build.
    """
    path, again = storage.join(job.folder, _DRAWN_FILE), f"run {command(index_manifest.STAGE)} again"
    if base:
        drawn = {storage.name(file): facts for file, facts in base["files"].items()}
    elif storage.exists(path):
        shape = {"files": {str: {"sha256": str, "bytes": int}}}
        drawn = schemas.read_json(path, shape, f"remove it and {again}")["files"]
    else:
        drawn = {}
    for uri in filter(None, (job.queries, job.router)):
        if storage.name(uri) not in drawn or not storage.exists(uri):
            table = _queries(job, memory, source) if uri == job.queries else _leaves(job, memory)
            schemas.write(uri, table, job.metadata)
        if storage.name(uri) in drawn:
            shard_store.check_file(uri, drawn[storage.name(uri)], again)
    if not drawn and len(job.done()) < len(job.names):
        uris = [uri for uri in (job.queries, job.router) if uri]
        storage.write_json(path, {"files": {storage.name(uri): shard_store.file_facts(uri) for uri in uris}})


def _queries(job: BuildJob, memory: Embeddings, source: Embeddings) -> pa.Table:
    is_memory = source.folder == memory.folder
    return measurement.draw_queries(source, is_memory, job.config.max_queries, job.seed).to_table()


def _leaves(job: BuildJob, memory: Embeddings) -> pa.Table:
    config, dim = job.config, memory.encoder("key").dim
    leaves = estimate.region_leaves(config, memory.rows, dim, job.shards)
    sample = _sample(memory, job.shards, routing.SAMPLE_ROWS_PER_LEAF * leaves)
    queries = job.read_queries().keys[: routing.SHARE_QUERIES]
    return routing.fit(sample, job.shards, leaves, queries, len(sample) / memory.rows, config.k).to_table()


def _sample(memory: Embeddings, shards: int, rows: int) -> np.ndarray:
    """Returns keys from evenly spread memory shards to cut space by, from at least as many as index shards."""
    numbers = [shard for shard, count in memory.shard_rows.items() if count]
    most = max(SAMPLED_SHARDS, shards)
    drawn = [numbers[i] for i in np.unique(np.arange(most) * len(numbers) // most)]
    each = -(-rows // len(drawn))
    return np.concatenate([keys.of_memory(memory, (shard,)).sample(each) for shard in drawn])
