"""Vectors of the memory that stay in their files until they are read, some rows at a time.

What is made of them, on the device or in files of its own, is left to `tables` and `host_tables`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipelines import schemas
from pipelines.manifest import Neighbors


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of vectors of all memory rows that some list names, in their order.

    Attributes:
        lists: whose memory it is.
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
        """Yields consecutive rows, float32 `[n, V]`, of all files one after the other."""
        for table in self.lists.memory_chunks([self.name]):
            yield schemas.to_matrix(table[self.name]).astype(np.float32, copy=False)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Returns rows, float32 `[.., V]`, of an integer array `[..]`; reads the files once and holds these only."""
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

_CHUNK_ROWS = schemas.ROW_GROUP_ROWS


def chunks(vectors: Vectors) -> Iterator[tuple[int, np.ndarray]]:
    """Yields consecutive rows `[n, V]` of vectors `[M, V]`, each with the number of the first."""
    if isinstance(vectors, np.ndarray):
        yield from ((first, vectors[first : first + _CHUNK_ROWS]) for first in range(0, len(vectors), _CHUNK_ROWS))
        return
    first = 0
    for chunk in vectors.chunks():
        yield first, chunk
        first += len(chunk)
