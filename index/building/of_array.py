"""Builds an index of an array of vectors, without folders of Parquet: `Index.build` and `Index.save`.

It is an index of one shard like any other, in a folder of its own: its search is planned, built, tuned and measured by
the same job as a shard of a memory.
"""

import dataclasses
import hashlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from configs.base import Index as IndexConfig
from configs.schema.search import PRECISIONS
from index.building import build_job, publication
from index.building.build_job import QUERIES_FILE, BuildJob
from index.engines import planner
from index.engines import searcher as engines
from index.engines.searcher import CHUNK_ROWS
from index.measure.measurement import Queries
from index.measure.recall import recall_at_k
from index.store import arguments, index_manifest, shard_store, versions
from index.store.keys import KeyStream
from index.store.reader import NORMALISED, Index
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError, nearest
from pipelines.nearest_neighbors import leave_out
from pipelines.schemas import EncoderInfo

_SEED = 0
_STAGE = index_manifest.ARRAY_STAGE


@dataclasses.dataclass(frozen=True)
class _ArrayJob(BuildJob):
    """A build whose rows are those of an array."""

    keys: KeyStream

    def rows_of(self, number: int, groups: Sequence[str]) -> KeyStream:
        """Returns all rows, since there is one shard."""
        return self.keys


def build(
    vectors: np.ndarray,
    *,
    recall: float,
    k: int,
    ids: np.ndarray | None,
    queries: np.ndarray | None,
    normalise: bool,
    searcher: str,
    reorder: str,
) -> Index:
    """Builds an index in a temporary folder that is deleted with it; arguments and errors as of `Index.build`."""
    for option, given, known in (("searcher", searcher, list(engines.KINDS)), ("reorder", reorder, PRECISIONS)):
        if given not in known:
            raise UserError(f"{option}={given!r}: unknown; {nearest(str(given), known)}")
    recall, k = arguments.recall(recall), arguments.count(k, 1)
    vectors = _filled(vectors, "the array")
    rows, dim = vectors.shape
    names = _names(ids, rows)
    digest = _checked(vectors, names, normalise)
    info = EncoderInfo(digest, dim, not normalise, "float32")
    k = min(k, rows)
    asked = _drawn(vectors, names, info) if queries is None else _given(queries, info)
    config = IndexConfig(searcher=searcher, shards=1, target_recall=recall, k=k, reorder=reorder)
    home = tempfile.TemporaryDirectory(prefix="web-memory-")
    identity = {"array": digest, "normalise": normalise, **dataclasses.asdict(config)}
    config_hash = manifest.claim(home.name, _STAGE, identity)
    folder = storage.join(home.name, shard_store.build_path(1))
    build_hash = manifest.claim(folder, _STAGE, {"index": config_hash})
    job = _ArrayJob(
        index=home.name,
        number=1,
        memory="",
        config=config,
        seed=_SEED,
        shards=1,
        is_delta=False,
        queries=storage.join(folder, QUERIES_FILE),
        router="",
        config_hash=config_hash,
        build_hash=build_hash,
        keys=_stream(vectors, names, info),
    )
    schemas.write(job.queries, asked.to_table(), job.metadata)
    build_job.build_shard(job, 0, ())
    memory = {"snapshot": digest, "rows": rows, "shards": {}}
    publication.publish_of(job, memory, info, {NORMALISED: normalise})
    index = Index.open(home.name)
    index.home = home
    if missed := _missed(index, asked, reorder):
        warnings.warn(missed, stacklevel=3)
    return index


def _missed(index: Index, queries: Queries, reorder: str) -> str:
    """Returns a sentence that says why the target was missed and what helps; empty if it was reached."""
    measured = index.facts["recall"]
    k, target = measured["k"], measured["target"]
    if measured["mean"] >= target:
        return ""
    said = f"recall@{k} is {measured['mean']:.4f}, below the target {target:g}"
    if any(point["recall"][str(k)] >= target for point in index.facts["curve"]):
        return f"{said}, by the chance of a sample of queries; ask for a somewhat higher recall, or give more queries"
    record, shard = index.shards[0], index.load(0)
    rows, scores = shard.searcher.search_rows(queries.keys, k + 1, np.arange(record.rows))
    ids = np.append(shard.ids, -1)[rows]
    found, _ = leave_out(ids, scores, ids == queries.own_ids[:, None], k)
    if recall_at_k(found, *shard_store.read_lists(index.folder, record).exact, k).mean() < target:
        if record.plan.leaves and reorder != "float32" and target <= planner.LEVELS[-1]:
            return f'{said}, since {reorder} vectors do not reach it even if all are compared; set reorder="float32"'
    return f'{said}, since the search of {record.searcher} ends there; set searcher="exact", which finds all'


def save(index: Index, folder: str) -> None:
    """Writes the version of an index that is open into a new folder; arguments and errors as of `Index.save`."""
    if storage.exists(storage.join(folder, index_manifest.FILE)) or storage.entries(folder):
        raise UserError(f"{folder}: is not empty; save the index in a new folder")
    if index_manifest.read(index.folder)["fingerprint"] != index.fingerprint:
        raise UserError(f"{index.folder}: another version has been published since it was opened; open it again")
    builds = [shard_store.build_path(int(name)) for name in versions.builds_of(index.facts)]
    stages = [storage.join(build, manifest.STAGE_FILE) for build in builds]
    known = versions.files_of(index.facts)
    with storage.atomic_folder(folder) as target:
        # The manifest comes last: without it, there is no index.
        for file in [manifest.STAGE_FILE, *stages, *known, index_manifest.FILE]:
            storage.copy(storage.join(index.folder, file), storage.join(target, file))
            if file in known:
                storage.check_sha256(storage.join(target, file), known[file], "build the index again")


def _filled(vectors: Any, name: str, dim: int | None = None) -> np.ndarray:
    """Returns vectors as `arguments.matrix`; a `UserError` if there are none."""
    found = arguments.matrix(vectors, name, dim)
    if not len(found):
        raise UserError(f"{name}: has no rows")
    return found


def _names(ids: Any, rows: int) -> np.ndarray:
    """Returns ids int64 `[n]`; a `UserError` if they are not one for each row, all different and not negative."""
    if ids is None:
        return np.arange(rows, dtype=np.int64)
    given = np.asarray(ids)
    if given.dtype.kind not in "iu" or given.shape != (rows,):
        raise UserError(f"ids: must be whole numbers of shape [{rows}], not {given.dtype} {list(given.shape)}")
    names = given.astype(np.int64)
    if (names < 0).any() or len(np.unique(names)) < rows:
        raise UserError("ids: must be different from each other, at least 0 and below 2**63")
    return names


def _checked(vectors: np.ndarray, names: np.ndarray, normalise: bool) -> str:
    """Returns the digest of vectors and ids; a `UserError` for the first vector that cannot be searched for."""
    digest = hashlib.sha256(f"{vectors.shape}".encode())
    digest.update(np.ascontiguousarray(names, "<i8").tobytes())
    # A few at a time, so that a mapped file is never in memory as a whole.
    for begin in range(0, len(vectors), CHUNK_ROWS):
        chunk = arguments.rows(vectors[begin : begin + CHUNK_ROWS], normalise)
        arguments.check(chunk, "the array", normalise, range(begin, begin + len(chunk)))
        digest.update(chunk.tobytes())
    return digest.hexdigest()[:16]


def _stream(vectors: np.ndarray, names: np.ndarray, info: EncoderInfo) -> KeyStream:
    """Returns the rows in the order of their ids, as those of a shard are: so lists of ties are ordered by id."""
    order = None if (np.diff(names) > 0).all() else np.argsort(names)
    field = pa.field("key", pa.list_(pa.float32(), info.dim))

    def blocks(columns: Sequence[str]) -> Iterator[pa.Table]:
        for begin in range(0, len(names), CHUNK_ROWS):
            part = slice(begin, begin + CHUNK_ROWS) if order is None else order[begin : begin + CHUNK_ROWS]
            made = {
                "id": lambda part=part: pa.array(names[part]),
                "content_key": lambda part=part: _content_keys(names[part]),
                "key": lambda part=part: schemas.fixed_list(arguments.rows(vectors[part], not info.normalized), field),
            }
            yield pa.table({column: made[column]() for column in columns})

    return KeyStream(len(names), info, "the array", blocks)


def _content_keys(names: np.ndarray) -> pa.Array:
    """Returns what stands for the digests of images: rows of an array have none, and no two may be the same."""
    digests = np.full((len(names), 32), 255, np.uint8)
    digests[:, 24:] = np.ascontiguousarray(names, ">i8").view(np.uint8).reshape(-1, 8)
    return schemas.digests(digests)


def _unit(vectors: np.ndarray, info: EncoderInfo) -> np.ndarray:
    return schemas.unit_keys(
        schemas.fixed_list(vectors, pa.field("", pa.list_(pa.float32(), info.dim))), info, "the queries"
    )


def _drawn(vectors: np.ndarray, names: np.ndarray, info: EncoderInfo) -> Queries:
    """Returns rows of the array to measure recall on, each searched without itself."""
    most = IndexConfig().max_queries
    drawn = np.random.default_rng(_SEED).permutation(len(vectors))[:most]
    # A mapped file is read in its own order.
    place = np.argsort(drawn)
    keys = np.empty((len(drawn), info.dim), np.float32)
    keys[place] = arguments.rows(vectors[drawn[place]], not info.normalized)
    return Queries(_unit(keys, info), names[drawn], len(drawn) // 2, True)


def _given(queries: Any, info: EncoderInfo) -> Queries:
    """Returns queries of the caller to measure recall on; a `UserError` if they are not of the array's space."""
    found = _filled(queries, "queries", info.dim)
    mixed = np.random.default_rng(_SEED).permutation(len(found))[: IndexConfig().max_queries]
    keys = arguments.rows(found[mixed], not info.normalized)
    arguments.check(keys, "queries", not info.normalized, mixed)
    return Queries(_unit(keys, info), np.full(len(keys), -1, np.int64), len(keys) // 2, False)
