"""How an index shard is published, checked and loaded, and the layout of the index folder.

    stage.json                            the configuration that the folder belongs to (`pipelines.manifest.claim`)
    config.json                           the whole config of the last command, for people to read
    manifest.json                         the version that is searched (`index_manifest`), written last
    builds/00001/                         one build or update; never changed once a manifest names it
        stage.json                        its configuration and memory
        queries.parquet                   the queries that every later version is measured on
        router.parquet                    leaves of space and the shards that own them, if shards are regions
        tombstones.parquet                the removed rows of all builds, of an update
        shard-00000-of-00002/
            scann/.. or exact/..          files of the searcher
            rows.parquet                  id and content key of each local row
            exact.parquet, found.parquet  lists of the queries (`records.ShardLists`)
        _done/shard-00000-of-00002.json   marker of a shard, written last
        _parts/..                         until the build ends (`partition_job`)

No file contains an absolute path, so the folder can be moved. Files are checked against the manifest before they are
loaded, since a damaged file may make a searcher kill the process. See `build_job` for how shards are built.
"""

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from index.engines import searcher
from index.engines.planner import NO_TREE, Parameters, Plan
from index.engines.searcher import Searcher
from index.store import index_manifest
from index.store.records import ShardLists, ShardRecord
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError, command
from pipelines.schemas import content_keys

BUILDS = index_manifest.BUILDS
_AGAIN = f"run {command(index_manifest.STAGE)} again"
_REMEDY = f"{_AGAIN}, which builds the missing files"
_ROWS_FILE, _EXACT_FILE, _FOUND_FILE = "rows.parquet", "exact.parquet", "found.parquet"
_MARKER = {"shard": schemas.shape_of(ShardRecord), "secs": {str: [float]}}
_ROWS_SCHEMA = pa.schema(
    [pa.field("id", pa.int64(), nullable=False), pa.field("content_key", schemas.DIGEST, nullable=False)]
)


@dataclasses.dataclass(frozen=True)
class Shard:
    """A loaded shard.

    Attributes:
        searcher: with its search-time parameters.
        ids: int64 `[n]` of its rows.
        content_keys: bytes `S32` `[n]` of its rows.
        removed: bool `[n]`, rows that must not be found.
        plan: how it was built.
        parameters: those of the searcher.
    """

    searcher: Searcher
    ids: np.ndarray
    content_keys: np.ndarray
    removed: np.ndarray
    plan: Plan = NO_TREE
    parameters: Parameters = Parameters(0, 1, 1)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        more: int = 0,
        leaves: np.ndarray | None = None,
        shares: np.ndarray | None = None,
        parameters: Parameters | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns local rows and scores `[Q, k + more]`, including removed rows; -1 pads, and `ids_of` keeps it.

        Arguments as of `Searcher.search`, and parameters to search with instead of the searcher's.
        """
        engine = self.searcher if parameters is None else self.searcher.with_parameters(parameters)
        return engine.search(queries, k, more, leaves=leaves, shares=shares)

    def ids_of(self, rows: np.ndarray) -> np.ndarray:
        """Returns the ids of local rows, -1 for -1."""
        return np.where(rows < 0, np.int64(-1), self.ids[rows]) if len(self.ids) else np.full(rows.shape, -1)


def build_path(number: int) -> str:
    """Returns the folder of a build, below that of the index."""
    return f"{BUILDS}/{number:05d}"


def shard_names(shards: int) -> list[str]:
    """Returns the names of the shards of a build."""
    return [f"shard-{number:05d}-of-{shards:05d}" for number in range(shards)]


def marker_path(build: str, name: str) -> str:
    """Returns the path of a shard's marker."""
    return storage.join(build, manifest.MARKERS, f"{name}.json")


def write_contents(local: str, ids: np.ndarray, images: np.ndarray, lists: ShardLists, build_hash: str) -> None:
    """Writes a shard's rows and lists into a local folder, beside its searcher."""
    rows = pa.Table.from_arrays([pa.array(ids), schemas.digests(images)], schema=_ROWS_SCHEMA)
    tables = {_ROWS_FILE: rows, _EXACT_FILE: lists.exact_table(), _FOUND_FILE: lists.found_table()}
    for file, table in tables.items():
        schemas.write(os.path.join(local, file), table, {"config_hash": build_hash})


@contextlib.contextmanager
def new_shard(folder: str, name: str) -> Iterator[str]:
    """Yields a local folder whose contents become a shard of the index when the block ends without an error.

    It is in the index itself, under a temporary name that `storage.remove_temporaries` knows. For an index that is not
    local, it is among the system's temporary files, and its contents are copied.
    """
    target = storage.join(folder, name)
    if "://" not in target:
        with storage.atomic_folder(target) as local:
            yield local
        return
    with tempfile.TemporaryDirectory(prefix="web-memory-") as local:
        yield local
        with storage.atomic_folder(target) as remote:
            for file in _files(local):
                storage.copy(os.path.join(local, file), storage.join(remote, file))


def _files(local: str) -> list[str]:
    return sorted(path.relative_to(local).as_posix() for path in pathlib.Path(local).rglob("*") if path.is_file())


def digests(local: str) -> dict[str, dict[str, Any]]:
    """Returns `sha256` and `bytes` of every file of a local shard, as in `ShardRecord.files`."""
    paths = {file: os.path.join(local, file) for file in _files(local)}
    return {file: file_facts(path) for file, path in paths.items()}


def file_facts(uri: str) -> dict[str, Any]:
    """Returns `sha256` and `bytes` of a file."""
    return {"sha256": storage.sha256(uri), "bytes": storage.size_bytes(uri)}


def check_file(uri: str, facts: Mapping[str, Any], remedy: str) -> None:
    """Raises a `UserError` if a file is missing or differs from the manifest; `remedy` is a command to run."""
    if not storage.exists(uri):
        raise UserError(f"{uri}: is missing; {remedy}")
    if storage.size_bytes(uri) != facts["bytes"] or storage.sha256(uri) != facts["sha256"]:
        raise UserError(f"{uri}: is damaged; remove it and {remedy}")


def write_marker(build: str, record: ShardRecord, secs: Mapping[str, list[float]]) -> None:
    """Writes the marker of a finished shard.

    Args:
        build: folder of the build.
        record: of the shard.
        secs: timings; in the marker only, since they differ from run to run.
    """
    storage.write_json(marker_path(build, record.name), {"shard": dataclasses.asdict(record), "secs": {**secs}})


def read_marker(build: str, name: str, build_hash: str) -> tuple[ShardRecord, dict[str, list[float]]] | None:
    """Returns the record and the timings of a finished shard; None if it or one of its files is missing.

    Raises:
        UserError: if the marker is broken or belongs to another index.
    """
    path = marker_path(build, name)
    if not storage.exists(path):
        return None
    marker = schemas.read_json(path, _MARKER, f"remove it and {_AGAIN}")
    try:
        record, secs = ShardRecord.from_json(marker["shard"]), marker["secs"]
    except TypeError as error:
        raise UserError(f"{path}: is not a marker of this version ({error}); remove it and {_AGAIN}") from error
    if record.name != name:
        raise UserError(f"{path}: is the marker of {record.name}; remove it and {_AGAIN}")
    if record.build_hash != build_hash:
        raise UserError(f"{path}: belongs to another index; remove it and {_AGAIN}")
    for file, facts in record.files.items():
        uri = storage.inside(storage.join(build, name), file)
        if not storage.exists(uri) or storage.size_bytes(uri) != facts["bytes"]:
            return None
    return record, secs


def read_lists(folder: str, record: ShardRecord) -> ShardLists:
    """Checks and reads the lists that a shard was measured with."""
    tables = []
    for file, columns in ((_EXACT_FILE, ShardLists.EXACT_COLUMNS), (_FOUND_FILE, ShardLists.FOUND_COLUMNS)):
        path = storage.join(folder, record.path, file)
        check_file(path, record.files[file], _REMEDY)
        tables.append(schemas.read(path, columns, {"config_hash": record.build_hash}))
    exact, found = tables
    return ShardLists.from_tables(exact, found, len(record.settings), record.settings[0].parameters.k)


def read_names(folder: str, record: ShardRecord, remedy: str = _REMEDY) -> tuple[np.ndarray, np.ndarray]:
    """Checks and reads the ids, int64 `[n]`, and the content keys, bytes `S32` `[n]`, of a shard's rows."""
    path = storage.join(folder, record.path, _ROWS_FILE)
    check_file(path, record.files[_ROWS_FILE], remedy)
    table = schemas.read(path, _ROWS_SCHEMA.names, {"config_hash": record.build_hash})
    return table["id"].to_numpy(), content_keys(table["content_key"])


def load(folder: str, record: ShardRecord, parameters: Parameters, removed: np.ndarray, remedy: str = _REMEDY) -> Shard:
    """Checks and loads a shard.

    Args:
        folder: of the index.
        record: of the shard.
        parameters: to search it with.
        removed: int64, local rows that must not be found.
        remedy: what to do if a file is damaged, the end of the error's sentence.

    Raises:
        UserError: if a file is missing, damaged or of another index, or the searcher cannot run here.
    """
    engine = searcher.kind(record.searcher)
    with _checked(folder, record, remedy) as local:
        loaded = engine.load(os.path.join(local, record.searcher), record.plan).with_parameters(parameters)
    ids, images = read_names(folder, record, remedy)
    mask = np.zeros(len(ids), bool)
    mask[removed] = True
    return Shard(loaded, ids, images, mask, record.plan, parameters)


@contextlib.contextmanager
def _checked(folder: str, record: ShardRecord, remedy: str) -> Iterator[str]:
    """Yields a local folder with the files of a shard's searcher, all of them checked."""
    source = storage.join(folder, record.path)
    with contextlib.ExitStack() as stack:
        local = source
        if "://" in source:
            local = stack.enter_context(tempfile.TemporaryDirectory(prefix="web-memory-"))
        for file, facts in record.files.items():
            if not file.startswith(f"{record.searcher}/"):
                continue
            if local != source:
                storage.copy(storage.inside(source, file), storage.inside(local, file))
            check_file(storage.inside(local, file), facts, remedy)
        yield local
