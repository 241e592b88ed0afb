"""The task in device memory, standardized once; batches are gathered from it inside the jitted step.

A memory that is larger than that stays on the host: `host_tables`, which gives each batch the rows it names.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from model.data import parallel
from model.data.batch import Batch, Rows, standardize
from model.data.datasets import Task
from model.data.vectors import Vectors, chunks

# Of what XLA takes without a copy.
_ALIGNMENT = 64


class Tables(NamedTuple):
    """One split and the memory that it shares with the others.

    Attributes:
        queries: standardized, `[N, D]`.
        labels: int32 `[N]`.
        neighbors: rows of keys and values, int32 `[N, K]`; of tables for one batch those of its queries, `[B, K]`.
        scores: similarity of query and key, `[N, K]`.
        mask: false where a list is padded, `[N, K]`.
        keys: standardized, `[M, D]`.
        values: standardized, for each kind `[M, V]`.
        classes: see `Batch`.
        for_batch: something, None or not, since it is seen inside jit: whether the tables are for one batch.
    """

    queries: jax.Array
    labels: jax.Array
    neighbors: jax.Array
    scores: jax.Array
    mask: jax.Array
    keys: jax.Array
    values: dict[str, jax.Array]
    classes: dict[str, jax.Array]
    for_batch: tuple[()] | None = None

    def gather(self, rows: jax.Array) -> Batch:
        """Returns the queries of `rows` `[B]` with what they retrieved."""
        near = self.neighbors[rows] if self.for_batch is None else parallel.split(self.neighbors)
        keys = Rows(self.keys, near)
        values = {kind: Rows(value, near) for kind, value in self.values.items()}
        batch = Batch(
            queries=self.queries[rows],
            # Not gathered at all, inside jit, by a head that reads the rows.
            keys=keys.gather(),
            values={kind: value.gather() for kind, value in values.items()},
            scores=self.scores[rows],
            mask=self.mask[rows],
            classes=self.classes,
        )
        # An accelerator gathers once for all layers; a cache is too small for that.
        return batch._replace(key_rows=keys, value_rows=values) if jax.default_backend() == "cpu" else batch

    def parts(self, rows: np.ndarray, count: int, memory: bool) -> Iterator[tuple["Tables", np.ndarray, int]]:
        """See `Source`: all batches at once."""
        yield self, rows, count

    def rates(self) -> dict[str, float]:
        """See `Source`: nothing is read."""
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
        """Yields tables, the batches that can be gathered from them, and how many of these are wanted.

        Args:
            rows: of the split, int32 `[n, B]`; parts are always of the same shapes for the same `[n, B]`.
            count: of these batches, the first, are wanted.
            memory: whether keys and values are read; without, they are of some row of the memory.
        """

    def rates(self) -> dict[str, float]:
        """Returns how fast the memory was read since the last call, see `host_tables.Meter`; {} if it was not."""


def _empty(shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Returns an array that XLA takes as it is on a CPU.

    It is NumPy's since NumPy asks for huge pages, from which rows at random are read up to 1.4 times as fast.
    """
    bytes_ = math.prod(shape) * jnp.dtype(dtype).itemsize
    room = np.empty(bytes_ + _ALIGNMENT, np.uint8)
    first = -room.ctypes.data % _ALIGNMENT
    return room[first : first + bytes_].view(jnp.dtype(dtype)).reshape(shape)


@functools.partial(jax.jit, static_argnums=1)
def _standardize(chunk: jax.Array, dtype: str) -> jax.Array:
    return standardize(chunk).astype(dtype)


def standardized(vectors: Vectors, dtype: str) -> jax.Array:
    """Returns all rows `[M, V]`, standardized, on every device; nothing but a chunk of them is held twice on a CPU."""
    table = _empty(vectors.shape, dtype)
    for first, chunk in chunks(vectors):
        table[first : first + len(chunk)] = _standardize(chunk, dtype)
    return parallel.replicate(table)


def of_queries(task: Task) -> dict[str, Tables]:
    """Returns what belongs to the queries of each split, with no neighbours, keys and values."""
    device_standardize = jax.jit(standardize)
    classes = {name: jnp.asarray(value) for name, value in task.classes.items()}
    nothing = jnp.zeros((0, 0))
    loaded = {
        name: Tables(
            queries=device_standardize(jnp.asarray(split.queries)),
            labels=jnp.asarray(split.labels),
            neighbors=nothing,
            scores=jnp.asarray(split.scores),
            mask=jnp.asarray(split.mask),
            keys=nothing,
            values={},
            classes=classes,
        )
        for name, split in task.splits.items()
    }
    return parallel.replicate(loaded)


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
