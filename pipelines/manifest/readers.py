"""Finished folders of embeddings and of neighbour lists, as later stages read them."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schemas, storage
from pipelines.errors import UserError
from pipelines.manifest.claims import (
    CLASSES,
    COMPLETE_FILE,
    DROPPED,
    LIST_FILE,
    NEXT,
    STAGE_FILE,
    fingerprint,
)
from pipelines.manifest.finished import read_complete, read_shards
from pipelines.schemas import EncoderInfo


class Embeddings:
    """A finished folder of embedding shards.

    Attributes:
        folder: its path.
        identity: the configuration that made it.
        encoders: of each vector column.
        snapshot: fingerprint of the configuration and of every shard's bytes.
        passed_over: files and members of the source that belong to no row, by suffix.
    """

    def __init__(self, folder: str) -> None:
        """Opens a folder; a `UserError` if it is not finished."""
        self.folder = folder
        self.identity, whole = read_shards(folder)
        self.encoders = {role: EncoderInfo(**info) for role, info in self.identity["encoders"].items()}
        self.snapshot: str = whole["snapshot"]
        self.passed_over: dict[str, int] = whole.get("passed_over", {})
        self._config_hash: str = whole["config_hash"]
        self._shards: dict[int, dict[str, Any]] = {shard["number"]: shard for shard in whole["shards"]}
        # What a compaction does not rewrite stays in the folder of the memory.
        names = {shard["name"] for shard in whole["shards"]}
        self._elsewhere = names - {*whole["rewritten"]} if "rewritten" in whole else set()

    @property
    def class_names(self) -> list[str]:
        """The names of the labels, from 0, if the source has names for labels; otherwise nothing."""
        return list(self.identity.get(CLASSES, ()))

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

    def _paths(self, shard: int) -> tuple[str, str]:
        """Returns the paths of a shard and of the file of its dropped rows."""
        name = self._shards[shard]["name"]
        folder = self.folder.removesuffix(NEXT).rstrip("/") if name in self._elsewhere else self.folder
        return storage.join(folder, f"{name}.parquet"), storage.join(folder, DROPPED, f"{name}.parquet")

    def files(self, shard: int) -> dict[str, str]:
        """Returns the SHA-256 of the file of a shard, by its number, and of the one of its dropped rows, by path."""
        entry = self._shards[shard]
        digests = zip(self._paths(shard), (entry["sha256"], entry["dropped_sha256"]), strict=True)
        return {path: sha256 for path, sha256 in digests if sha256}

    def check(self, shard: int) -> None:
        """Checks the bytes of a shard, by its number, and of its dropped rows; errors as `storage.check_sha256`."""
        for path, sha256 in self.files(shard).items():
            storage.check_sha256(path, sha256, "remove it and run web-memory embed again")

    def has_column(self, shard: int, column: str) -> bool:
        """Tells whether a shard, by its number, has a column."""
        return schemas.has_column(self._paths(shard)[0], column)

    def _read(self, path: str, columns: list[str], footer: str = "", ids: np.ndarray | None = None) -> pa.Table:
        again, origin = "remove it and run web-memory embed again", {"config_hash": self._config_hash}
        try:
            with schemas.open_parquet(path, columns, origin, footer, again) as parquet:
                return parquet.read(columns) if ids is None else schemas.read_ids(parquet, columns, ids)
        except storage.MissingFile as error:
            raise UserError(f"{path}: is missing; run web-memory embed again") from error

    def take(self, shard: int, columns: list[str], ids: np.ndarray) -> pa.Table:
        """Reads columns of the rows of one shard, by its number, that have one of some ids and were not dropped.

        Only the parts of the file that may have such a row are decoded.

        Args:
            shard: its number.
            columns: to read.
            ids: int64 `[n]`, ascending.
        """
        entry, (path, drops) = self._shards[shard], self._paths(shard)
        if not entry["footer_sha256"]:
            storage.check_sha256(path, entry["sha256"], "remove it and run web-memory embed again")
        if entry["rows"] != entry["rows_stored"]:
            ids = np.setdiff1d(ids, self._read(drops, ["id"])["id"].to_numpy())
            storage.check_sha256(drops, entry["dropped_sha256"], "remove it and run web-memory embed again")
        return self._read(path, columns, entry["footer_sha256"], ids)

    def read(self, shard: int, columns: list[str], also: Sequence[str] = ()) -> pa.Table:
        """Reads columns of one shard, by its number, without the rows that were dropped.

        Args:
            shard: its number.
            columns: to read.
            also: reasons (`dropped.REASONS`) whose rows are read although they were dropped.
        """
        entry = self._shards[shard]
        kept, stored = entry["rows"], entry["rows_stored"]
        path, drops = self._paths(shard)
        wanted = columns if "id" in columns or kept == stored else ["id", *columns]
        table = self._read(path, wanted, entry["footer_sha256"])
        if not entry["footer_sha256"]:
            storage.check_sha256(path, entry["sha256"], "remove it and run web-memory embed again")
        if table.num_rows != stored:
            raise UserError(
                f"{path}: has {table.num_rows} rows, not {stored}; remove it and run web-memory embed again"
            )
        if kept == stored:
            return table
        out = self._read(drops, ["id", "reason"] if also else ["id"])
        if pc.sum(pc.is_in(table["id"], value_set=out["id"].combine_chunks())).as_py() != stored - kept:
            raise UserError(
                f"{drops}: does not list {stored - kept} rows of {path}; remove it and run web-memory embed again"
            )
        storage.check_sha256(drops, entry["dropped_sha256"], "remove it and run web-memory embed again")
        if also:
            out = out.filter(pc.invert(pc.is_in(out["reason"], value_set=pa.array(also, pa.string()))))
        return table.filter(pc.invert(pc.is_in(table["id"], value_set=out["id"].combine_chunks()))).select(columns)


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

    def chunks(self, group: str, columns: list[str]) -> Iterator[pa.Table]:
        """Yields the rows of a split, or of `memory`, in chunks; never holds a whole file in memory."""
        for file in self.files[group]:
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
            raise UserError(f"{path}: has {rows} rows, not {expected}; remove it and run web-memory neighbors again")

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
