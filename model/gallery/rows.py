"""The rows that the gallery shows, of the test split and of the memory: where they are from, and their texts."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schemas
from pipelines.manifest import Embeddings, Neighbors

_COLUMNS = ["id", "source_shard", "member", "caption"]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows, ascending by id.

    Attributes:
        ids: int64 `[R]`.
        containers: `source_shard` of each.
        members: their names there.
        captions: None for none.
    """

    ids: np.ndarray
    containers: list[str]
    members: list[str]
    captions: list[str | None]

    @property
    def names(self) -> list[str]:
        """A name of each row that no stranger chose: the numbers of its shard and of its row there."""
        return [f"{shard}-{row}" for shard, row in zip(*schemas.split_ids(self.ids), strict=True)]


def of_test(test: Embeddings, images: np.ndarray) -> Rows:
    """Returns some rows of a split, by their numbers, ascending."""
    tables = [test.read(shard, _COLUMNS) for shard in test.shard_rows]
    return _rows(pa.concat_tables([table.replace_schema_metadata() for table in tables]).take(pa.array(images)))


def of_memory(lists: Neighbors, ids: np.ndarray) -> Rows:
    """Returns the memory rows with these ids, of those that some list names."""
    return _rows(pa.concat_tables([_none(lists), *chosen(lists, ids, _COLUMNS)]))


def _none(lists: Neighbors) -> pa.Table:
    return lists.memory(_COLUMNS).slice(0, 0)


def chosen(lists: Neighbors, ids: np.ndarray, columns: list[str]) -> Iterable[pa.Table]:
    """Yields columns, with `id`, of the memory rows with these ids; the whole table is never in memory."""
    wanted = pa.array(ids)
    for chunk in lists.chunks("memory", columns):
        yield chunk.filter(pc.is_in(chunk["id"], value_set=wanted)).replace_schema_metadata()


def _rows(table: pa.Table) -> Rows:
    containers, members, captions = (table[name].to_pylist() for name in _COLUMNS[1:])
    return Rows(table["id"].to_numpy(), containers, members, captions)
