"""Regions of space: which index shard a key belongs to, and which shards a query has to visit.

A k-means over a sample of the keys cuts space into cells, several for each shard. Neighbouring cells make a shard, and
all shards have about the same number of keys. A query visits the shards that own its nearest cells: one shard if the
query is deep inside it, several at a border. The number of cells (probe) is tuned together with the search.

Without regions (`hash`) a key's shard is random, and every query visits every shard.
"""

import dataclasses

import numpy as np
import pyarrow as pa

from pipelines import schemas
from pipelines.nearest_neighbors import nearest_centres

CELLS_PER_SHARD = 16
# Rows that a cell is trained on, and passes; more of either changed the balance of shards by less than one percent.
SAMPLE_ROWS_PER_CELL = 256
_PASSES = 10
_BLOCK_ROWS = 8192
# Numbers of cells that a query may visit; the tuned curve chooses one.
PROBES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclasses.dataclass(frozen=True)
class Router:
    """Cells of space and the shards that own them.

    Attributes:
        centroids: float32 `[c, d]`, unit length; empty if shards are not regions.
        owners: int32 `[c]`, the shard of each cell.
        shards: number of shards.
    """

    centroids: np.ndarray
    owners: np.ndarray
    shards: int

    @property
    def probes(self) -> list[int]:
        """Numbers of cells that a query may visit; 0 stands for every shard."""
        cells = len(self.centroids)
        return sorted({min(probe, cells) for probe in PROBES})

    def shard_of(self, keys: np.ndarray, images: np.ndarray) -> np.ndarray:
        """Returns the shard of each row.

        Args:
            keys: float32 `[n, d]`.
            images: bytes `S32` `[n]`, the content keys.

        Returns:
            int64 `[n]`.
        """
        if not len(self.centroids):
            head = np.ascontiguousarray(images).view(np.uint8).reshape(len(images), 32)[:, :8].copy()
            return (head.view(">u8")[:, 0] % self.shards).astype(np.int64)
        return self.owners[nearest_centres(keys, self.centroids)].astype(np.int64)

    def visits(self, queries: np.ndarray, probe: int) -> np.ndarray:
        """Returns which shards each query visits.

        Args:
            queries: float32 `[Q, d]`.
            probe: number of nearest cells whose owners are visited, with ties for the last; 0 for every shard.

        Returns:
            bool `[Q, shards]`.
        """
        if not probe or not len(self.centroids):
            return np.ones((len(queries), self.shards), bool)
        visited = np.zeros((len(queries), self.shards), bool)
        for begin in range(0, len(queries), _BLOCK_ROWS):
            scores = queries[begin : begin + _BLOCK_ROWS] @ self.centroids.T
            last = max(scores.shape[1] - probe, 0)
            query, cell = np.nonzero(scores >= np.partition(scores, last, axis=1)[:, last : last + 1])
            visited[begin + query, self.owners[cell]] = True
        return visited

    def to_table(self) -> pa.Table:
        """Returns the cells as a table."""
        centroid = pa.field("centroid", pa.list_(pa.float32(), self.centroids.shape[1]), nullable=False)
        schema = pa.schema([pa.field("shard", pa.int32(), nullable=False), centroid])
        arrays = [pa.array(self.owners, pa.int32()), schemas.fixed_list(self.centroids, centroid)]
        return pa.Table.from_arrays(arrays, schema=schema)

    COLUMNS = ("shard", "centroid")

    @classmethod
    def from_table(cls, table: pa.Table, shards: int) -> "Router":
        """Reads what `to_table` made."""
        return cls(schemas.to_matrix(table["centroid"]), table["shard"].to_numpy(), shards)


def without_regions(shards: int, dim: int) -> Router:
    """Returns a router that sends every query everywhere."""
    return Router(np.empty((0, dim), np.float32), np.empty(0, np.int32), shards)


def sample_rows(shards: int) -> int:
    """Returns the number of keys that `fit` needs."""
    return shards * CELLS_PER_SHARD * SAMPLE_ROWS_PER_CELL


def fit(sample: np.ndarray, shards: int, seed: int) -> Router:
    """Cuts space into regions.

    Args:
        sample: of the keys, float32 `[m, d]`, unit length.
        shards: number of regions.
        seed: for drawing the first centres.
    """
    cells = max(shards, min(shards * CELLS_PER_SHARD, len(sample) // 4))
    centroids = _k_means(sample, cells, np.random.default_rng(seed))
    weights = np.bincount(nearest_centres(sample, centroids), minlength=len(centroids))
    owners = np.empty(len(centroids), np.int32)
    _share_out(centroids, weights + 1e-3, np.arange(len(centroids)), owners, 0, shards)
    return Router(centroids, owners, shards)


def _k_means(sample: np.ndarray, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Returns spherical k-means centres (Dhillon and Modha 2001), unit length, float32 `[cells, d]`."""
    centroids = sample[np.sort(rng.choice(len(sample), cells, replace=False))].copy()
    for _ in range(_PASSES):
        cell = nearest_centres(sample, centroids)
        order = np.argsort(cell, kind="stable")
        filled, begins = np.unique(cell[order], return_index=True)
        sums = np.add.reduceat(sample[order], begins, axis=0)
        centroids[filled] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return centroids


def _share_out(
    centroids: np.ndarray, weights: np.ndarray, cells: np.ndarray, owners: np.ndarray, first: int, shards: int
) -> None:
    """Assigns cells to the shards `[first, first + shards)`, halving them by weight along their principal direction."""
    if shards == 1:
        owners[cells] = first
        return
    left = shards // 2
    centred = centroids[cells] - np.average(centroids[cells], axis=0, weights=weights[cells])
    _, _, directions = np.linalg.svd(centred * np.sqrt(weights[cells])[:, None], full_matrices=False)
    order = cells[np.argsort(centred @ directions[0], kind="stable")]
    share = np.cumsum(weights[order]) / weights[order].sum()
    cut = int(np.clip(np.searchsorted(share, left / shards) + 1, left, len(order) - (shards - left)))
    cut = cut - 1 if cut > left and share[cut - 1] - left / shards > left / shards - share[cut - 2] else cut
    _share_out(centroids, weights, order[:cut], owners, first, left)
    _share_out(centroids, weights, order[cut:], owners, first + left, shards - left)
