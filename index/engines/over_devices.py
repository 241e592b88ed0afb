"""Searches the tiles of a shard on accelerators: every key is compared, and the keys are spread over all devices.

An accelerator multiplies far faster than it follows leaves, so here a search is products alone: queries times tiles,
`2 d` operations for a pair, and a top-k that must keep up with them. Each device finds the best of its tiles, and the
lists of all are merged. The keys must fit into the memory of the devices.

The best of many scores are found in buckets: the `k` largest scores are in the `k` buckets with the largest maxima, so
only these buckets are sorted. A recall below 1 lets XLA keep one score per bucket (`jax.lax.approx_max_k`, from
"TPU-KNN", Chern et al., 2022), which TPUs do at the rate of the products; elsewhere it is exact.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from index.engines.products import products
from index.engines.tiles import Tiles
from pipelines.nearest_neighbors import top_k

# Queries at a time, tiles of a product, and scores of a bucket.
_QUERIES, _TILES, _BUCKET = 1024, 64, 32
_AXIS = "keys"


def are_there() -> bool:
    """Tells whether JAX has an accelerator, or more than one device."""
    return len(jax.devices()) > 1 or jax.default_backend() != "cpu"


class DeviceTiles:
    """The tiles of a shard in the memory of all devices of this process."""

    def __init__(self, tiles: Tiles) -> None:
        """Copies the keys to the devices, in equal parts."""
        self._mesh = Mesh(np.array(jax.devices()), (_AXIS,))
        size = len(jax.devices()) * _TILES
        missing = -len(tiles.rows) % size
        spread = NamedSharding(self._mesh, PartitionSpec(_AXIS))
        self._keys = jax.device_put(np.pad(tiles.keys, ((0, missing), (0, 0), (0, 0))), spread)
        self._rows = jax.device_put(np.pad(tiles.rows, ((0, missing), (0, 0)), constant_values=-1), spread)

    def search(self, queries: np.ndarray, k: int, recall: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """Returns the `k` best rows for each query.

        Args:
            queries: float32 `[Q, d]`, which are rounded to the precision of the keys.
            k: length of the lists.
            recall: expected share of the best that is found; 1 for all.

        Returns:
            Rows int64 and scores float32, both `[Q, k]`, ordered and padded as by `nearest_neighbors.top_k`.
        """
        rows, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        for begin in range(0, len(queries), _QUERIES):
            block = queries[begin : begin + _QUERIES]
            padded = np.pad(block, ((0, _QUERIES - len(block)), (0, 0))).astype(self._keys.dtype)
            found, values = _search(self._keys, self._rows, padded, k, recall, self._mesh)
            best = top_k(np.asarray(found)[: len(block)].astype(np.int64), np.asarray(values)[: len(block)], k)
            rows[begin : begin + len(block)], scores[begin : begin + len(block)] = best
        return rows, scores


@functools.partial(jax.jit, static_argnames=("k", "recall", "mesh"))
def _search(
    keys: jax.Array, rows: jax.Array, queries: jax.Array, k: int, recall: float, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    """Returns rows and scores of the best, `[q, k]`, -1 where there are fewer, in any order."""

    def on_one_device(keys: jax.Array, rows: jax.Array, queries: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(
            best: tuple[jax.Array, jax.Array], part: tuple[jax.Array, jax.Array]
        ) -> tuple[tuple[jax.Array, jax.Array], None]:
            part_keys, part_rows = part[0].reshape(-1, part[0].shape[-1]), part[1].reshape(-1)
            scores = products(queries, part_keys)
            values, places = _largest(jnp.where(part_rows >= 0, scores, -jnp.inf), k, recall)
            return _merged(best, (part_rows[places], values), k), None

        parts = (keys.reshape(-1, _TILES, *keys.shape[1:]), rows.reshape(-1, _TILES, *rows.shape[1:]))
        start = (jnp.full((len(queries), k), -1, jnp.int32), jnp.full((len(queries), k), -jnp.inf))
        best, _ = jax.lax.scan(step, start, parts)
        found = (jnp.moveaxis(jax.lax.all_gather(each, _AXIS), 0, 1).reshape(len(queries), -1) for each in best)
        everywhere, values = found
        values, places = jax.lax.top_k(values, k)
        return jnp.take_along_axis(everywhere, places, axis=1), values

    spread, same = PartitionSpec(_AXIS), PartitionSpec()
    return jax.shard_map(
        on_one_device, mesh=mesh, in_specs=(spread, spread, same), out_specs=(same, same), check_vma=False
    )(keys, rows, queries)


def _largest(scores: jax.Array, k: int, recall: float) -> tuple[jax.Array, jax.Array]:
    """Returns the largest scores of `[q, n]` and their places, `[q, min(k, n)]`."""
    queries, number = scores.shape
    if recall < 1:
        return jax.lax.approx_max_k(scores, min(k, number), recall_target=recall)
    buckets = number // _BUCKET
    if buckets <= k:
        return jax.lax.top_k(scores, min(k, number))
    # A bucket is spread over the row, so that its maximum is one of whole vectors.
    in_buckets = scores.reshape(queries, _BUCKET, buckets)
    _, chosen = jax.lax.top_k(in_buckets.max(axis=1), k)
    inside = jnp.take_along_axis(in_buckets, chosen[:, None, :], axis=2)
    values, places = jax.lax.top_k(inside.reshape(queries, -1), k)
    member, bucket = places // k, jnp.take_along_axis(chosen, places % k, axis=1)
    return values, member * buckets + bucket


def _merged(
    one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array], k: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the `k` best of two lists of rows and scores."""
    rows, scores = (jnp.concatenate(each, axis=1) for each in zip(one, other, strict=True))
    values, places = jax.lax.top_k(scores, k)
    return jnp.take_along_axis(rows, places, axis=1), values
