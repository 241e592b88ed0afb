"""What makes a folder of outputs whole: the configuration it belongs to, the shards that are done, and their inputs.

A folder begins with `stage.json` (its configuration), collects `_done/{shard}.json` markers, and ends with
`complete.json`. Later stages read no folder without the last. `schemas` defines the rows.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import fields, schemas, storage
from pipelines.errors import UserError, command
from pipelines.schemas import EncoderInfo

STAGE_FILE = "stage.json"
COMPLETE_FILE = "complete.json"
MARKERS = "_done"
REJECTS = "_rejects"
FILTERED = "_filtered"
DROPPED = "_dropped"
LISTINGS = "_inputs"
INPUTS_FILE = "inputs.json"
# What a command writes before its first output: files by name, and folders with all that they hold.
_PREPARED = {
    *(STAGE_FILE, "config.json", INPUTS_FILE, LISTINGS, "_parts"),
    *("index.json", "queries.parquet", "router.parquet"),
}
# Entries of the manifest of an index that its fingerprint is not of.
_NOT_FACTS = ("fingerprint", "rates")
_MARKER_AGAIN = "remove it and run web-memory embed again"


def fingerprint(value: Any) -> str:
    """Returns a fingerprint of a JSON value, 16 hexadecimal digits, independent of the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _whole_identity(stage: str, identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema_version": schemas.SCHEMA_VERSION, "stage": stage, **json.loads(json.dumps(identity))}


def config_hash(stage: str, identity: Mapping[str, Any]) -> str:
    """Returns the fingerprint of a stage's configuration, which `claim` gives to every file in its folder."""
    return fingerprint(_whole_identity(stage, identity))


def read_identity(folder: str) -> dict[str, Any]:
    """Returns the identity of a claimed folder, from its `stage.json`; a `UserError` if it is missing or damaged."""
    path, again = storage.join(folder, STAGE_FILE), "remove it and run the same command again"
    value = storage.read_json(path, again)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is int and version < schemas.SCHEMA_VERSION:
        raise UserError(
            f"{folder}: is of schema_version {version}, this program reads {schemas.SCHEMA_VERSION}; "
            "set another --config.workdir or remove the folder"
        )
    return schemas.read_json(path, {"schema_version": int, "stage": str}, again)


def is_claimed_by_another(folder: str, stage: str, identity: Mapping[str, Any]) -> bool:
    """Tells whether an output folder belongs to another stage or configuration."""
    is_claimed = storage.exists(storage.join(folder, STAGE_FILE))
    return is_claimed and read_identity(folder) != _whole_identity(stage, identity)


def check_claim(folder: str, stage: str, identity: Mapping[str, Any]) -> None:
    """Raises a `UserError` that says what differs if an output folder belongs to another stage or configuration."""
    if not is_claimed_by_another(folder, stage, identity):
        return
    differs = fields.difference(read_identity(folder), _whole_identity(stage, identity))
    raise UserError(
        f"{folder}: belongs to another configuration, {differs}; set another --config.workdir or remove the folder"
    )


def release(folder: str, stage: str, identity: Mapping[str, Any]) -> None:
    """Ends the claim of another configuration on a folder if its command failed before its first output.

    Args:
        folder: the output folder; what such a command left there is deleted.
        stage: the stage that is going to claim it.
        identity: of that claim.
    """
    if is_claimed_by_another(folder, stage, identity) and not _has_outputs(folder):
        for entry in storage.entries(folder):
            storage.remove(storage.join(folder, entry.name))


def _has_outputs(folder: str) -> bool:
    """Tells whether a folder has any file but those that a command writes before its first output."""
    for entry in storage.entries(folder):
        if entry.name in _PREPARED or storage.TEMPORARY in entry.name:
            continue
        if entry.kind == "file" or _has_outputs(storage.join(folder, entry.name)):
            return True
    return False


def claim(folder: str, stage: str, identity: Mapping[str, Any]) -> str:
    """Claims an output folder for one configuration, or confirms that it has been claimed for it.

    Args:
        folder: the output folder.
        stage: the stage that writes it.
        identity: everything that determines its bytes, as JSON values.

    Returns:
        The fingerprint of the identity, the `config_hash` of every file in the folder.

    Raises:
        UserError: as `check_claim`.
    """
    check_claim(folder, stage, identity)
    path = storage.join(folder, STAGE_FILE)
    if not storage.exists(path):
        storage.write_json(path, _whole_identity(stage, identity))
    return config_hash(stage, identity)


def read_index(path: str, remedy: str = "remove it and run web-memory build again") -> dict[str, Any]:
    """Returns the manifest of an index (docs/contracts.md), whose fingerprint is that of all but its rates.

    Raises:
        UserError: if it is missing or damaged; the sentence ends with the remedy.
    """
    facts = storage.read_json(path, remedy)
    contents = {name: part for name, part in facts.items() if name not in _NOT_FACTS} if type(facts) is dict else {}
    if not contents or facts.get("fingerprint") != fingerprint(contents):
        raise UserError(f"{path}: is damaged; {remedy}")
    if where := schemas.misshapen(facts, {"schema_version": int, "config_hash": str, "metric": str, "shards": [dict]}):
        raise UserError(f"{path}: is not a manifest of this version ({where}); {remedy}")
    return dict(facts)


def write_config(folder: str, config: Mapping[str, Any]) -> None:
    """Writes the whole config beside the outputs of a folder, for people to read; no stage reads it."""
    storage.write_json(storage.join(folder, "config.json"), config)


@dataclasses.dataclass(frozen=True)
class Marker:
    """Says that an input shard is done; written last. Rows balance: in = out + rejected + filtered.

    Attributes:
        number: upper part of the ids of its rows.
        name: of its files, without suffix.
        uri: of the input.
        size_bytes: of the input.
        etag: of the input.
        rows_in: rows that the reader found.
        rows_out: rows that have vectors.
        rows_rejected: rows that cannot be read.
        output_sha256: of the Parquet file of vectors.
        config_hash: of the folder.
        run_id: of the command.
        secs: time that the shard took.
        rows_filtered: rows that a filter excludes by their own fields.
        filtered: number of filtered rows by filter.
        retryable: rejected rows that another attempt may be able to read.
        attempt: 1, or more after retries.
        output_footer: SHA-256 of that file's footer (`schemas.footer_sha256`).
        rejects_sha256: of the file of rejected rows.
        filtered_sha256: of the file of filtered rows.
    """

    number: int
    name: str
    uri: str
    size_bytes: int
    etag: str
    rows_in: int
    rows_out: int
    rows_rejected: int
    output_sha256: str
    config_hash: str
    run_id: str
    secs: float
    rows_filtered: int = 0
    filtered: dict[str, int] = dataclasses.field(default_factory=dict)
    retryable: int = 0
    attempt: int = 1
    output_footer: str = ""
    rejects_sha256: str = ""
    filtered_sha256: str = ""

    def write(self, folder: str) -> None:
        """Writes the marker; a `ValueError` if its rows do not balance."""
        balance = self.rows_out + self.rows_rejected + self.rows_filtered
        if self.rows_in != balance or self.rows_filtered != sum(self.filtered.values()):
            raise ValueError(
                f"{self.name}: {self.rows_in} rows in, {self.rows_out} out, {self.rows_rejected} rejected, "
                f"{self.rows_filtered} filtered ({self.filtered})"
            )
        storage.write_json(storage.join(folder, MARKERS, f"{self.name}.json"), dataclasses.asdict(self))


def read_marker(folder: str, shard: str, config_hash: str) -> Marker | None:
    """Returns the marker of one shard, or None if it is not done.

    Raises:
        UserError: if it is broken or belongs to another configuration.
    """
    path = storage.join(folder, MARKERS, f"{shard}.json")
    if not storage.exists(path):
        return None
    marker = marker_of(path)
    if marker.name != shard:
        raise UserError(f"{path}: is the marker of {marker.name}; {_MARKER_AGAIN}")
    if marker.config_hash != config_hash:
        raise UserError(f"{path}: belongs to configuration {marker.config_hash}, not {config_hash}; remove the folder")
    return marker


def marker_of(path: str) -> Marker:
    """Reads a marker at a path; a `UserError` if it is missing or damaged, or names something outside its folder."""
    value = schemas.read_json(path, schemas.shape_of(Marker), _MARKER_AGAIN)
    try:
        marker = Marker(**value)
    except TypeError as error:
        raise UserError(f"{path}: is not a marker of this version ({error}); {_MARKER_AGAIN}") from error
    storage.inside(path, marker.name)
    return marker


def read_markers(folder: str, config_hash: str, known: Mapping[str, Marker] | None = None) -> dict[str, Marker]:
    """Returns the markers of a folder by shard name.

    Args:
        folder: of the outputs.
        config_hash: that each must carry.
        known: markers that have been read before.

    Raises:
        UserError: as `read_marker`.
    """
    names = [storage.name(path).removesuffix(".json") for path in storage.files(storage.join(folder, MARKERS), ".json")]
    found = {name: (known or {}).get(name) or read_marker(folder, name, config_hash) for name in names}
    markers = {name: marker for name, marker in found.items() if marker}
    check_numbers(folder, ((marker.number, name) for name, marker in markers.items()))
    return markers


def check_numbers(folder: str, shards: Iterable[tuple[int, str]]) -> None:
    """Raises a `UserError` if two shards of a folder, given by number and name, have one number."""
    names: dict[int, str] = {}
    for number, name in shards:
        if names.setdefault(number, name) != name:
            path = storage.join(folder, MARKERS, f"{name}.json")
            raise UserError(f"{path}: has the number {number}, which {names[number]} has too; {_MARKER_AGAIN}")


@dataclasses.dataclass(frozen=True)
class Drops:
    """Rows of one shard that are stored and not used (docs/contracts.md, `_dropped/`).

    Attributes:
        rows: how many.
        sha256: of the file that lists them.
    """

    rows: int
    sha256: str


def complete(
    folder: str, markers: Iterable[Marker], config_hash: str, drops: Mapping[str, Drops] | None = None
) -> dict[str, Any]:
    """Writes `complete.json`, which makes a folder of embeddings readable, and returns it.

    Args:
        folder: of embeddings.
        markers: of all its shards.
        config_hash: of the folder.
        drops: rows that a selection dropped, by shard name.
    """
    dropped, ordered = drops or {}, sorted(markers, key=lambda m: m.number)
    check_numbers(folder, ((marker.number, marker.name) for marker in ordered))
    shards = [
        {
            "number": m.number,
            "name": m.name,
            "rows": m.rows_out - (dropped[m.name].rows if m.name in dropped else 0),
            "rows_stored": m.rows_out,
            "sha256": m.output_sha256,
            "footer_sha256": m.output_footer,
            "dropped_sha256": dropped[m.name].sha256 if m.name in dropped else "",
        }
        for m in ordered
    ]
    whole = {"config_hash": config_hash, "shards": shards, "snapshot": fingerprint([config_hash, shards])}
    storage.write_json(storage.join(folder, COMPLETE_FILE), whole)
    return whole


def read_complete(
    folder: str, stage: str, shape: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns `stage.json` and `complete.json` of a finished folder.

    Args:
        folder: of the stage's outputs.
        stage: that writes them.
        shape: entries of `complete.json`, beside `config_hash`.

    Raises:
        UserError: if the stage has not run or has not finished, or one of the files is damaged.
    """
    stage_path, complete_path = storage.join(folder, STAGE_FILE), storage.join(folder, COMPLETE_FILE)
    if not storage.exists(stage_path):
        raise UserError(f"{folder}: does not exist yet; run {command(stage)} first")
    if not storage.exists(complete_path):
        raise UserError(f"{folder}: is not finished; run {command(stage)} again, it resumes")
    again = f"remove it and run {command(stage)} again"
    identity = read_identity(folder)
    whole = schemas.read_json(complete_path, {"config_hash": str, **(shape or {})}, again)
    if whole["config_hash"] != fingerprint(identity):
        raise UserError(
            f"{complete_path}: belongs to another configuration than {STAGE_FILE}; run {command(stage)} again"
        )
    return identity, whole


_SHARD = {
    **{"number": int, "name": str, "rows": int, "rows_stored": int},
    **{"sha256": str, "footer_sha256": str, "dropped_sha256": str},
}


def read_shards(folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns `stage.json` and `complete.json` of a finished folder of embeddings; errors as `read_complete`."""
    identity, whole = read_complete(folder, "pipelines.embed", {"shards": [_SHARD], "snapshot": str})
    path, shards = storage.join(folder, COMPLETE_FILE), whole["shards"]
    if whole["snapshot"] != fingerprint([whole["config_hash"], shards]):
        raise UserError(f"{path}: its snapshot is not that of its shards; remove it and run web-memory embed again")
    if schemas.misshapen(identity, {"encoders": {str: schemas.shape_of(EncoderInfo)}}):
        raise UserError(f"{folder}: its {STAGE_FILE} is not that of embeddings; remove the folder")
    for shard in shards:
        storage.inside(folder, shard["name"])
    check_numbers(folder, ((shard["number"], shard["name"]) for shard in shards))
    return identity, whole


class Embeddings:
    """A finished folder of embedding shards.

    Attributes:
        folder: its path.
        identity: the configuration that made it.
        encoders: of each vector column.
        snapshot: fingerprint of the configuration and of every shard's bytes.
    """

    def __init__(self, folder: str) -> None:
        """Opens a folder; a `UserError` if it is not finished."""
        self.folder = folder
        self.identity, whole = read_shards(folder)
        self.encoders = {role: EncoderInfo(**info) for role, info in self.identity["encoders"].items()}
        self.snapshot: str = whole["snapshot"]
        self._config_hash: str = whole["config_hash"]
        self._shards: dict[int, dict[str, Any]] = {shard["number"]: shard for shard in whole["shards"]}

    @property
    def shard_rows(self) -> dict[int, int]:
        """Rows of each shard, by shard number, ascending."""
        return {number: shard["rows"] for number, shard in sorted(self._shards.items())}

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(self.shard_rows.values())

    @property
    def shard_facts(self) -> dict[str, dict[str, Any]]:
        """Number, rows and checksums of each shard, by its name; they change with the shard."""
        wanted = ("number", "rows", "sha256", "dropped_sha256")
        return {shard["name"]: {name: shard[name] for name in wanted} for shard in self._shards.values()}

    def encoder(self, role: str) -> EncoderInfo:
        """Returns the encoder of a vector column; a `UserError` if there is no such column."""
        if role not in self.encoders:
            raise UserError(f"{self.folder}: has no {role!r} vectors; it has {', '.join(self.encoders)}")
        return self.encoders[role]

    def read(self, shard: int, columns: list[str], also: Sequence[str] = ()) -> pa.Table:
        """Reads columns of one shard, by its number, without the rows that were dropped.

        Args:
            shard: its number.
            columns: to read.
            also: reasons (`dropped.REASONS`) whose rows are read although they were dropped.
        """
        entry = self._shards[shard]
        kept, stored = entry["rows"], entry["rows_stored"]
        path = storage.join(self.folder, f"{entry['name']}.parquet")
        wanted = columns if "id" in columns or kept == stored else ["id", *columns]
        table = schemas.read(path, wanted, {"config_hash": self._config_hash}, entry["footer_sha256"])
        if not entry["footer_sha256"]:
            storage.check_sha256(path, entry["sha256"], "remove it and run web-memory embed again")
        if table.num_rows != stored:
            raise UserError(
                f"{path}: has {table.num_rows} rows, not {stored}; remove it and run web-memory embed again"
            )
        if kept == stored:
            return table
        drops = storage.join(self.folder, DROPPED, f"{entry['name']}.parquet")
        out = schemas.read(drops, ["id", "reason"] if also else ["id"], {"config_hash": self._config_hash})
        if pc.sum(pc.is_in(table["id"], value_set=out["id"].combine_chunks())).as_py() != stored - kept:
            raise UserError(f"{drops}: does not list {stored - kept} rows of {path}; run web-memory embed again")
        storage.check_sha256(drops, entry["dropped_sha256"], "remove it and run web-memory embed again")
        if also:
            out = out.filter(pc.invert(pc.is_in(out["reason"], value_set=pa.array(also, pa.string()))))
        return table.filter(pc.invert(pc.is_in(table["id"], value_set=out["id"].combine_chunks()))).select(columns)


LIST_FILE = {"name": str, "rows": int, "sha256": str, "footer_sha256": str}
"""Entries of a file of neighbour lists, or of the memory rows that they name, in `complete.json`."""


def read_lists(folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns `stage.json` and `complete.json` of a finished folder of neighbour lists; errors as `read_complete`."""
    counts = {"queries": int, "memory_rows": int, "excluded": int, "mean_top_score": float}
    shape = {"files": {str: [LIST_FILE]}, "fingerprint": str, **counts}
    identity, whole = read_complete(folder, "index.neighbors", shape)
    path, again = storage.join(folder, COMPLETE_FILE), "remove it and run web-memory neighbors again"
    if whole["fingerprint"] != fingerprint([whole["config_hash"], whole["files"]]):
        raise UserError(f"{path}: has a fingerprint that is not that of its files; {again}")
    settings = {"k": int, "index": str, "queries": {str: str}, "encoders": {str: schemas.shape_of(EncoderInfo)}}
    if schemas.misshapen(identity, settings):
        raise UserError(f"{folder}: its {STAGE_FILE} is not that of neighbour lists; remove the folder")
    for file in itertools.chain.from_iterable(whole["files"].values()):
        storage.inside(folder, file["name"])
    return identity, whole


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """A finished folder of neighbour lists and of the memory rows that they name.

    Attributes:
        folder: its path.
        k: length of the lists.
        encoders: of each vector column of the memory.
        query_snapshots: snapshot of the embedded queries of each split.
        fingerprint: of the configuration and of every file's bytes.
        identity: the configuration that made it.
        files: name, rows and SHA-256 of the files of each split, and of `memory`.
    """

    folder: str
    k: int
    encoders: dict[str, EncoderInfo]
    query_snapshots: dict[str, str]
    fingerprint: str
    identity: dict[str, Any]
    files: dict[str, list[dict[str, Any]]]

    @classmethod
    def open(cls, folder: str) -> "Neighbors":
        """Opens a folder; a `UserError` if it is not finished."""
        identity, whole = read_lists(folder)
        encoders = {role: EncoderInfo(**info) for role, info in identity["encoders"].items()}
        return cls(folder, identity["k"], encoders, identity["queries"], whole["fingerprint"], identity, whole["files"])

    def split(self, name: str) -> pa.Table:
        """Returns the lists of a split, in the order of its queries, with the columns of `schemas.neighbors`."""
        return self._read(name, schemas.neighbors(self.k))

    def memory(self, columns: list[str]) -> pa.Table:
        """Returns columns of all memory rows that some list names, ascending by id."""
        dims = {role: info.dim for role, info in self.encoders.items()}
        dtype = next(iter(self.encoders.values())).dtype
        schema = schemas.embeddings(dims, dtype)
        if unknown := [column for column in columns if column not in schema.names]:
            raise UserError(f"{self.folder}: its memory has no column {unknown[0]!r}; it has {', '.join(schema.names)}")
        return self._read("memory", pa.schema([schema.field(column) for column in columns]))

    @property
    def memory_rows(self) -> int:
        """Rows of the memory that some list names."""
        return sum(file["rows"] for file in self.files["memory"])

    def memory_chunks(self, columns: list[str]) -> Iterator[pa.Table]:
        """Yields the rows of `memory` in chunks; never holds a whole file in memory."""
        for file in self.files["memory"]:
            path, rows = storage.join(self.folder, file["name"]), 0
            origin = {"config_hash": fingerprint(self.identity)}
            with schemas.open_parquet(path, columns, origin, file["footer_sha256"]) as parquet:
                for batch in parquet.iter_batches(schemas.ROW_GROUP_ROWS, columns=columns):
                    rows += batch.num_rows
                    if rows <= file["rows"]:
                        yield pa.Table.from_batches([batch])
            self._check_rows(path, rows, file["rows"])

    @staticmethod
    def _check_rows(path: str, rows: int, expected: int) -> None:
        if rows != expected:
            raise UserError(f"{path}: has {rows} rows, not {expected}; run web-memory neighbors again")

    def _read(self, group: str, schema: pa.Schema) -> pa.Table:
        if group not in self.files:
            raise UserError(f"{self.folder}: has no lists of {group!r}; it has {', '.join(self.query_snapshots)}")
        tables = [schema.empty_table()]
        for file in self.files[group]:
            path = storage.join(self.folder, file["name"])
            origin = {"config_hash": fingerprint(self.identity)}
            tables.append(schemas.read(path, schema.names, origin, file["footer_sha256"]))
            self._check_rows(path, tables[-1].num_rows, file["rows"])
        return pa.concat_tables([table.replace_schema_metadata() for table in tables])
