"""What passes between tables, heads and objectives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_EPSILON = 1e-6


class Rows(NamedTuple):
    """Rows of a table that are still to be gathered.

    Attributes:
        table: `[M, V]`.
        places: int32 `[B, K]`.
    """

    table: jax.Array
    places: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the gathered rows."""
        return (*self.places.shape, self.table.shape[-1])

    @property
    def dtype(self) -> jnp.dtype:
        """Of the gathered rows."""
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
        classes: what is known of the C classes, the same for every batch: for each kind of text values `names_{kind}`,
            `[C, V]`, unit length, the embedded names, where there are any.
        key_rows: where `keys` lie, for who reads them without gathering; None if they lie nowhere else.
        value_rows: where `values` lie, in the same way. Who replaces keys or values sets both to None.
    """

    queries: jax.Array
    keys: jax.Array
    values: dict[str, jax.Array]
    scores: jax.Array
    mask: jax.Array
    classes: dict[str, jax.Array]
    key_rows: Rows | None = None
    value_rows: dict[str, Rows] | None = None


class Output(NamedTuple):
    """What a head makes of a batch.

    Attributes:
        logits: that the prediction is the argmax of, `[B, C]`.
        features: standardized, what the classifier reads, before dropout, `[B, D]`.
        weights: attention of each neighbour, `[B, K]`; `[B, 0]` without attention.
        branches: logits `[B, C]` that are each trained by the loss; empty if they are `logits` alone.
    """

    logits: jax.Array
    features: jax.Array
    weights: jax.Array
    branches: tuple[jax.Array, ...] = ()


def standardize(x: jax.Array) -> jax.Array:
    """Layer norm of the last axis without scale and bias, which the projection that follows would absorb."""
    centered = x - x.mean(-1, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + _EPSILON)
