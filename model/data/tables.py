"""The task in device memory, standardized once; batches are gathered from it inside the jitted step.

A larger memory stays on the host: `host_tables` gives each batch the rows that it names.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from model.data import parallel
from model.data.batch import Batch, Rows, offset, standardize
from model.data.datasets import Task, similarities
from model.data.vectors import Vectors, chunks, in_blocks

# Bytes of alignment of arrays that XLA uses without a copy.
_ALIGNMENT = 64
# The fields of tables that have a row for each query.
_OF_QUERIES = ("queries", "labels", "neighbors", "scores", "mask", "offsets", "whitened")


class Tables(NamedTuple):
    """One split, and the memory that all splits share.

    Attributes:
        queries: standardized, `[N, D]`.
        labels: int32 `[N]`.
        neighbors: rows of keys and values, int32 `[N, K]`; in tables for one batch those of its queries, `[B, K]`.
        scores: similarity of query and key, `[N, K]`.
        mask: false where a list is padded, `[N, K]`.
        whitened: similarity of query and key in the white space, `[N, K]`; None if no head reads it.
        keys: standardized, `[M, D]`.
        values: standardized, for each kind `[M, V]`.
        prepared: by head, the arrays that its `prepare` made.
        classifier: as in `Batch`.
        offsets: as in `Batch`, `[N]`.
        memory_rows: as in `Batch`, `[B, K]`, of tables for one batch; None of others, whose neighbours are these rows.
    """

    queries: jax.Array
    labels: jax.Array
    neighbors: jax.Array
    scores: jax.Array
    mask: jax.Array
    keys: jax.Array
    values: dict[str, jax.Array]
    prepared: dict[str, Any]
    classifier: jax.Array | None = None
    offsets: jax.Array | None = None
    whitened: jax.Array | None = None
    memory_rows: jax.Array | None = None

    def gather(self, rows: jax.Array, head: str = "", k: int = 0, similarity: str = "cosine") -> Batch:
        """Returns the queries of some rows with their neighbours, and with what is prepared for a head.

        Args:
            rows: `[B]`.
            head: its name.
            k: neighbours, the first of each list; 0 for all.
            similarity: which scores, see `similarities`.
        """
        first = slice(k or None)
        if self.memory_rows is None:
            near = own = self.neighbors[rows, first]
        else:
            near, own = (parallel.split(part)[:, first] for part in (self.neighbors, self.memory_rows))
        scores = similarities(self, similarity)
        keys = Rows(self.keys, near)
        values = {kind: Rows(value, near) for kind, value in self.values.items()}
        batch = Batch(
            queries=self.queries[rows],
            # Inside jit these are never gathered for a head that reads the rows.
            keys=keys.gather(),
            values={kind: value.gather() for kind, value in values.items()},
            scores=scores[rows, first],
            mask=self.mask[rows, first],
            prepared=self.prepared.get(head),
            classifier=self.classifier,
            offsets=None if self.offsets is None else self.offsets[rows],
            memory_rows=own,
        )
        # An accelerator gathers once for all layers; a CPU's cache is too small for that.
        return batch._replace(key_rows=keys, value_rows=values) if jax.default_backend() == "cpu" else batch

    def parts(self, rows: np.ndarray, count: int, memory: bool) -> Iterator[tuple["Tables", np.ndarray, int]]:
        """Yields all batches at once, see `Source`."""
        yield self, rows, count

    def rates(self) -> dict[str, float]:
        """Returns {}, see `Source`."""
        return {}


class Source(Protocol):
    """Where the batches of one split come from."""

    @property
    def queries(self) -> jax.Array:
        """As in `Tables`."""

    @property
    def labels(self) -> jax.Array:
        """As in `Tables`."""

    def parts(self, rows: np.ndarray, count: int, memory: bool) -> Iterator[tuple[Tables, np.ndarray, int]]:
        """Yields tables, the batches that can be gathered from them, and how many of these batches count.

        Args:
            rows: of the split, int32 `[n, B]`; parts have the same shapes for the same `[n, B]`.
            count: the first so many batches count.
            memory: whether keys and values are read; if not, they are those of an arbitrary row.
        """

    def rates(self) -> dict[str, float]:
        """Returns how fast the memory was read since the last call (`host_tables.Meter`); {} if nothing was read."""


def aligned_empty(shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Returns an array that XLA uses without a copy on a CPU.

    NumPy allocates it because NumPy asks for huge pages, from which random rows are read up to 1.4 times as fast.
    """
    bytes_ = math.prod(shape) * jnp.dtype(dtype).itemsize
    room = np.empty(bytes_ + _ALIGNMENT, np.uint8)
    first = -room.ctypes.data % _ALIGNMENT
    return room[first : first + bytes_].view(jnp.dtype(dtype)).reshape(shape)


def standardize_rows(rows: np.ndarray, dtype: str = "float32") -> np.ndarray:
    """Returns rows float32 `[n, V]`, standardized, in a dtype; the bits of a row do not depend on the others."""
    return in_blocks(_standardize, rows, dtype)


def offset_rows(rows: np.ndarray) -> np.ndarray:
    """Returns the offsets `[n]` of rows float32 `[n, V]`, see `Batch`; the bits of one do not depend on the others."""
    return in_blocks(_offset, rows)


_offset = jax.jit(offset)


@functools.partial(jax.jit, static_argnums=1)
def _standardize(chunk: jax.Array, dtype: str) -> jax.Array:
    return standardize(chunk).astype(dtype)


def standardized(vectors: Vectors, dtype: str) -> jax.Array:
    """Returns all rows `[M, V]`, standardized, on every device; on a CPU only a chunk of them is in memory twice."""
    table = aligned_empty(vectors.shape, dtype)
    for first, chunk in chunks(vectors):
        table[first : first + len(chunk)] = standardize_rows(chunk, dtype)
    return parallel.replicate(table)


def of_queries(task: Task) -> dict[str, Tables]:
    """Returns the queries of each split and what is prepared, without neighbours, keys and values."""
    prepared = jax.tree.map(jnp.asarray, dict(task.prepared))
    nothing = jnp.zeros((0, 0))
    loaded = {
        name: Tables(
            queries=jnp.asarray(standardize_rows(split.queries)),
            labels=jnp.asarray(split.labels),
            neighbors=nothing,
            scores=jnp.asarray(split.scores),
            mask=jnp.asarray(split.mask),
            keys=nothing,
            values={},
            prepared=prepared,
            classifier=None if task.classifier is None else jnp.asarray(task.classifier),
            offsets=jnp.asarray(offset_rows(split.queries)),
            whitened=None if split.whitened is None else jnp.asarray(split.whitened),
        )
        for name, split in task.splits.items()
    }
    return parallel.replicate(loaded)


def divided(data: Mapping[str, Tables], train: np.ndarray, val: np.ndarray) -> dict[str, Tables]:
    """Returns tables with other images in train and val; rows as `sampling.divide` returns them."""
    both = [data[name] for name in ("train", "val")]

    def take(rows: np.ndarray) -> Tables:
        joined = {}
        for name in _OF_QUERIES:
            first, second = (getattr(tables, name) for tables in both)
            joined[name] = None if first is None else jnp.concatenate([first, second])[rows]
        return both[0]._replace(**parallel.replicate(joined))

    return {**data, "train": take(train), "val": take(val)}


def load(task: Task, dtype: str = "float32") -> dict[str, Tables]:
    """Puts a task into the memory of every device; the splits share the memory's rows.

    Args:
        task: the arrays.
        dtype: of keys and values on the device.
    """
    keys = standardized(task.keys, dtype)
    values = {kind: standardized(value, dtype) for kind, value in task.values.items()}
    return {
        name: tables._replace(
            neighbors=parallel.replicate(jnp.asarray(task.splits[name].neighbors)), keys=keys, values=values
        )
        for name, tables in of_queries(task).items()
    }
