"""Deals the rows of a memory out to index shards: a file for each group of memory shards and index shard.

    _parts/shard-00003-of-00008/00012.parquet    rows of group 12 that belong to index shard 3, in the global order
    _parts/_done/00012.json                      how many rows group 12 gave to each index shard

Each memory shard is read once, with one buffer in memory for each index shard. An index of one shard needs none of
this.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from index.store.keys import COLUMNS
from index.store.routing import Router
from pipelines import manifest, schemas, storage
from pipelines.manifest import Embeddings
from pipelines.schemas import content_keys, unit_keys

PARTS = "_parts"
# Rows of a group: few and large files, but enough groups for many workers.
GROUP_ROWS = 1 << 20
# Rows that are gathered for an index shard before they are written as one row group.
BUFFER_ROWS = 1024
_AGAIN = "remove it and run web-memory build again"


@dataclasses.dataclass(frozen=True)
class Group:
    """Consecutive memory shards that one work item deals out."""

    name: str
    memory_shards: tuple[int, ...]


def groups(memory: Embeddings) -> list[Group]:
    """Returns the groups of a memory; they do not depend on the number of workers."""
    made: list[list[int]] = [[]]
    rows = 0
    for shard, count in memory.shard_rows.items():
        if made[-1] and rows + count > GROUP_ROWS:
            made.append([])
            rows = 0
        made[-1].append(shard)
        rows += count
    return [Group(f"{number:05d}", tuple(shards)) for number, shards in enumerate(made)]


def part_path(folder: str, shard: str, group: str) -> str:
    """Returns the path of the rows that a group deals to an index shard, below a build's folder."""
    return storage.join(folder, PARTS, shard, f"{group}.parquet")


class DealRows(beam.DoFn):
    """Deals groups of memory shards out to index shards."""

    def __init__(self, folder: str, memory: str, names: list[str], router: Router, metadata: dict[str, str]) -> None:
        """Keeps what workers need.

        Args:
            folder: of the build.
            memory: folder of the memory.
            names: of the index shards.
            router: decides which row goes to which shard.
            metadata: written to every file.
        """
        self._folder, self._memory, self._names = folder, memory, names
        self._router, self._metadata = router, metadata

    def process(self, group: Group) -> Iterator[tuple[int, str]]:
        """Writes the files of a group, unless they exist, and yields (index shard, group) for each file."""
        marker = storage.join(self._folder, PARTS, manifest.MARKERS, f"{group.name}.json")
        if not storage.exists(marker):
            storage.write_json(marker, {"rows": self._deal(group)})
        for shard, rows in enumerate(schemas.read_json(marker, {"rows": [int]}, _AGAIN)["rows"]):
            if rows:
                yield shard, group.name

    def _deal(self, group: Group) -> list[int]:
        memory = Embeddings(self._memory)
        info = memory.encoder("key")
        rows = np.zeros(len(self._names), np.int64)
        with contextlib.ExitStack() as stack:
            files: dict[int, _BufferedWriter] = {}
            for number in group.memory_shards:
                table = memory.read(number, list(COLUMNS))
                memory.check(number)
                keys = unit_keys(table["key"], info, f"{memory.folder}, shard {number}")
                owners = self._router.shard_of(keys, content_keys(table["content_key"]))
                for shard in np.unique(owners).tolist():
                    if shard not in files:
                        uri = part_path(self._folder, self._names[shard], group.name)
                        schema = table.schema.remove_metadata()
                        files[shard] = _BufferedWriter(stack.enter_context(schemas.writer(uri, schema, self._metadata)))
                    part = table.take(pa.array(np.flatnonzero(owners == shard)))
                    files[shard].write(part)
                    rows[shard] += part.num_rows
            for file in files.values():
                file.flush()
        return [int(count) for count in rows]


class _BufferedWriter:
    """Gathers rows, so that row groups are larger than a shard's share of one table."""

    def __init__(self, parquet: pq.ParquetWriter) -> None:
        self._parquet = parquet
        self._waiting: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table.replace_schema_metadata(self._parquet.schema.metadata))
        if sum(part.num_rows for part in self._waiting) >= BUFFER_ROWS:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._parquet.write_table(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting.clear()
