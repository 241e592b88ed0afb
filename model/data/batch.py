"""What passes between tables, heads and objectives."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Added to variances and squared lengths before their root.
EPSILON = 1e-6
# Smallest divisor of a softmax, so that an empty list has weights of 0.
_SMALLEST_SUM = 1e-6


class Rows(NamedTuple):
    """Rows of a table that have not been gathered yet.

    Attributes:
        table: `[M, V]`.
        places: int32 `[B, K]`.
    """

    table: jax.Array
    places: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the gathered rows."""
        return (*self.places.shape, self.table.shape[-1])

    @property
    def dtype(self) -> jnp.dtype:
        """That of the gathered rows."""
        return self.table.dtype

    def gather(self) -> jax.Array:
        """Returns the rows, `[B, K, V]`."""
        return self.table[self.places]


class Batch(NamedTuple):
    """What a head reads of B queries and their K neighbours.

    Attributes:
        queries: standardized, `[B, D]`.
        keys: standardized, `[B, K, D]`.
        values: standardized, for each kind `[B, K, V]`.
        scores: similarity of query and key, `[B, K]`.
        mask: false where a list is padded, `[B, K]`.
        prepared: the arrays that the head's `prepare` made of the task, the same for every batch; None for nothing.
        key_rows: `keys` before they are gathered, for heads that read them from their table; None if there is none.
        value_rows: the same for each kind of `values`. Code that replaces keys or values must set both to None.
        classifier: where a linear classifier of standardized queries starts, `[D, C]`; None for a random start.
        offsets: what standardizing took from the queries, `[B]`: `queries + offsets` has the direction of the keys.
        memory_rows: the neighbours' rows in the memory that the head was trained with, int32 `[B, K]`; -1 for a row
            that was not in it. None only for a head that does not read them (`Head.of_rows`).
    """

    queries: jax.Array
    keys: jax.Array
    values: dict[str, jax.Array]
    scores: jax.Array
    mask: jax.Array
    prepared: Any = None
    key_rows: Rows | None = None
    value_rows: dict[str, Rows] | None = None
    classifier: jax.Array | None = None
    offsets: jax.Array | None = None
    memory_rows: jax.Array | None = None


class Output(NamedTuple):
    """What a head returns for a batch.

    Attributes:
        logits: `[B, C]`; the prediction is their argmax.
        features: input of the classifier before dropout, standardized, `[B, D]`.
        weights: weight of each neighbour, `[B, K]`; `[B, 0]` of a head that reads none.
        branches: logits `[B, C]` that the loss trains one by one; empty if these are `logits` alone.
    """

    logits: jax.Array
    features: jax.Array
    weights: jax.Array
    branches: tuple[jax.Array, ...] = ()


def standardize(x: jax.Array) -> jax.Array:
    """Layer norm of the last axis without scale and bias, which the next projection would absorb."""
    centered = x - x.mean(-1, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + EPSILON)


def offset(x: jax.Array) -> jax.Array:
    """Returns what `standardize` takes from each row `[N, D]`, `[N]`: its mean, on the scale of the result."""
    mean = x.mean(-1)
    return mean * jax.lax.rsqrt(jnp.square(x - mean[..., None]).mean(-1) + EPSILON)


def directions(batch: Batch) -> jax.Array:
    """Returns the queries as their encoder made them, of unit length `[B, D]`: comparable with embedded class names."""
    if batch.offsets is None:
        raise ValueError("standardized queries alone do not tell the direction of a key")
    keys = batch.queries + batch.offsets[:, None]
    return keys / jnp.maximum(jnp.linalg.norm(keys, axis=-1, keepdims=True), jnp.finfo(jnp.float32).tiny)


def softmax(logits: jax.Array, axis: int = -1) -> jax.Array:
    """Softmax over an axis of `logits`, zero where they are -inf; all zero where all are."""
    largest = jnp.max(logits, axis=axis, keepdims=True)
    exponents = jnp.exp(logits - jnp.where(jnp.isfinite(largest), largest, 0))
    return exponents / jnp.maximum(exponents.sum(axis, keepdims=True), _SMALLEST_SUM)


def masked_softmax(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax over the last axis of `logits`, zero where `mask` is false; all zero where the mask is empty."""
    return softmax(jnp.where(mask, logits, -jnp.inf))


def unit(x: jax.Array, epsilon: float = EPSILON) -> jax.Array:
    """Scales the last axis to unit length; `epsilon` is added to the squared length."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + epsilon)
