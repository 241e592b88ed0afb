"""What there is to look up: groups of queries, where their files lie, and what the finished folder says.

    stage.json                          the configuration that complete.json is of
    config.json                         the whole config of the last command; only for people to read
    complete.json                       written last (`manifest.Neighbors` reads it)
    versions/{index fingerprint}/
        stage.json                      the configuration of what is here
        index.json                      the manifest of the index that the lists are looked up in
        train-00000.parquet             lists of one block (`schemas.neighbors`)
        memory/{shard}.parquet          the rows of a memory shard that some list names
        _done/..                        a marker for each of the last two
        _parts/00000/..                 of a group of blocks, until the job ends (`neighbors_job`)

After an update of the index the lists of its new version grow beside those that are complete, which go when the new
ones are. How the files come about is left to `neighbors_job`, which lists stay as they were to `neighbors_patch`.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from configs.base import Config
from index.lists import patch
from index.store import keys, limits
from index.store.reader import Index
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings

STAGE = "index.neighbors"
MEMORY = "memory"
_VERSIONS, _PARTS, _INDEX_FILE = "versions", "_parts", "index.json"
# What a group of queries may take: rows, bytes of their keys, and entries of their lists.
_GROUP_ROWS, _GROUP_BYTES, _GROUP_ENTRIES = 1 << 18, 1 << 28, 1 << 23
# What the identity of lists may differ in after an update of the memory.
_UPDATED = {"memory", "index", "own_sets"}


@dataclasses.dataclass(frozen=True)
class Block:
    """Queries whose lists share a file: rows `[begin, end)` of an embedding shard of a split."""

    name: str
    split: str
    shard: int
    begin: int
    end: int

    @property
    def rows(self) -> int:
        """How many queries there are."""
        return self.end - self.begin


@dataclasses.dataclass(frozen=True)
class Group:
    """Blocks of a split that are dealt out to the index shards, and merged, at a time."""

    name: str
    split: str
    blocks: tuple[Block, ...]

    @property
    def rows(self) -> int:
        """How many queries there are."""
        return sum(block.rows for block in self.blocks)


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a worker needs; names and numbers only.

    Attributes:
        folder: of the neighbour lists.
        memory: folder of the memory.
        index: folder of the index.
        version: fingerprint of the index that the lists are looked up in.
        queries: folder of each split.
        snapshots: of each of these folders of embeddings, by its path.
        k: neighbours a query.
        exclude_same_image: whether memory rows with the query's image bytes are left out.
        own_sets: splits whose own images are the memory.
        groups: of all splits.
        config_hash: of the neighbour lists.
        previous: version of the complete lists that are patched; empty where there are none.
        is_direct: whether each list is that of the one shard there is.
    """

    folder: str
    memory: str
    index: str
    version: str
    queries: dict[str, str]
    snapshots: dict[str, str]
    k: int
    exclude_same_image: bool
    own_sets: tuple[str, ...]
    groups: tuple[Group, ...]
    config_hash: str
    previous: str
    is_direct: bool

    @property
    def home(self) -> str:
        """Folder of the version that is looked up."""
        return _home(self.folder, self.version)

    @property
    def blocks(self) -> list[Block]:
        """Blocks of all groups."""
        return [block for group in self.groups for block in group.blocks]

    def open_index(self) -> Index:
        """Opens the version of the index that the job was planned on."""
        facts = storage.read_json(storage.join(self.home, _INDEX_FILE))
        return Index(self.index, facts, facts["search"]["level"], facts["search"]["probe"])

    def open_embeddings(self, folder: str) -> Embeddings:
        """Opens the memory or a split; a `UserError` if it is not what the job was planned on."""
        embeddings = Embeddings(folder)
        if embeddings.snapshot != self.snapshots[folder]:
            raise UserError(f"{folder}: has changed while its neighbours were looked up; run {STAGE} again")
        return embeddings

    def read_queries(self, group: Group, columns: list[str]) -> Iterator[tuple[Block, pa.Table]]:
        """Yields columns of the queries of each block; an embedding shard is read once."""
        embeddings = self.open_embeddings(self.queries[group.split])
        for shard, blocks in itertools.groupby(group.blocks, lambda block: block.shard):
            table = embeddings.read(shard, columns)
            for block in blocks:
                yield block, table.slice(block.begin, block.rows)

    def part_path(self, group: Group, name: str) -> str:
        """Returns where a file of a group is that goes when the job ends."""
        return storage.join(self.home, _PARTS, group.name, name)

    def marker_path(self, name: str) -> str:
        """Returns where the marker of an output is."""
        return storage.join(self.home, manifest.MARKERS, f"{name}.json")

    def output_path(self, name: str) -> str:
        """Returns where the file of an output, a block or `memory/{shard}`, is."""
        return storage.join(self.home, f"{name}.parquet")

    def is_done(self, name: str) -> bool:
        """Tells whether an output and its marker are there."""
        return storage.exists(self.marker_path(name)) and storage.exists(self.output_path(name))

    def read(self, path: str, columns: list[str]) -> pa.Table:
        """Reads a file of this job."""
        return schemas.read(path, columns, {"config_hash": self.config_hash})

    def write_part(self, group: Group, name: str, table: pa.Table) -> None:
        """Writes a file of a group that goes when the job ends."""
        schemas.write(self.part_path(group, name), table, {"config_hash": self.config_hash})

    def write_output(self, name: str, table: pa.Table, facts: dict[str, Any]) -> None:
        """Writes an output, then its marker with name, rows, SHA-256 and further facts."""
        path = self.output_path(name)
        schemas.write(path, table, {"config_hash": self.config_hash})
        within = storage.join(_VERSIONS, self.version, f"{name}.parquet")
        file = {"name": within, "rows": table.num_rows, "sha256": storage.sha256(path)}
        storage.write_json(self.marker_path(name), {"file": file, **facts})

    def read_previous(self, name: str, query_ids: pa.ChunkedArray) -> pa.Table:
        """Reads the lists of a block that are patched; a `UserError` if they are not of these queries."""
        path = storage.join(_home(self.folder, self.previous), f"{name}.parquet")
        lists = schemas.read(path, schemas.neighbors(self.k).names)
        if not lists["query_id"].equals(query_ids):
            raise UserError(f"{path}: is damaged, it lists other queries; remove it and run {STAGE} again")
        return lists

    def previous_facts(self) -> dict[str, Any]:
        """Returns the manifest of the index that the lists that are patched were looked up in."""
        return dict(storage.read_json(storage.join(_home(self.folder, self.previous), _INDEX_FILE)))

    def is_complete(self) -> bool:
        """Tells whether the folder is finished and has all its files."""
        return _is_complete(self.folder, self.config_hash)


def _home(folder: str, version: str) -> str:
    return storage.join(folder, _VERSIONS, version)


def _is_complete(folder: str, config_hash: str) -> bool:
    path = storage.join(folder, manifest.COMPLETE_FILE)
    if not storage.exists(path):
        return False
    whole = storage.read_json(path)
    identity = storage.read_json(storage.join(folder, manifest.STAGE_FILE))
    if whole["config_hash"] != config_hash or manifest.fingerprint(identity) != config_hash:
        return False
    return all(storage.exists(storage.join(folder, f["name"])) for group in whole["files"].values() for f in group)


def _groups(split: str, queries: Embeddings, block_rows: int, group_rows: int) -> list[Group]:
    spans = [
        (shard, begin, min(begin + block_rows, rows))
        for shard, rows in queries.shard_rows.items()
        for begin in range(0, rows, block_rows)
    ]
    dealt: list[list[Block]] = []
    for number, span in enumerate(spans):
        block = Block(f"{split}-{number:05d}", split, *span)
        if not dealt or sum(other.rows for other in dealt[-1]) + block.rows > group_rows:
            dealt.append([])
        dealt[-1].append(block)
    return [Group(f"{split}-{number:05d}", split, tuple(blocks)) for number, blocks in enumerate(dealt)]


def group_rows(dim: int, k: int) -> int:
    """Returns how many queries a group may have, for keys of a width and lists of a length."""
    return max(1, min(_GROUP_ROWS, _GROUP_BYTES // (4 * dim), _GROUP_ENTRIES // k))


def _own_sets(memory: Embeddings, queries: dict[str, Embeddings]) -> list[str]:
    """Returns the splits whose own images are the memory."""
    source = memory.identity.get("source", memory.snapshot)
    return [
        split
        for split, embeddings in queries.items()
        if embeddings.snapshot == memory.snapshot or embeddings.identity.get("source") == source
    ]


def claim(config: Config) -> Job:
    """Checks that memory, index and queries belong together and takes the folder of the lists for them.

    Lists that are there of an earlier version of the same index are not touched.

    Raises:
        UserError: if an earlier stage is not finished or is of something else, or the config is impossible.
    """
    wanted, memory, index = config.neighbors, Embeddings(config.memory_dir), Index.open(config.index_dir)
    limits.at_most_rows("neighbors.k", wanted.k, memory.rows)
    if index.memory_snapshot != memory.snapshot:
        raise UserError(f"{index.folder}: is an index of another memory than {memory.folder} is now; run index.reindex")
    queries = {
        split: Embeddings(config.queries_dir(split))
        for split, source in config.queries.items()
        if source.path or storage.exists(config.queries_dir(split))
    }
    if not queries:
        raise UserError("--config.train_set.path: is empty, as are val_set and test_set; name images to look up")
    for embeddings in queries.values():
        keys.require_same_encoder(index.key_encoder, embeddings, index.folder)
    if not any(embeddings.rows for embeddings in queries.values()):
        raise UserError(f"{', '.join(e.folder for e in queries.values())}: hold no queries to look up")
    identity = {
        **dataclasses.asdict(wanted),
        "memory": memory.snapshot,
        "index": index.fingerprint,
        "own_sets": _own_sets(memory, queries),
        "queries": {split: embeddings.snapshot for split, embeddings in queries.items()},
        "encoders": {role: dataclasses.asdict(info) for role, info in memory.encoders.items()},
    }
    folder = config.neighbors_dir
    previous = _claim_folder(folder, identity, index)
    home = _home(folder, index.fingerprint)
    config_hash = manifest.claim(home, STAGE, identity)
    storage.write_json(storage.join(folder, "config.json"), dataclasses.asdict(config))
    if not storage.exists(storage.join(home, _INDEX_FILE)):
        facts = {name: value for name, value in index.facts.items() if name != "rates"}
        storage.write_json(storage.join(home, _INDEX_FILE), facts)
    rows = group_rows(index.key_encoder.dim, wanted.k)
    return Job(
        folder=folder,
        memory=memory.folder,
        index=index.folder,
        version=index.fingerprint,
        queries={split: embeddings.folder for split, embeddings in queries.items()},
        snapshots={embeddings.folder: embeddings.snapshot for embeddings in (memory, *queries.values())},
        k=wanted.k,
        exclude_same_image=wanted.exclude_same_image,
        own_sets=tuple(identity["own_sets"]),
        groups=tuple(group for split, q in queries.items() for group in _groups(split, q, wanted.block_rows, rows)),
        config_hash=config_hash,
        previous=previous,
        is_direct=len(index.shards) == 1 and not previous,
    )


def _claim_folder(folder: str, identity: dict[str, Any], index: Index) -> str:
    """Takes a folder that is free or ours, or is of an earlier version of the index; returns what can be patched."""
    path = storage.join(folder, manifest.STAGE_FILE)
    theirs = storage.read_json(path) if storage.exists(path) else {}
    if theirs.get("index", index.fingerprint) != index.fingerprint:
        old = storage.join(_home(folder, theirs["index"]), _INDEX_FILE)
        facts = storage.read_json(old) if storage.exists(old) else {}
        ours = {"schema_version": schemas.SCHEMA_VERSION, "stage": STAGE, **identity}
        is_same = _settings(theirs) == _settings(ours)
        if is_same and facts.get("config_hash") == index.facts["config_hash"]:
            is_whole = _is_complete(folder, manifest.fingerprint(theirs))
            is_usable = is_whole and theirs["own_sets"] == identity["own_sets"]
            return theirs["index"] if is_usable and patch.is_successor(index.facts, facts) else ""
    manifest.claim(folder, STAGE, identity)
    return ""


def _settings(identity: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name not in _UPDATED}


def finish(job: Job) -> dict[str, Any]:
    """Publishes what was looked up, all of which must be there: writes `complete.json` from the markers; returns it."""
    for folder in job.snapshots:
        job.open_embeddings(folder)
    storage.remove(storage.join(job.home, _PARTS))
    blocks = [storage.read_json(job.marker_path(block.name)) for block in job.blocks]
    markers = storage.files(storage.join(job.home, manifest.MARKERS, MEMORY), ".json")
    rows = [storage.read_json(path) for path in markers]
    files: dict[str, list[dict[str, Any]]] = {split: [] for split in job.queries}
    for block, marker in zip(job.blocks, blocks, strict=True):
        files[block.split].append(marker["file"])
    files[MEMORY] = [marker["file"] for marker in sorted(rows, key=lambda marker: marker["shard"])]
    listed = sum(marker["listed"] for marker in blocks)
    whole = {
        "config_hash": job.config_hash,
        "files": files,
        "fingerprint": manifest.fingerprint([job.config_hash, files]),
        "queries": sum(marker["file"]["rows"] for marker in blocks),
        "memory_rows": sum(file["rows"] for file in files[MEMORY]),
        "excluded": sum(marker["excluded"] for marker in blocks),
        "mean_top_score": round(sum(marker["top_score_sum"] for marker in blocks) / max(listed, 1), 6),
    }
    # Until both are written they do not fit each other, so that nothing is read for what it is not.
    storage.write_json(
        storage.join(job.folder, manifest.STAGE_FILE), storage.read_json(storage.join(job.home, manifest.STAGE_FILE))
    )
    storage.write_json(storage.join(job.folder, manifest.COMPLETE_FILE), whole)
    return whole


def remove_others(job: Job) -> None:
    """Takes away what is left of other versions."""
    for entry in storage.entries(storage.join(job.folder, _VERSIONS)):
        if entry.name != job.version:
            storage.remove(storage.join(job.folder, _VERSIONS, entry.name))
