"""Which rows of an embedded memory a task may use: decided after the embedding, beside the shards, never in them.

    memory/_dropped/{shard}.parquet   the rows that are not used, and why (`DROPPED`)
    memory/_dropped/selection.json    what was decided by and how much was dropped; written last

Embedding is done once; the selection is made anew, cheaply, whenever filters, opt-out list or splits change. Which
rows these are is left to `opt_out`, `leakage` and `duplicates`, the pipeline to `selection_job`.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from configs.base import Filters
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.filtering.dropped import REASONS
from pipelines.manifest import Embeddings
from pipelines.schemas import EncoderInfo

FILE = "selection.json"
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
    """A memory whose shards are all embedded, but which is not finished: its selection is still to be made.

    Attributes:
        folder: where it lies.
        config_hash: of its files.
        key: what is known of its keys.
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

    def blocks(self, shard: MemoryShard, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yields columns of a shard, `BLOCK_ROWS` rows at a time; errors as `Embeddings.read`."""
        path, rows = storage.join(self.folder, f"{shard.name}.parquet"), 0
        with schemas.open_parquet(path, columns, {"config_hash": self.config_hash}) as parquet:
            for batch in parquet.iter_batches(BLOCK_ROWS, columns=list(columns)):
                rows += batch.num_rows
                yield batch
        if rows != shard.rows:
            raise UserError(f"{path}: has {rows} rows, not {shard.rows}; remove it and run pipelines.embed again")


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a worker needs.

    Attributes:
        memory: its shards.
        splits: folder of each split that must not leak, in the order of `Filters.leakage_splits`.
        opt_out: the list; empty for none.
        leakage: smallest cosine of a copy of a query; 0 for none.
        exact_duplicates: whether only the first of equal images stays.
        near_duplicates: smallest cosine of a copy of an earlier row; 0 for none.
        seed: of the pivots of `near_duplicates`.
        identity: what decides the selection.
        removed: the list of what was removed for good; empty for none.
    """

    memory: MemoryShards
    splits: dict[str, str]
    opt_out: str
    leakage: float
    exact_duplicates: bool
    near_duplicates: float
    seed: int
    identity: dict[str, Any]
    removed: str = ""

    @property
    def folder(self) -> str:
        """Where the selection lies."""
        return storage.join(self.memory.folder, manifest.DROPPED)

    @property
    def is_idle(self) -> bool:
        """Tells whether no row can be dropped."""
        return not (self.removed or self.opt_out or self.leakage or self.exact_duplicates or self.near_duplicates)

    @property
    def metadata(self) -> dict[str, str]:
        """What every file says of its origin."""
        return {"config_hash": self.memory.config_hash, "selection": manifest.fingerprint(self.identity)}


@dataclasses.dataclass(frozen=True)
class Example:
    """A row that was dropped and what it is a copy of, by their names in their containers."""

    reason: str
    similarity: float
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
class Selection:
    """A finished selection.

    Attributes:
        identity: what decided it.
        totals: dropped rows by reason, of the filters that were on.
        shards: a file for each shard of the memory, ascending by number; none if no filter was on.
        examples: of each reason with twins the few of the lowest similarity, by which a threshold is judged.
        fingerprint: of all that, and through it of every file.
    """

    identity: dict[str, Any]
    totals: dict[str, int]
    shards: tuple[DroppedShard, ...]
    examples: tuple[Example, ...]
    fingerprint: str


def plan(memory: MemoryShards, splits: Mapping[str, Embeddings], filters: Filters, seed: int, removed: str = "") -> Job:
    """Returns what is to be decided, and by what.

    Args:
        memory: with all its shards.
        splits: those that are embedded.
        filters: `opt_out` with its whole path.
        seed: of the config.
        removed: the list of what was removed for good; empty for none.

    Raises:
        UserError: if the opt-out list is not there, or a split is of another encoder.
    """
    guarded = {name: splits[name] for name in dict.fromkeys(filters.leakage_splits) if name in splits}
    guarded = {name: split for name, split in guarded.items() if split.rows and filters.leakage}
    for split in guarded.values():
        theirs, ours = split.encoder("key"), memory.key
        if (theirs.fingerprint, theirs.dim, theirs.normalized) != (ours.fingerprint, ours.dim, ours.normalized):
            raise UserError(f"{split.folder}: its keys are of another encoder than those of {memory.folder}")
    leakage = filters.leakage if guarded else 0.0
    identity = {
        "schema_version": schemas.SCHEMA_VERSION,
        "memory": memory.snapshot,
        "removed": storage.sha256(removed) if removed else "",
        "opt_out": storage.sha256(filters.opt_out) if filters.opt_out else "",
        "leakage": leakage,
        "splits": [[name, split.snapshot] for name, split in guarded.items()],
        "exact_duplicates": filters.exact_duplicates,
        "near_duplicates": filters.near_duplicates,
        "seed": seed if filters.near_duplicates else 0,
    }
    return Job(
        memory,
        {name: split.folder for name, split in guarded.items()},
        filters.opt_out,
        leakage,
        filters.exact_duplicates,
        filters.near_duplicates,
        seed,
        identity,
        removed,
    )


def write(job: Job, shards: Sequence[DroppedShard], examples: Sequence[Example]) -> None:
    """Writes `selection.json`, which makes the folder valid; every shard's file must be there."""
    on = [reason for reason in REASONS if getattr(job, reason)]
    totals = {reason: sum(shard.dropped.get(reason, 0) for shard in shards) for reason in on}
    contents = {
        "identity": job.identity,
        "totals": totals,
        "shards": [dataclasses.asdict(shard) for shard in sorted(shards, key=lambda shard: shard.number)],
        "examples": [dataclasses.asdict(example) for example in examples],
    }
    storage.write_json(storage.join(job.folder, FILE), {**contents, "fingerprint": manifest.fingerprint(contents)})


def read(memory_folder: str) -> Selection:
    """Reads the selection of a memory.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    path = storage.join(memory_folder, manifest.DROPPED, FILE)
    value = storage.read_json(path)
    try:
        contents = {name: part for name, part in value.items() if name != "fingerprint"}
        if value["fingerprint"] != manifest.fingerprint(contents):
            raise UserError(f"{path}: is damaged; remove it and run pipelines.embed again")
        shards = tuple(DroppedShard(**shard) for shard in value["shards"])
        examples = tuple(Example(**example) for example in value["examples"])
        totals = {reason: value["totals"][reason] for reason in REASONS if reason in value["totals"]}
        return Selection(value["identity"], totals, shards, examples, value["fingerprint"])
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is not a selection of this version ({error}); remove it and run pipelines.embed again"
        ) from error
