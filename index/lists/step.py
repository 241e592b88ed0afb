"""What the steps of the neighbours job share: the index and its shards, queries as vectors, and the files of blocks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from index.lists.layout import STAGE, Block, Group, NeighborJob, read_marker
from index.store import keys
from index.store.lookup import LIST_ENTRIES, Lookup
from index.store.reader import Index
from pipelines import schemas
from pipelines.errors import UserError, command
from pipelines.nearest_neighbors import BestLists

# Queries that are read and searched at a time: enough for all threads of a search.
BATCH_ROWS = 16_384


class Step(beam.DoFn):
    """A step of the job. Nothing it opens is a property: Beam reads those before it sends the step to workers."""

    def __init__(self, job: NeighborJob) -> None:
        """Keeps what workers need."""
        self._job = job

    def setup(self) -> None:
        """Opens the index, without loading a shard."""
        self._index = self._job.open_index()
        self._by_name = self._job.by_name()

    def _load(self, shard: int) -> Lookup:
        try:
            return Lookup(self._index.load(shard))
        except UserError as error:
            if Index.open(self._job.index).fingerprint == self._job.version:
                raise
            raise UserError(
                f"{self._job.index}: was updated while neighbours were looked up; run {command(STAGE)} again"
            ) from error

    def _vectors(self, block: Block, rows: pa.Table) -> np.ndarray:
        where = f"{self._job.queries[block.split]}, shard {block.shard}"
        return keys.unit_keys(rows["key"], self._index.key_encoder, where)

    def _whole(self, group: Group) -> Iterator[tuple[np.ndarray, np.ndarray, pa.Table]]:
        """Yields places, vectors and rows of the queries of a group, from their own files."""
        begin = 0
        for block, rows in self._job.read_queries(group, list(keys.COLUMNS)):
            yield np.arange(begin, begin + block.rows), self._vectors(block, rows), rows
            begin += block.rows

    def _images(self, split: str, column: pa.ChunkedArray) -> np.ndarray | None:
        """Returns the content keys of queries if their own rows of the memory are to be left out."""
        is_wanted = self._job.exclude_same_image or split in self._job.own_sets
        return keys.content_keys(column) if is_wanted else None

    def _find(
        self, lookup: Lookup, split: str, vectors: np.ndarray, rows: pa.Table, **scanned: Any
    ) -> tuple[np.ndarray, ...]:
        """Searches a shard; returns what `Lookup.search` does, which also takes what is `scanned` of it."""
        images = self._images(split, rows["content_key"])
        ids = None if self._job.exclude_same_image or images is None else rows["id"].to_numpy()
        if self._by_name is None:
            return lookup.search(vectors, self._job.k, images, ids, **scanned)
        step, parts = max(1, LIST_ENTRIES // self._by_name.depth), []
        for begin in range(0, max(len(vectors), 1), step):
            some = slice(begin, begin + step)
            theirs = (None if values is None else values[some] for values in (images, ids))
            part = {name: values[some] for name, values in scanned.items()}
            found, scores, excluded = lookup.search(vectors[some], self._by_name.depth, *theirs, **part)
            parts.append((*self._by_name.choose(found, scores), excluded))
        ids, scores, excluded = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        if not scanned:
            ids, scores = self._with_named(split, (ids, scores), [lookup], lambda: (vectors, rows))
        return ids, scores, excluded

    def _with_named(
        self,
        split: str,
        found: tuple[np.ndarray, np.ndarray],
        shards: Iterable[Lookup],
        read: Callable[[], tuple[np.ndarray, pa.Table]],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns lists by name that have padding only if no more rows of some shards name a class; others as they are.

        Args:
            split: of the queries.
            found: ids and scores `[Q, k]` in these shards.
            shards: are loaded only if a list is short.
            read: returns vectors and rows of the queries.
        """
        ids, scores = found
        if self._by_name is None or not len(short := self._by_name.short(ids)):
            return found
        vectors, rows = read()
        images = self._images(split, rows["content_key"].take(short))
        own = None if self._job.exclude_same_image or images is None else rows["id"].to_numpy()[short]
        named = BestLists(len(short), self._job.k)
        for lookup in shards:
            named.add(*lookup.scan(vectors[short], self._job.k, images, own, self._by_name.named))
        ids[short], scores[short] = self._by_name.join((ids[short], scores[short]), (named.ids, named.scores))
        return ids, scores

    def write_block(
        self, block: Block, queries: pa.Table, ids: np.ndarray, scores: np.ndarray, excluded: np.ndarray
    ) -> None:
        """Writes the lists of a block, ids and scores `[Q, k]`, and its marker."""
        schema = schemas.neighbors(self._job.k)
        columns = {
            "query_id": queries["id"].combine_chunks(),
            "label": queries["label"].combine_chunks(),
            "neighbor_ids": schemas.fixed_list(ids, schema.field("neighbor_ids")),
            "scores": schemas.fixed_list(scores, schema.field("scores")),
            "num_valid": pa.array((ids >= 0).sum(axis=1), pa.int32()),
            "num_excluded": pa.array(excluded, pa.int32()),
        }
        listed = ids[:, 0] >= 0
        facts = {
            "listed": int(listed.sum()),
            "top_score_sum": float(scores[listed, 0].sum(dtype=np.float64)),
            "excluded": int(excluded.sum()),
        }
        table = pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)
        self._job.write_output(block.name, table, facts)

    def _read_lists(self, block: Block) -> np.ndarray:
        """Returns the ids `[Q, k]` of a finished block."""
        footer = read_marker(self._job.marker_path(block.name))["file"]["footer_sha256"]
        table = self._job.read(self._job.output_path(block.name), ["neighbor_ids"], footer)
        return schemas.to_matrix(table["neighbor_ids"])


def distinct(ids: np.ndarray) -> np.ndarray:
    """Returns the distinct ids, ascending, of int64 ids of any shape; `np.unique` takes many times as long."""
    return _without_repeats(np.sort(ids, axis=None))


def union(lists: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the distinct ids, ascending, of lists of ascending int64 ids, which a stable sort only merges."""
    return _without_repeats(np.sort(np.concatenate(lists), kind="stable"))


def _without_repeats(ids: np.ndarray) -> np.ndarray:
    is_first = np.ones(len(ids), bool)
    np.not_equal(ids[1:], ids[:-1], out=is_first[1:])
    return ids[is_first]


def by_memory_shard(named: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Yields (memory shard, int64 ids as bytes) for ascending ids; negative ids are padding."""
    named = named[named >= 0]
    shards, begins = np.unique(schemas.split_ids(named)[0], return_index=True)
    for shard, ids in zip(shards.tolist(), np.split(named, begins[1:]), strict=False):
        yield shard, ids.tobytes()
