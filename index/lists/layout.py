"""The neighbour lists' folder: groups of queries, the files of each, and what the finished folder says.

    stage.json                          the configuration that complete.json belongs to
    config.json                         the whole config of the last command, for people to read
    complete.json                       written last (`manifest.Neighbors` reads it)
    versions/{index fingerprint}/
        stage.json                      the configuration of this version
        index.json                      the manifest of the index that is searched
        train-00000.parquet             lists of one block (`schemas.neighbors`)
        memory/{shard}.parquet          the rows of a memory shard that some list names
        _done/..                        a marker for each of the last two
        _parts/00000/..                 of a group of blocks, until the job ends (`neighbor_job`)

After an update of the index, the lists of its new version grow beside the complete ones, which are deleted once the
new ones are complete. See `claim` for how a job begins, `neighbor_job` for how the files are made, and `patch` for
which lists are kept.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from configs.schema.search import KEY
from index.lists.naming import ByName
from index.store import index_manifest
from index.store.reader import Index
from index.store.records import Point
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError, command
from pipelines.manifest import Embeddings

STAGE = "index.neighbors"
MEMORY = "memory"
AGAIN = f"remove it and run {command(STAGE)} again"
_VERSIONS, _PARTS, _INDEX_FILE = "versions", "_parts", "index.json"


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
        """Number of queries."""
        return self.end - self.begin


@dataclasses.dataclass(frozen=True)
class Group:
    """Blocks of a split that are dealt out to the index shards, and merged, together."""

    name: str
    split: str
    blocks: tuple[Block, ...]

    @property
    def rows(self) -> int:
        """Number of queries."""
        return sum(block.rows for block in self.blocks)


@dataclasses.dataclass(frozen=True)
class NeighborJob:
    """All that a worker needs; names and numbers only.

    Attributes:
        folder: of the neighbour lists.
        memory: folder of the memory.
        index: folder of the index.
        version: fingerprint of the index that is searched.
        queries: folder of each split.
        snapshots: of the memory and each split, by folder.
        k: neighbours of each query.
        exclude_same_image: whether memory rows with the query's image bytes are left out.
        own_sets: splits whose images are the memory.
        groups: of all splits.
        config_hash: of the neighbour lists.
        previous: version of the complete lists to patch; empty for none.
        is_direct: whether the index has one shard, whose lists are final.
        by: what a list has, as `Neighbors.by`.
        concepts: folder of the concepts, for lists by name.
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
    by: str = KEY
    concepts: str = ""

    @property
    def home(self) -> str:
        """Folder of the lists of this version of the index."""
        return home(self.folder, self.version)

    @property
    def blocks(self) -> list[Block]:
        """Blocks of all groups."""
        return [block for group in self.groups for block in group.blocks]

    def open_index(self) -> Index:
        """Opens the version of the index that the job was planned for."""
        facts = read_index_facts(self.home)
        return Index(self.index, facts, Point(**facts["search"]))

    def by_name(self) -> ByName | None:
        """Reads which rows name a class, for lists by name; None for others."""
        if self.by == KEY:
            return None
        memory = self.open_embeddings(self.memory)
        return ByName(self.concepts, memory.snapshot, memory.rows, self.by, self.k)

    def open_embeddings(self, folder: str) -> Embeddings:
        """Opens the memory or a split; a `UserError` if it has changed since the job was planned."""
        embeddings = Embeddings(folder)
        if embeddings.snapshot != self.snapshots[folder]:
            raise UserError(f"{folder}: has changed while its neighbours were looked up; run {command(STAGE)} again")
        return embeddings

    def read_queries(self, group: Group, columns: list[str]) -> Iterator[tuple[Block, pa.Table]]:
        """Yields columns of the queries of each block; an embedding shard is read once."""
        embeddings = self.open_embeddings(self.queries[group.split])
        for shard, blocks in itertools.groupby(group.blocks, lambda block: block.shard):
            table = embeddings.read(shard, columns)
            for block in blocks:
                yield block, table.slice(block.begin, block.rows)

    def part_path(self, group: Group, name: str) -> str:
        """Returns the path of a group's file that is deleted when the job ends."""
        return storage.join(self.home, _PARTS, group.name, name)

    def marker_path(self, name: str) -> str:
        """Returns the path of an output's marker."""
        return storage.join(self.home, manifest.MARKERS, f"{name}.json")

    def output_path(self, name: str) -> str:
        """Returns the path of an output: a block or `memory/{shard}`."""
        return storage.join(self.home, f"{name}.parquet")

    def is_done(self, name: str) -> bool:
        """Tells whether an output and its marker exist, as files."""
        return bool(storage.found(self.marker_path(name)) and storage.found(self.output_path(name)))

    def read(self, path: str, columns: list[str], footer: str = "") -> pa.Table:
        """Reads a file of this job, of which the SHA-256 of the footer may be known."""
        return schemas.read(path, columns, {"config_hash": self.config_hash}, footer)

    def write_part(self, group: Group, name: str, table: pa.Table) -> None:
        """Writes a group's file that is deleted when the job ends."""
        schemas.write(self.part_path(group, name), table, {"config_hash": self.config_hash})

    def write_output(self, name: str, table: pa.Table, facts: dict[str, Any]) -> None:
        """Writes an output, then its marker with name, rows, SHA-256 and further facts."""
        path = self.output_path(name)
        schemas.write(path, table, {"config_hash": self.config_hash})
        within = storage.join(_VERSIONS, self.version, f"{name}.parquet")
        digests = {"sha256": storage.sha256(path), "footer_sha256": schemas.footer_sha256(path)}
        file = {"name": within, "rows": table.num_rows, **digests}
        storage.write_json(self.marker_path(name), {"file": file, **facts})

    def read_previous(self, name: str, query_ids: pa.ChunkedArray) -> pa.Table:
        """Reads the lists of a block to patch; a `UserError` if they belong to other queries."""
        path = storage.join(home(self.folder, self.previous), f"{name}.parquet")
        footer = read_marker(storage.join(home(self.folder, self.previous), manifest.MARKERS, f"{name}.json"))
        lists = schemas.read(path, schemas.neighbors(self.k).names, None, footer["file"]["footer_sha256"])
        if not lists["query_id"].equals(query_ids):
            raise UserError(f"{path}: is damaged: it lists other queries; remove it and run {command(STAGE)} again")
        return lists

    def previous_facts(self) -> dict[str, Any]:
        """Returns the manifest of the index that the lists to patch were looked up in."""
        return read_index_facts(home(self.folder, self.previous))

    def is_complete(self) -> bool:
        """Tells whether the folder is finished and has all its files."""
        return is_complete(self.folder, self.config_hash)


def home(folder: str, version: str) -> str:
    """Returns the folder of the lists of one version of the index."""
    return storage.join(folder, _VERSIONS, version)


def index_facts_path(version: str) -> str:
    """Returns the path of an index's manifest in a version's folder."""
    return storage.join(version, _INDEX_FILE)


def write_index_facts(version: str, facts: Mapping[str, Any]) -> None:
    """Keeps the manifest of an index in a version's folder, once, without its rates."""
    path = index_facts_path(version)
    if not storage.exists(path):
        storage.write_json(path, {name: value for name, value in facts.items() if name != "rates"})


def read_index_facts(version: str) -> dict[str, Any]:
    """Returns the manifest that `write_index_facts` kept; a `UserError` if it is missing or damaged."""
    path = index_facts_path(version)
    return index_manifest.check(path, AGAIN)


def read_marker(path: str) -> dict[str, Any]:
    """Returns the marker of an output; a `UserError` if it is missing or damaged, or of another output."""
    marker = schemas.read_json(path, {"file": manifest.LIST_FILE}, AGAIN)
    named = marker["file"]["name"].removesuffix(".parquet").split("/")[1:]
    if named != path.removesuffix(".json").replace(f"/{manifest.MARKERS}/", "/").split("/")[-len(named) :]:
        raise UserError(f"{path}: is the marker of {marker['file']['name']}; {AGAIN}")
    return marker


def is_complete(folder: str, config_hash: str, with_files: bool = True) -> bool:
    """Tells whether a folder of lists is finished for a configuration and, `with_files`, has all its files."""
    if not all(storage.exists(storage.join(folder, file)) for file in (manifest.STAGE_FILE, manifest.COMPLETE_FILE)):
        return False
    path = storage.join(folder, manifest.COMPLETE_FILE)
    claimed, found = manifest.read_identity(folder), schemas.read_json(path, {"config_hash": str}, AGAIN)
    if (manifest.fingerprint(claimed), found["config_hash"]) != (config_hash, config_hash):
        return False
    files = manifest.read_lists(folder)[1]["files"] if with_files else {}
    return all(storage.exists(storage.join(folder, f["name"])) for group in files.values() for f in group)


def finish(job: NeighborJob) -> dict[str, Any]:
    """Writes `complete.json` from the markers, all of which must exist, and returns its contents."""
    for folder in job.snapshots:
        job.open_embeddings(folder)
    storage.remove(storage.join(job.home, _PARTS))
    blocks = [read_marker(job.marker_path(block.name)) for block in job.blocks]
    files = _files(job, blocks)
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
    # Until both are written they do not match, so that no reader takes old lists for new ones.
    identity = manifest.read_identity(job.home)
    storage.write_json(storage.join(job.folder, manifest.STAGE_FILE), identity)
    storage.write_json(storage.join(job.folder, manifest.COMPLETE_FILE), whole)
    return whole


def _files(job: NeighborJob, blocks: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Returns name, rows and digest of every file of lists, by split, and of memory rows.

    Args:
        job: of the lists.
        blocks: the markers of its blocks.
    """
    files: dict[str, list[dict[str, Any]]] = {split: [] for split in job.queries}
    for block, marker in zip(job.blocks, blocks, strict=True):
        files[block.split].append(marker["file"])
    paths = storage.files(storage.join(job.home, manifest.MARKERS, MEMORY), ".json")
    gathered = sorted(map(read_marker, paths), key=lambda marker: marker["shard"])
    files[MEMORY] = [marker["file"] for marker in gathered]
    return files


def remove_others(job: NeighborJob) -> None:
    """Deletes the lists of other versions."""
    for entry in storage.entries(storage.join(job.folder, _VERSIONS)):
        if entry.name != job.version:
            storage.remove(storage.join(job.folder, _VERSIONS, entry.name))
