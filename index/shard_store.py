"""The index folder: how a shard is published, checked and loaded, and the manifest that names all of them.

    stage.json                      the configuration the folder belongs to (`pipelines.manifest.claim`)
    config.json                     the whole config of the last command; only for people to read
    shard-00000-of-00002/
        scann/.. or exact/..        what the searcher saved
        rows.parquet                id and content key of each local row
        measured.parquet            exact and found lists of the reported queries (`measurement.Lists`)
    _done/shard-00000-of-00002.json marker of a shard, written last
    manifest.json                   written when every shard is done

Nothing that is read names a place, so the folder can be moved. What is loaded is checked against the manifest first,
since a searcher given a damaged file may kill the process. How shards are built is left to `build_job`.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from index import searcher
from index.keys import Rows, content_keys
from index.measurement import Lists
from index.planner import Parameters, Plan
from index.searcher import Searcher
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import EncoderInfo

MANIFEST_FILE = "manifest.json"
STAGE = "index.build"
METRIC = "dot"
_ROWS_FILE, _MEASURED_FILE = "rows.parquet", "measured.parquet"
_ROWS_SCHEMA = pa.schema(
    [pa.field("id", pa.int64(), nullable=False), pa.field("content_key", pa.binary(32), nullable=False)]
)


@dataclasses.dataclass(frozen=True)
class ShardRecord:
    """What manifest and marker tell of a shard.

    Attributes:
        name: its folder.
        rows: keys in it.
        files: for each file, relative to the shard's folder, its `sha256` and `bytes`.
        plan: how it was built.
        parameters: how it is searched.
        recall: mean recall@k of its own lists on the reported queries.
    """

    name: str
    rows: int
    files: dict[str, dict[str, Any]]
    plan: Plan
    parameters: Parameters
    recall: float

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ShardRecord":
        """Reads what `dataclasses.asdict` made."""
        plan, parameters = Plan(**value["plan"]), Parameters(**value["parameters"])
        return cls(**{**value, "plan": plan, "parameters": parameters})


@dataclasses.dataclass(frozen=True)
class Shard:
    """A loaded shard.

    Attributes:
        searcher: with the tuned parameters.
        ids: int64 `[n]` of its rows.
        content_keys: bytes `S32` `[n]` of its rows.
    """

    searcher: Searcher
    ids: np.ndarray
    content_keys: np.ndarray

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns local rows `[Q, k]` and scores `[Q, k]`; row -1 pads, and `ids_of` maps it to id -1."""
        return self.searcher.search(queries, k)

    def ids_of(self, rows: np.ndarray) -> np.ndarray:
        """Returns the ids of local rows, -1 for -1."""
        return np.where(rows < 0, np.int64(-1), self.ids[rows])


def shard_names(shards: int) -> list[str]:
    """Returns the names of the shards of an index."""
    return [f"shard-{number:05d}-of-{shards:05d}" for number in range(shards)]


def marker_path(folder: str, name: str) -> str:
    """Returns where the marker of a shard is."""
    return storage.join(folder, manifest.MARKERS, f"{name}.json")


def _copy(source: str, target: str) -> None:
    with storage.open_read(source) as reader, storage.atomic_write(target) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


def write_contents(local: str, rows: Rows, lists: Lists, config_hash: str) -> None:
    """Writes what a shard holds beside its searcher into a local folder."""
    digests = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(32), len(rows.ids), [None, pa.py_buffer(rows.content_keys.tobytes())]
    )
    table = pa.Table.from_arrays([pa.array(rows.ids), digests], schema=_ROWS_SCHEMA)
    schemas.write(os.path.join(local, _ROWS_FILE), table, {"config_hash": config_hash})
    schemas.write(os.path.join(local, _MEASURED_FILE), lists.to_table(), {"config_hash": config_hash})


@contextlib.contextmanager
def new_shard(folder: str, name: str) -> Iterator[str]:
    """Yields a local folder whose contents become a shard of the index when the block ends without an error.

    It lies in the index itself, under a temporary name that `storage.remove_temporaries` knows; for an index that is
    not local it lies among the system's temporary files, and its contents are copied.
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
                _copy(os.path.join(local, file), storage.join(remote, file))


def _files(local: str) -> list[str]:
    return sorted(path.relative_to(local).as_posix() for path in pathlib.Path(local).rglob("*") if path.is_file())


def digests(local: str) -> dict[str, dict[str, Any]]:
    """Returns `sha256` and `bytes` of every file of a shard that is still local, as in `ShardRecord.files`."""
    paths = {file: os.path.join(local, file) for file in _files(local)}
    return {file: {"sha256": storage.sha256(path), "bytes": storage.size_bytes(path)} for file, path in paths.items()}


def write_marker(folder: str, record: ShardRecord, config_hash: str, secs: Mapping[str, float]) -> None:
    """Writes the marker of a shard that is published.

    Args:
        folder: of the index.
        record: of the shard.
        config_hash: of the index.
        secs: what took how long; in the marker only, since it differs from run to run.
    """
    marker = {"config_hash": config_hash, "shard": dataclasses.asdict(record), "secs": dict(secs)}
    storage.write_json(marker_path(folder, record.name), marker)


def read_marker(folder: str, name: str, config_hash: str) -> tuple[ShardRecord, dict[str, float]] | None:
    """Returns the record and the seconds of a shard that is done; nothing if it, or a file of it, is not there.

    Raises:
        UserError: if the marker is broken or belongs to another index.
    """
    path = marker_path(folder, name)
    if not storage.exists(path):
        return None
    marker = storage.read_json(path)
    try:
        theirs, record, secs = marker["config_hash"], ShardRecord.from_json(marker["shard"]), marker["secs"]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is not a marker of this version ({error}); remove it and run {STAGE} again"
        ) from error
    if theirs != config_hash:
        raise UserError(f"{path}: belongs to another index; remove it and run {STAGE} again")
    for file, facts in record.files.items():
        uri = storage.join(folder, name, file)
        if not storage.exists(uri) or storage.size_bytes(uri) != facts["bytes"]:
            return None
    return record, secs


def read_lists(folder: str, record: ShardRecord, config_hash: str) -> Lists:
    """Reads the lists that a shard was measured by."""
    path = storage.join(folder, record.name, _MEASURED_FILE)
    return Lists.from_table(schemas.read(path, Lists.COLUMNS, {"config_hash": config_hash}))


def write_manifest(folder: str, facts: Mapping[str, Any]) -> None:
    """Writes `manifest.json`, which ends with a fingerprint of its own contents.

    Args:
        folder: of the index.
        facts: of the index; `shards` as from `dataclasses.asdict`.
    """
    contents = {"schema_version": schemas.SCHEMA_VERSION, "metric": METRIC, **facts}
    storage.write_json(storage.join(folder, MANIFEST_FILE), {**contents, "fingerprint": manifest.fingerprint(contents)})


class Index:
    """A finished index.

    Attributes:
        folder: where it lies.
        facts: contents of the manifest.
        fingerprint: of the manifest, and through it of every file.
        key_encoder: the encoder that the memory's keys, and so the queries, are of.
        memory_snapshot: fingerprint of the memory that was indexed.
        shards: what is known of each shard.
    """

    def __init__(self, folder: str) -> None:
        """Opens an index without loading a shard.

        Raises:
            UserError: if it is not finished, or its manifest is damaged or belongs to another index.
        """
        path = storage.join(folder, MANIFEST_FILE)
        stage_path = storage.join(folder, manifest.STAGE_FILE)
        if not storage.exists(path) or not storage.exists(stage_path):
            raise UserError(f"{folder}: there is no finished index here; run {STAGE}, it goes on where it stopped")
        facts, identity = storage.read_json(path), storage.read_json(stage_path)
        try:
            contents = {name: value for name, value in facts.items() if name != "fingerprint"}
            if facts["fingerprint"] != manifest.fingerprint(contents):
                raise UserError(f"{path}: is damaged; remove it and run {STAGE} again")
            if facts["config_hash"] != manifest.fingerprint(identity):
                raise UserError(f"{path}: belongs to another index than {manifest.STAGE_FILE}; run {STAGE} again")
            if facts["schema_version"] != schemas.SCHEMA_VERSION:
                raise UserError(f"{path}: is of schema_version {facts['schema_version']}; run {STAGE} again")
            self.key_encoder = EncoderInfo(**facts["key_encoder"])
            self.memory_snapshot: str = facts["memory"]
            self.shards = [ShardRecord.from_json(shard) for shard in facts["shards"]]
            self._kind, self._config_hash = facts["searcher"], facts["config_hash"]
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is not a manifest of this version ({error}); run {STAGE} again") from error
        self.folder, self.facts, self.fingerprint = folder, facts, facts["fingerprint"]

    def load(self, number: int) -> Shard:
        """Checks and loads a shard, by its number.

        Raises:
            UserError: if a file is missing, damaged or of another index, or the searcher cannot run here.
        """
        record = self.shards[number]
        engine = searcher.kind(self._kind)
        with self._checked(record) as local:
            table = schemas.read(
                os.path.join(local, _ROWS_FILE), _ROWS_SCHEMA.names, {"config_hash": self._config_hash}
            )
            loaded = engine.load(os.path.join(local, self._kind), record.plan)
        return Shard(
            loaded.with_parameters(record.parameters), table["id"].to_numpy(), content_keys(table["content_key"])
        )

    @contextlib.contextmanager
    def _checked(self, record: ShardRecord) -> Iterator[str]:
        """Yields a local folder with the shard's files, every byte of them checked."""
        source = storage.join(self.folder, record.name)
        with contextlib.ExitStack() as stack:
            local = source
            if "://" in source:
                local = stack.enter_context(tempfile.TemporaryDirectory(prefix="web-memory-"))
                for file in record.files:
                    _copy(storage.join(source, file), os.path.join(local, file))
            for file, facts in record.files.items():
                path = os.path.join(local, file)
                if not storage.exists(path):
                    raise UserError(f"{source}/{file}: is missing; remove {source} and run {STAGE} again")
                if storage.size_bytes(path) != facts["bytes"] or storage.sha256(path) != facts["sha256"]:
                    raise UserError(f"{source}/{file}: is damaged; remove {source} and run {STAGE} again")
            yield local
