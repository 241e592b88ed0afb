"""What there is to look up: the blocks of queries, where their files lie, and what the finished folder says.

    stage.json                        the configuration the folder belongs to
    config.json                       the whole config of the last command; only for people to read
    _parts/0/train-00000.parquet      lists of one block in one index shard, until the job ends
    train-00000.parquet               lists of one block (`schemas.neighbors`)
    memory/{shard}.parquet            the rows of a memory shard that some list names
    _done/..                          a marker for each of the last two
    complete.json                     written last (`manifest.Neighbors` reads it)

How the files come about is left to `neighbors_job`.
"""

import dataclasses
from typing import Any

import pyarrow as pa

from configs.base import Config
from index import keys, limits
from index.reader import Index
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings

STAGE = "index.neighbors"
MEMORY = "memory"
_PARTS = "_parts"


@dataclasses.dataclass(frozen=True)
class Block:
    """Queries that are searched at a time: rows `[begin, end)` of an embedding shard of a split."""

    name: str
    split: str
    shard: int
    begin: int
    end: int


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a worker needs; names and numbers only.

    Attributes:
        folder: of the neighbour lists.
        memory: folder of the memory.
        index: folder of the index.
        queries: folder of each split.
        k: neighbours a query.
        exclude_same_image: whether memory rows with the query's image bytes are left out.
        shards: of the index.
        blocks: of all splits.
        config_hash: of the neighbour lists.
    """

    folder: str
    memory: str
    index: str
    queries: dict[str, str]
    k: int
    exclude_same_image: bool
    shards: int
    blocks: tuple[Block, ...]
    config_hash: str

    def part_path(self, shard: int, name: str) -> str:
        """Returns where the lists of a block in an index shard are."""
        return storage.join(self.folder, _PARTS, str(shard), f"{name}.parquet")

    def marker_path(self, name: str) -> str:
        """Returns where the marker of an output is."""
        return storage.join(self.folder, manifest.MARKERS, f"{name}.json")

    def output_path(self, name: str) -> str:
        """Returns where the file of an output, a block or `memory/{shard}`, is."""
        return storage.join(self.folder, f"{name}.parquet")

    def is_done(self, name: str) -> bool:
        """Tells whether an output and its marker are there."""
        return storage.exists(self.marker_path(name)) and storage.exists(self.output_path(name))

    def read(self, path: str, columns: list[str]) -> pa.Table:
        """Reads a file of this job."""
        return schemas.read(path, columns, {"config_hash": self.config_hash})

    def write_part(self, shard: int, name: str, table: pa.Table) -> None:
        """Writes the lists of a block in an index shard."""
        schemas.write(self.part_path(shard, name), table, {"config_hash": self.config_hash})

    def write_output(self, name: str, table: pa.Table, facts: dict[str, Any]) -> None:
        """Writes an output, then its marker with name, rows, SHA-256 and further facts."""
        path = self.output_path(name)
        schemas.write(path, table, {"config_hash": self.config_hash})
        file = {"name": f"{name}.parquet", "rows": table.num_rows, "sha256": storage.sha256(path)}
        storage.write_json(self.marker_path(name), {"file": file, **facts})

    def progress(self) -> tuple[float, int]:
        """Returns the share that is done and the queries searched, from the files that are there."""
        folders = [storage.join(self.folder, _PARTS, str(shard)) for shard in range(self.shards)]
        parts = sum(len(storage.files(folder, ".parquet")) for folder in folders)
        merged = len(storage.files(storage.join(self.folder, manifest.MARKERS), ".json"))
        searched = max(parts / self.shards, merged) / len(self.blocks)
        queries = sum(block.end - block.begin for block in self.blocks)
        return (searched + merged / len(self.blocks)) / 2, round(searched * queries)

    def is_complete(self) -> bool:
        """Tells whether the folder is finished and has all its files."""
        path = storage.join(self.folder, manifest.COMPLETE_FILE)
        if not storage.exists(path):
            return False
        files = storage.read_json(path)["files"].values()
        return all(storage.exists(storage.join(self.folder, f["name"])) for group in files for f in group)


def _blocks(split: str, queries: Embeddings, block_rows: int) -> list[Block]:
    spans = [
        (shard, begin, min(begin + block_rows, rows))
        for shard, rows in queries.shard_rows.items()
        for begin in range(0, rows, block_rows)
    ]
    return [Block(f"{split}-{number:05d}", split, *span) for number, span in enumerate(spans)]


def claim(config: Config) -> Job:
    """Checks that memory, index and queries belong together and takes the folder of the lists for them.

    Raises:
        UserError: if an earlier stage is not finished or is of something else, or the config is impossible.
    """
    wanted, memory, index = config.neighbors, Embeddings(config.memory_dir), Index.open(config.index_dir)
    limits.require("neighbors.block_rows", wanted.block_rows, 1)
    limits.require("neighbors.k", wanted.k, 1, memory.rows)
    if index.memory_snapshot != memory.snapshot:
        raise UserError(f"{index.folder}: is an index of another memory than {memory.folder}; remove it and build anew")
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
        "queries": {split: embeddings.snapshot for split, embeddings in queries.items()},
        "encoders": {role: dataclasses.asdict(info) for role, info in memory.encoders.items()},
    }
    config_hash = manifest.claim(config.neighbors_dir, STAGE, identity)
    storage.write_json(storage.join(config.neighbors_dir, "config.json"), dataclasses.asdict(config))
    return Job(
        config.neighbors_dir,
        memory.folder,
        index.folder,
        {split: embeddings.folder for split, embeddings in queries.items()},
        wanted.k,
        wanted.exclude_same_image,
        len(index.shards),
        tuple(block for split, q in queries.items() for block in _blocks(split, q, wanted.block_rows)),
        config_hash,
    )


def finish(job: Job) -> dict[str, Any]:
    """Takes the part files away, writes `complete.json` from the markers, and returns it; all must be done."""
    storage.remove(storage.join(job.folder, _PARTS))
    blocks = [storage.read_json(job.marker_path(block.name)) for block in job.blocks]
    markers = storage.files(storage.join(job.folder, manifest.MARKERS, MEMORY), ".json")
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
    storage.write_json(storage.join(job.folder, manifest.COMPLETE_FILE), whole)
    return whole
