"""Regions of space: which index shard a key belongs to, and what part of each shard a query has to search.

A k-means over a sample of the keys cuts space into leaves, as many as one index of all keys would have. Each shard owns
whole leaves that are near each other, and all shards have about the same number of keys. A query ranks all leaves,
takes the nearest ones, and visits the shards that own some of them. There it scans these leaves only. So all shards
together scan what one index of the same keys would scan.

Without regions (`hash`) a key's shard is random, and every query visits every shard and searches leaves of its own.
"""

import dataclasses
import math

import numpy as np
import pyarrow as pa

from index.engines import partitions
from pipelines import schemas
from pipelines.nearest_neighbors import largest, search

# Fewest leaves of a shard, so that shards can be balanced; also those of shards that are searched without leaves.
MIN_LEAVES_PER_SHARD = 16
SAMPLE_ROWS_PER_LEAF = 64
_ITERATIONS = 8
_BLOCK_ROWS = 1024
# A shard that a query expects less than this share of its neighbours in is not visited. On 300k x 128 keys in 8 shards,
# that left out 0.8 of 4.7 visits and 0.003 of recall@100.
MIN_SHARE = 0.006
# Shares of the neighbours that are in the nearest leaves, for which the number of leaves is found.
COVERAGES = (0.8, 0.88, 0.93, 0.95, 0.96, 0.97, 0.98, 0.99, 0.997)
# Queries that the shares of ranks are measured on.
SHARE_QUERIES = 500
_SAME = 1 - 1e-5


@dataclasses.dataclass(frozen=True)
class Visits:
    """The part of each shard that queries search.

    Attributes:
        leaves: int32 `[Q, shards]`, how many of a shard's leaves a query scans; 0 if it does not visit the shard.
        shares: float32 `[Q, shards]`, the share of its neighbours that a query expects in these leaves.
    """

    leaves: np.ndarray
    shares: np.ndarray

    def part(self, queries: np.ndarray, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the leaves and shares of some queries, by their places, in one shard."""
        return self.leaves[queries, shard], self.shares[queries, shard]


@dataclasses.dataclass(frozen=True)
class Router:
    """Leaves of space and the shards that own them.

    Attributes:
        centres: float32 `[l, d]`, unit length; empty if shards are not regions.
        owners: int32 `[l]`, the shard of each leaf.
        shares: float32 `[l]`, the mean share of a query's neighbours that are in its nearest leaf, in the second, ..
        shards: number of shards.
    """

    centres: np.ndarray
    owners: np.ndarray
    shares: np.ndarray
    shards: int

    @property
    def steps(self) -> list[int]:
        """Numbers of leaves that a query may scan, ascending; the last is all of them."""
        covered = np.cumsum(self.shares, dtype=np.float64)
        found = np.searchsorted(covered, np.array(COVERAGES) * covered[-1]) + 1
        return sorted({*found.tolist(), len(self.centres)})

    def leaves_of(self, shard: int) -> np.ndarray:
        """Returns the centres of the leaves that a shard owns, float32 `[m, d]`."""
        return self.centres[self.owners == shard]

    def shard_of(self, keys: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Returns the shard of each row.

        Args:
            keys: float32 `[n, d]`.
            images: bytes `S32` `[n]`, the content keys.

        Returns:
            int64 `[n]`.
        """
        if not len(self.centres):
            head = np.ascontiguousarray(images).view(np.uint8).reshape(len(images), 32)[:, :8].copy()
            return (head.view(">u8")[:, 0] % self.shards).astype(np.int64)
        return self.owners[partitions.nearest(keys, self.centres)].astype(np.int64)

    def visits(self, queries: np.ndarray, leaves: int, growth: float = 1.0) -> Visits:
        """Returns which part of each shard queries search.

        Args:
            queries: float32 `[Q, d]`.
            leaves: how many of the nearest leaves they scan; shards that hold next to nothing of them are left out,
                unless these are all leaves.
            growth: how many times as many neighbours are searched for as the shares were measured on; they are in as
                many times as many leaves.
        """
        counts = np.zeros((len(queries), self.shards), np.int32)
        shares = np.zeros((len(queries), self.shards), np.float32)
        leaves = min(math.ceil(leaves * growth), len(self.centres))
        covered = np.concatenate([[0.0], np.cumsum(self.shares, dtype=np.float64)])
        weights = np.diff(np.interp(np.arange(leaves + 1) / growth, np.arange(len(covered)), covered))
        weights /= weights.sum()
        for begin in range(0, len(queries), _BLOCK_ROWS):
            ranked = largest(queries[begin : begin + _BLOCK_ROWS] @ self.centres.T, leaves)
            visit = (np.arange(len(ranked))[:, None] * self.shards + self.owners[ranked]).ravel()
            many, block = len(ranked) * self.shards, slice(begin, begin + len(ranked))
            counts[block] = np.bincount(visit, minlength=many).reshape(-1, self.shards)
            shares[block] = np.bincount(visit, np.tile(weights, len(ranked)), many).reshape(-1, self.shards)
        if leaves < len(self.centres):
            few = shares < MIN_SHARE
            counts[few], shares[few] = 0, 0
        return Visits(counts, shares)

    def to_table(self) -> pa.Table:
        """Returns the leaves as a table."""
        centre = pa.field("centre", pa.list_(pa.float32(), self.centres.shape[1]), nullable=False)
        schema = pa.schema(
            [pa.field("shard", pa.int32(), nullable=False), pa.field("share", pa.float32(), nullable=False), centre]
        )
        arrays = [pa.array(self.owners, pa.int32()), pa.array(self.shares), schemas.fixed_list(self.centres, centre)]
        return pa.Table.from_arrays(arrays, schema=schema)

    COLUMNS = ("shard", "share", "centre")

    @classmethod
    def from_table(cls, table: pa.Table, shards: int) -> "Router":
        """Reads what `to_table` made."""
        return cls(schemas.to_matrix(table["centre"]), table["shard"].to_numpy(), table["share"].to_numpy(), shards)


def without_regions(shards: int, dim: int) -> Router:
    """Returns a router that sends every query everywhere."""
    return Router(np.empty((0, dim), np.float32), np.empty(0, np.int32), np.empty(0, np.float32), shards)


def fit(sample: np.ndarray, shards: int, leaves: int, queries: np.ndarray, share: float, k: int) -> Router:
    """Cuts space into leaves and gives each shard some.

    Args:
        sample: of the keys, float32 `[m, d]`, unit length.
        shards: number of shards.
        leaves: to cut space into; fewer if the sample is small, but at least one for each shard.
        queries: float32 `[Q, d]`, like those that will be searched for.
        share: of all keys that are in the sample.
        k: length of the lists.
    """
    leaves = max(shards, min(leaves, len(sample) // 4))
    centres = partitions.fit(sample, leaves, _ITERATIONS)
    leaf = partitions.nearest(sample, centres)
    owners = np.empty(leaves, np.int32)
    _share_out(centres, np.bincount(leaf, minlength=leaves) + 1e-3, np.arange(leaves), owners, 0, shards)
    return Router(centres, owners, _shares(sample, leaf, centres, queries, max(1, round(share * k))), shards)


def _shares(sample: np.ndarray, leaf: np.ndarray, centres: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Returns the share of the k nearest neighbours in each query's nearest leaf, in the second, .., float32 `[l]`.

    A sample holds its share of the nearest keys, so they are the nearest of fewer.
    """
    found, scores = search(queries, sample, k + 1)
    # A query may itself be a row of the sample.
    counted = (found >= 0) & (scores < _SAME)
    counted[counted.all(axis=1), -1] = False
    ranked = largest(queries @ centres.T, len(centres))
    rank = np.empty_like(ranked)
    np.put_along_axis(rank, ranked, np.arange(len(centres))[None], 1)
    ranks = np.take_along_axis(rank, leaf[np.maximum(found, 0)], 1)[counted]
    # Half a neighbour for all leaves together keeps every share positive.
    seen = np.bincount(ranks, minlength=len(centres)) + 0.5 / len(centres)
    return (seen / seen.sum()).astype(np.float32)


def _share_out(
    centres: np.ndarray, weights: np.ndarray, leaves: np.ndarray, owners: np.ndarray, first: int, shards: int
) -> None:
    """Gives leaves to the shards `[first, first + shards)`, halving them by weight along their principal direction."""
    if shards == 1:
        owners[leaves] = first
        return
    left = shards // 2
    centred = centres[leaves] - np.average(centres[leaves], axis=0, weights=weights[leaves])
    _, _, directions = np.linalg.svd(centred * np.sqrt(weights[leaves])[:, None], full_matrices=False)
    order = leaves[np.argsort(centred @ directions[0], kind="stable")]
    share = np.cumsum(weights[order]) / weights[order].sum()
    cut = int(np.clip(np.searchsorted(share, left / shards) + 1, left, len(order) - (shards - left)))
    cut = cut - 1 if cut > left and share[cut - 1] - left / shards > left / shards - share[cut - 2] else cut
    _share_out(centres, weights, order[:cut], owners, first, left)
    _share_out(centres, weights, order[cut:], owners, first + left, shards - left)
