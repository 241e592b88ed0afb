"""Attention over neighbours that are gathered while they are read, so that they never fill memory.

A step waits for the reads of the K neighbours. A CPU works on a few queries at a time, whose neighbours stay in its
cache; the backward pass gathers them again, which is cheaper than keeping them. On accelerators the whole batch is one
slice.
"""

from typing import Any

import jax
import jax.numpy as jnp

from model.data import parallel
from model.data.batch import Rows, softmax

# The neighbours of this many queries fit into the cache of a core (k 100, d 768, float32: 1.2 MB of keys at a time).
SLICE_QUERIES = 4

_Values = dict[str, Any]


def _for_each_query(function: Any, tables: Any, queries: Any) -> Any:
    """Maps `function(tables, one query's part of queries)` over queries, on each device over its own share."""

    def map_(tables: Any, queries: Any) -> Any:
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda query: function(tables, query), queries, batch_size=SLICE_QUERIES)
        return jax.vmap(function, in_axes=(None, 0))(tables, queries)

    return parallel.over_queries(map_, tables, queries)


def _split(rows: list[Any]) -> tuple[list[Any], list[Any]]:
    """Splits keys or values into the tables that all queries share, None for none, and each query's own part."""
    in_table = [isinstance(r, Rows) for r in rows]
    shared = [r.table if there else None for r, there in zip(rows, in_table, strict=True)]
    return shared, [r.places if there else r for r, there in zip(rows, in_table, strict=True)]


def _read(table: jax.Array | None, own: jax.Array) -> jax.Array:
    return own if table is None else table.at[own].get(mode="promise_in_bounds")


def product(formula: str, x: jax.Array, other: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns `einsum(formula, x, other)` of factors in `dtype`, summed and returned in float32."""
    x, other = x.astype(dtype), other.astype(dtype)
    if jax.default_backend() == "cpu":
        # It has no bfloat16 product; the float32 product of the rounded factors is the same.
        x, other = x.astype(jnp.float32), other.astype(jnp.float32)
    return jnp.einsum(formula, x, other, preferred_element_type=jnp.float32)


def _dot(formula: str, x: jax.Array, rows: jax.Array) -> jax.Array:
    return product(formula, x, rows, rows.dtype)


def _pad(products: jax.Array, rows: int) -> jax.Array:
    return jnp.pad(products, ((0, rows - len(products)), (0, 0)))


@jax.custom_vjp
def attend(absorbed: jax.Array | None, bias: jax.Array, keys: Any, values: _Values) -> tuple[_Values, jax.Array]:
    """Pools values by `softmax_j(absorbed . m_j + bias_j)`. Keys and values get no gradient.

    Args:
        absorbed: float32 `[B, H, D]`; None for a softmax of the bias alone.
        bias: float32 `[B, K + N, H]`, -inf where there is no neighbour; the last N entries have no key and value zero.
        keys: `[B, K, D]`, or `Rows` of that shape.
        values: for each kind `[B, K, V]`, or `Rows` of that shape.

    Returns:
        For each kind float32 `[B, H, V]`, and the weights `[B, K + N, H]`.
    """
    tables, own = _split([keys, *values.values()])

    def one(tables: list[Any], query: Any) -> Any:
        absorbed, logits, own = query
        if absorbed is not None:
            logits += _pad(_dot("hd,kd->kh", absorbed, _read(tables[0], own[0])), len(logits))
        weights = softmax(logits, axis=0)
        pooled = {}
        for kind, *place in zip(values, tables[1:], own[1:], strict=True):
            rows = _read(*place)
            pooled[kind] = _dot("hk,kv->hv", weights[: len(rows)].T, rows)
        return pooled, weights

    return _for_each_query(one, tables, (absorbed, bias, own))


def _forward(absorbed: jax.Array | None, bias: jax.Array, keys: Any, values: _Values) -> tuple[Any, Any]:
    pooled, weights = attend(absorbed, bias, keys, values)
    return (pooled, weights), (absorbed is not None, weights, keys, values)


def _backward(saved: Any, gradients: tuple[_Values, jax.Array]) -> tuple[Any, Any, None, None]:
    has_keys, weights, keys, values = saved
    tables, own = _split([keys, *values.values()])

    def one(tables: list[Any], query: Any) -> Any:
        weights, pooled, slopes, own = query
        for kind, *place in zip(values, tables[1:], own[1:], strict=True):
            slopes += _pad(_dot("hv,kv->kh", pooled[kind], _read(*place)), len(slopes))
        logits = weights * (slopes - (weights * slopes).sum(0))
        if not has_keys:
            return None, logits
        rows = _read(tables[0], own[0])
        return _dot("hk,kd->hd", logits[: len(rows)].T, rows), logits

    absorbed, bias = _for_each_query(one, tables, (weights, *gradients, own))
    return absorbed, bias, None, None


attend.defvjp(_forward, _backward)
