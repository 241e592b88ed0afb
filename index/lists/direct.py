"""Looks up the neighbours of groups of queries in an index of one shard, whose lists are final as they are found."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from index.lists import background
from index.lists.layout import Block, Group
from index.lists.step import BATCH_ROWS, Step, by_memory_shard, distinct, union
from index.store import keys
from index.store.lookup import Lookup

_COLUMNS = (*keys.COLUMNS, "label")


@dataclasses.dataclass(frozen=True)
class QueryBatch:
    """Queries of consecutive blocks: their rows, and their vectors float32 `[Q, d]`."""

    blocks: list[Block]
    rows: list[pa.Table]
    vectors: np.ndarray


class LookUp(Step):
    """Searches groups of queries in the only shard, which is loaded once by each worker, and only if needed."""

    _lookup: Lookup | None = None

    def process(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Writes the missing blocks of a group and yields (memory shard, int64 ids named by its lists)."""
        group = self._job.groups[number]
        done = [block for block in group.blocks if self._job.is_done(block.name)]
        missing = tuple(block for block in group.blocks if block not in done)
        named = [distinct(self._read_lists(block)) for block in done]
        with background.Behind() as behind:
            for batch in background.ahead(self._batches(dataclasses.replace(group, blocks=missing))):
                self._lookup = self._lookup or self._load(0)
                found = self._find(self._lookup, group.split, batch.vectors, pa.concat_tables(batch.rows))
                behind.do(self._write, batch, found, named)
        yield from by_memory_shard(union(named))

    def _batches(self, group: Group) -> Iterator[QueryBatch]:
        blocks: list[Block] = []
        rows: list[pa.Table] = []
        vectors: list[np.ndarray] = []
        for block, table in self._job.read_queries(group, list(_COLUMNS)):
            blocks.append(block)
            rows.append(table)
            vectors.append(self._vectors(block, table))
            if sum(map(len, vectors)) >= BATCH_ROWS or block == group.blocks[-1]:
                yield QueryBatch(blocks, rows, np.concatenate(vectors))
                blocks, rows, vectors = [], [], []

    def _write(self, batch: QueryBatch, found: Sequence[np.ndarray], named: list[np.ndarray]) -> None:
        """Writes the lists of a batch and adds the ids that they name."""
        named.append(distinct(found[0]))
        begin = 0
        for block, rows in zip(batch.blocks, batch.rows, strict=True):
            self.write_block(block, rows, *(part[begin : begin + block.rows] for part in found))
            begin += block.rows
