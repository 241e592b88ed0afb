"""Vectors of the memory that stay in their files until they are read, some rows at a time.

`tables` puts them on the device, `host_tables` into files of its own.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipelines import schemas
from pipelines.manifest import Neighbors


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of vectors of all memory rows that some list names, in their order.

    Attributes:
        lists: the neighbour lists that name the rows.
        name: of the column.
    """

    lists: Neighbors
    name: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of the memory, width."""
        return self.lists.memory_rows, self.lists.encoders[self.name].dim

    def __len__(self) -> int:
        """Rows of the memory."""
        return self.shape[0]

    def chunks(self) -> Iterator[np.ndarray]:
        """Yields consecutive rows, float32 `[n, V]`, file after file."""
        for table in self.lists.chunks("memory", [self.name]):
            yield schemas.to_matrix(table[self.name]).astype(np.float32, copy=False)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Returns rows, float32 `[.., V]`, of an integer array `[..]`; reads the files once and keeps only these."""
        wanted, places = np.unique(rows, return_inverse=True)
        found = np.empty((len(wanted), self.shape[1]), np.float32)
        for first, chunk in chunks(self):
            begin, end = np.searchsorted(wanted, (first, first + len(chunk)))
            found[begin:end] = chunk[wanted[begin:end] - first]
        return found[places]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Returns all rows, float32 `[M, V]`."""
        whole = np.empty(self.shape, dtype or np.float32)
        for first, chunk in chunks(self):
            whole[first : first + len(chunk)] = chunk
        return whole


Vectors = np.ndarray | Column

# Rows of an array that are read at a time.
CHUNK_ROWS = schemas.ROW_GROUP_ROWS


def chunks(vectors: Vectors) -> Iterator[tuple[int, np.ndarray]]:
    """Yields consecutive rows `[n, V]` of vectors `[M, V]`, each with the number of the first."""
    if isinstance(vectors, np.ndarray):
        yield from ((first, vectors[first : first + CHUNK_ROWS]) for first in range(0, len(vectors), CHUNK_ROWS))
        return
    first = 0
    for chunk in vectors.chunks():
        yield first, chunk
        first += len(chunk)


# Rows that `in_blocks` computes at a time.
BLOCK_ROWS = 64


def in_blocks(function: Callable[..., Any], rows: np.ndarray, *more: Any) -> np.ndarray:
    """Returns `function(rows, *more)`, computed a block of rows at a time, of which the last is filled up with zeros.

    XLA rounds sums and products differently for other numbers of rows. So a row has the same bits wherever it is: in
    training among all others, in a prediction alone.

    Args:
        function: from float32 `[BLOCK_ROWS, V]` to `[BLOCK_ROWS, ..]`, row by row.
        rows: float32 `[n, V]`.
        more: arguments that are the same for all rows.
    """
    blocks = []
    for first in range(0, max(len(rows), 1), BLOCK_ROWS):
        block = rows[first : first + BLOCK_ROWS]
        if len(block) < BLOCK_ROWS:
            block = np.concatenate([block, np.zeros((BLOCK_ROWS - len(block), *rows.shape[1:]), rows.dtype)])
        blocks.append(function(block, *more))
    # Only now, so that a device computes a block while the next is prepared.
    return np.concatenate([np.asarray(block) for block in blocks])[: len(rows)]
