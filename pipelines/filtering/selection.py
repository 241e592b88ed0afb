"""Which rows of an embedded memory a task may use: decided after the embedding, and stored beside the shards.

    memory/_dropped/{shard}.parquet   the rows that are not used, and why (`DROPPED`)
    memory/_dropped/selection.json    what decided the selection, and counts of dropped rows; written last

Rows are embedded once; when filters, opt-out list or splits change, only the selection is made again, which is cheap.
Finding the rows is up to `opt_out`, `leakage` and `duplicates`, the pipeline to `selection_job`.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from configs.base import Filters
from pipelines import manifest, mentions, schemas, storage
from pipelines.errors import UserError
from pipelines.filtering.dropped import REASONS, REMOVED
from pipelines.filtering.leakage import Rule
from pipelines.filtering.unwanted import removed_list
from pipelines.manifest import Embeddings
from pipelines.schemas import EncoderInfo

FILE = "selection.json"
_AGAIN = "remove it and run web-memory embed again"
# Rows of a shard that are read at a time; no result depends on it.
BLOCK_ROWS = 4096


@dataclasses.dataclass(frozen=True)
class MemoryShard:
    """An embedded shard: its number, the name of its file, its rows and the SHA-256 of its bytes."""

    number: int
    name: str
    rows: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class MemoryShards:
    """A memory whose shards are all embedded, and whose selection is not made yet.

    Attributes:
        folder: its path.
        config_hash: of its files.
        key: encoder of its keys.
        shards: in any order.
    """

    folder: str
    config_hash: str
    key: EncoderInfo
    shards: tuple[MemoryShard, ...]

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def snapshot(self) -> str:
        """Fingerprint of every shard's bytes."""
        shards = sorted((shard.number, shard.sha256) for shard in self.shards)
        return manifest.fingerprint([self.config_hash, shards])

    def path(self, shard: MemoryShard) -> str:
        """Returns the path of a shard's file."""
        return storage.join(self.folder, f"{shard.name}.parquet")

    def check(self, shard: MemoryShard) -> None:
        """Raises a `UserError` if the bytes of a shard are not those that were embedded."""
        storage.check_sha256(self.path(shard), shard.sha256, "remove it and run web-memory embed again")

    def has_column(self, shard: MemoryShard, column: str) -> bool:
        """Tells whether a shard has a column."""
        return schemas.has_column(self.path(shard), column)

    def blocks(self, shard: MemoryShard, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yields columns of a shard, at most `BLOCK_ROWS` rows at a time; errors as `Embeddings.read`."""
        path, rows = self.path(shard), 0
        with schemas.open_parquet(path, columns, {"config_hash": self.config_hash}) as parquet:
            for batch in parquet.iter_batches(BLOCK_ROWS, columns=list(columns)):
                rows += batch.num_rows
                yield batch
        if rows != shard.rows:
            raise UserError(f"{path}: has {rows} rows, not {shard.rows}; remove it and run web-memory embed again")


@dataclasses.dataclass(frozen=True)
class SelectionJob:
    """All that a worker needs to make a selection.

    Attributes:
        memory: its shards.
        splits: folder of each split that must not leak, in the order of `Filters.leakage_splits`.
        opt_out: file of the list; empty for none.
        rule: what makes a row a copy of a query.
        exact_duplicates: whether only the first of equal images stays.
        near_duplicates: smallest cosine of a copy of an earlier row; 0 for none.
        seed: of the pivots of `near_duplicates`.
        identity: everything that decides the selection.
        removed: file of the digests of removed images; empty for none.
        concepts_per_class: most rows that a class keeps; 0 for any.
        names: of the classes, if that is so.
    """

    memory: MemoryShards
    splits: dict[str, str]
    opt_out: str
    rule: Rule
    exact_duplicates: bool
    near_duplicates: float
    seed: int
    identity: dict[str, Any]
    removed: str = ""
    concepts_per_class: int = 0
    names: tuple[str, ...] = ()

    @property
    def leakage(self) -> bool:
        """Whether copies of queries are dropped."""
        return self.rule.cosine > 0

    @property
    def folder(self) -> str:
        """Path of the selection's folder."""
        return storage.join(self.memory.folder, manifest.DROPPED)

    @property
    def is_idle(self) -> bool:
        """Whether no row can be dropped."""
        return not any(getattr(self, reason) for reason in REASONS)

    @property
    def metadata(self) -> dict[str, str]:
        """What every file says of its origin."""
        return {"config_hash": self.memory.config_hash, "selection": manifest.fingerprint(self.identity)}


@dataclasses.dataclass(frozen=True)
class Example:
    """A row and its twin, with their names in their containers; of a dropped row, or of one that nearly was.

    Attributes:
        reason: why it is dropped, or nearly was.
        similarity: cosine of their keys.
        pixels: similarity of their pixels; None where they were not compared.
        id: of the row.
        member: its name.
        twin_folder: `memory` or a split.
        twin_id: of the twin.
        twin_member: its name.
    """

    reason: str
    similarity: float
    pixels: float | None
    id: int
    member: str
    twin_folder: str
    twin_id: int
    twin_member: str


@dataclasses.dataclass(frozen=True)
class DroppedShard:
    """The file of dropped rows of a shard: the shard's number and name, counts by reason, SHA-256 of the file."""

    number: int
    name: str
    dropped: dict[str, int]
    sha256: str


@dataclasses.dataclass(frozen=True)
class Listed:
    """How a list of unwanted images met a memory.

    Attributes:
        entries: different entries of the list.
        unmet: how many of them no row meets, not even one that was left out while it was embedded.
        first: the first few of those, as the list has them.
    """

    entries: int
    unmet: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        """Returns `2 of 9 entries met no row: http://..`; empty if each met one."""
        more = ", .." if self.unmet > len(self.first) else ""
        shown = f"{self.unmet:,} of {self.entries:,} entries met no row: {', '.join(self.first)}{more}"
        return shown if self.unmet else ""


@dataclasses.dataclass(frozen=True)
class Compared:
    """How rows were compared with the queries.

    Attributes:
        pairs: pairs of a row and a query whose pixels were compared.
        rows: rows that pairs are of.
        by_cosine: rows that only cosines could be compared of, since they have no pixels or blank ones.
    """

    pairs: int = 0
    rows: int = 0
    by_cosine: int = 0

    def __add__(self, other: "Compared") -> "Compared":
        """Returns the sums."""
        return Compared(self.pairs + other.pairs, self.rows + other.rows, self.by_cosine + other.by_cosine)


@dataclasses.dataclass(frozen=True)
class Selection:
    """A finished selection.

    Attributes:
        identity: everything that decided it.
        totals: dropped rows by reason, of the filters that were on.
        shards: a file for each shard of the memory, ascending by number; none if no filter was on.
        examples: for each reason with twins the few rows of the lowest similarity, to judge the threshold by.
        kept: the rows that were nearest to being dropped as copies of queries, nearest first.
        compared: how rows were compared with the queries.
        fingerprint: of all these, and so of every file.
        opt_out: how the opt-out list met the memory; None without one.
    """

    identity: dict[str, Any]
    totals: dict[str, int]
    shards: tuple[DroppedShard, ...]
    examples: tuple[Example, ...]
    kept: tuple[Example, ...]
    compared: Compared
    fingerprint: str
    opt_out: Listed | None = None


def describe(
    memory: MemoryShards,
    splits: Mapping[str, Embeddings],
    filters: Filters,
    seed: int,
    removed: str = "",
    names: Sequence[str] = (),
) -> SelectionJob:
    """Returns the job that makes a selection, without doing any of it.

    Args:
        memory: with all its shards.
        splits: those that are embedded.
        filters: `opt_out` is a whole path.
        seed: of the config.
        removed: file of the digests of removed images; empty for none.
        names: of the classes, if the filters look for them in captions.

    Raises:
        UserError: if the opt-out list is missing, or a split has keys of another encoder.
    """
    guarded = _guarded(memory, splits, filters)
    rule = Rule.of(filters) if guarded else Rule()
    identity = {
        "schema_version": schemas.SCHEMA_VERSION,
        "memory": memory.snapshot,
        "removed": removed_list.read(removed).state if removed else None,
        "opt_out": _digest(filters.opt_out),
        "leakage": dataclasses.asdict(rule),
        "splits": [[name, split.snapshot] for name, split in guarded.items()],
        "exact_duplicates": filters.exact_duplicates,
        "near_duplicates": filters.near_duplicates,
        "seed": seed if filters.near_duplicates else 0,
    }
    if filters.concepts_per_class:
        # Newer than the first selections, which stay as they are.
        rules = [manifest.fingerprint(list(names)), mentions.RULES]
        identity |= {"concepts_per_class": filters.concepts_per_class, "concepts": rules, "seed": seed}
    return SelectionJob(
        memory,
        {name: split.folder for name, split in guarded.items()},
        filters.opt_out,
        rule,
        filters.exact_duplicates,
        filters.near_duplicates,
        seed,
        identity,
        removed,
        filters.concepts_per_class,
        tuple(names) if filters.concepts_per_class else (),
    )


def _guarded(memory: MemoryShards, splits: Mapping[str, Embeddings], filters: Filters) -> dict[str, Embeddings]:
    """Returns the splits that must not leak and have rows, in the order of `Filters.leakage_splits`."""
    if not filters.leakage:
        return {}
    guarded = {name: splits[name] for name in dict.fromkeys(filters.leakage_splits) if name in splits}
    guarded = {name: split for name, split in guarded.items() if split.rows}
    for split in guarded.values():
        theirs, ours = split.encoder("key"), memory.key
        if (theirs.fingerprint, theirs.dim, theirs.normalized) != (ours.fingerprint, ours.dim, ours.normalized):
            raise UserError(f"{split.folder}: its keys are of another encoder than those of {memory.folder}")
    return guarded


def _digest(path: str) -> str:
    return storage.sha256(path) if path else ""


def write(
    job: SelectionJob,
    shards: Sequence[DroppedShard] = (),
    examples: Sequence[Example] = (),
    kept: Sequence[Example] = (),
    compared: Compared = Compared(),
    opt_out: Listed | None = None,
) -> None:
    """Writes `selection.json`, which makes the folder valid; the files of all shards must exist."""
    on = [reason for reason in REASONS if getattr(job, reason)]
    totals = {reason: sum(shard.dropped.get(reason, 0) for shard in shards) for reason in on}
    write_file(
        job.folder, Selection(job.identity, totals, tuple(shards), tuple(examples), tuple(kept), compared, "", opt_out)
    )


def write_file(folder: str, chosen: Selection) -> None:
    """Writes `selection.json` into a folder; the fingerprint is that of the contents, whatever `chosen` says."""
    contents = {
        "identity": chosen.identity,
        "totals": chosen.totals,
        "shards": [dataclasses.asdict(shard) for shard in sorted(chosen.shards, key=lambda shard: shard.number)],
        "examples": [dataclasses.asdict(example) for example in chosen.examples],
        "kept": [dataclasses.asdict(example) for example in chosen.kept],
        "compared": dataclasses.asdict(chosen.compared),
        "opt_out": json.loads(json.dumps(dataclasses.asdict(chosen.opt_out))) if chosen.opt_out else None,
    }
    storage.write_json(storage.join(folder, FILE), {**contents, "fingerprint": manifest.fingerprint(contents)})


def removed_ids(memory_folder: str, shard: str = "") -> np.ndarray:
    """Returns the ids, int64, of the rows that a finished selection drops as removed, of one shard or of all.

    Raises:
        UserError: if the selection or one of its files is missing or damaged.
    """
    ids = [np.empty(0, np.int64)]
    for facts in read(memory_folder).shards:
        if facts.dropped.get(REMOVED) and shard in ("", facts.name):
            path = storage.join(memory_folder, manifest.DROPPED, f"{facts.name}.parquet")
            storage.check_sha256(path, facts.sha256, "remove it and run web-memory embed again")
            table = schemas.read(path, ["id", "reason"])
            ids.append(table["id"].to_numpy()[[reason == REMOVED for reason in table["reason"].to_pylist()]])
    return np.concatenate(ids)


def applied(memory_folder: str) -> list[dict[str, Any]]:
    """Returns the state of the list of removed images that the selection of a memory was made with, if any."""
    is_made = storage.exists(storage.join(memory_folder, manifest.DROPPED, FILE))
    state = read(memory_folder).identity.get("removed") if is_made else None
    return [state] if state else []


def read(memory_folder: str) -> Selection:
    """Reads the selection of a memory.

    Raises:
        UserError: if it is missing or damaged.
    """
    path = storage.join(memory_folder, manifest.DROPPED, FILE)
    shape = {"identity": dict, "totals": {str: int}, "shards": [dict], "examples": [dict], "fingerprint": str}
    value = schemas.read_json(path, shape, _AGAIN)
    try:
        contents = {name: part for name, part in value.items() if name != "fingerprint"}
        if value["fingerprint"] != manifest.fingerprint(contents):
            raise UserError(f"{path}: is damaged; {_AGAIN}")
        shards = tuple(DroppedShard(**shard) for shard in value["shards"])
        for shard in shards:
            storage.inside(memory_folder, shard.name)
        examples, kept = (tuple(Example(**example) for example in value[name]) for name in ("examples", "kept"))
        totals = {reason: value["totals"][reason] for reason in REASONS if reason in value["totals"]}
        listed = value["opt_out"] and Listed(**{**value["opt_out"], "first": tuple(value["opt_out"]["first"])})
        compared = Compared(**value["compared"])
        return Selection(value["identity"], totals, shards, examples, kept, compared, value["fingerprint"], listed)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a selection of this version ({error}); {_AGAIN}") from error
