"""Finds the memory rows that are copies of queries, which would give away the labels of the queries.

A copy has the bytes of a query, or a key with at least a given cosine to a query's key. Streaming the memory is up to
`selection_job`.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from pipelines.filtering import similarity
from pipelines.manifest import Embeddings
from pipelines.schemas import content_keys, unit_keys


@dataclasses.dataclass(frozen=True)
class Queries:
    """The queries of the splits that must not leak, ordered by split, then id.

    Attributes:
        splits: int8 `[Q]`, place of the split among the given splits.
        ids: int64 `[Q]`.
        keys: float32 `[Q, d]`, unit length.
        images: the different content keys, `S32` `[u]`, sorted.
        first: int64 `[u]`, the first query with each content key.
    """

    splits: np.ndarray
    ids: np.ndarray
    keys: np.ndarray
    images: np.ndarray
    first: np.ndarray

    @classmethod
    def load(cls, folders: Mapping[str, str]) -> "Queries":
        """Reads the queries of splits, given by name; the order of the splits decides between equal matches."""
        splits, ids, keys, images = [], [], [], []
        for place, folder in enumerate(folders.values()):
            embeddings = Embeddings(folder)
            info = embeddings.encoder("key")
            for shard in embeddings.shard_rows:
                table = embeddings.read(shard, ["id", "content_key", "key"])
                ids.append(table["id"].to_numpy())
                splits.append(np.full(table.num_rows, place, np.int8))
                keys.append(similarity.unit(unit_keys(table["key"], info, f"{folder}, shard {shard}")))
                images.append(content_keys(table["content_key"]))
        different, first = np.unique(np.concatenate(images), return_index=True)
        return cls(np.concatenate(splits), np.concatenate(ids), np.concatenate(keys), different, first)

    def copies(self, images: np.ndarray, keys: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Finds the query that each row of the memory is a copy of.

        Equal bytes come before any cosine, then the highest cosine, then the first query.

        Args:
            images: content keys `S32` `[n]`.
            keys: float32 `[n, d]`, unit length.
            threshold: smallest cosine of a copy.

        Returns:
            Places of the queries int64 `[n]`, `similarity.NONE` for rows that are not copies, and cosines float32
            `[n]`, 1 for equal bytes.
        """
        query, cosine = similarity.best_matches(keys, self.keys, threshold)
        place = np.minimum(np.searchsorted(self.images, images), len(self.images) - 1)
        equal = self.images[place] == images
        return np.where(equal, self.first[place], query), np.where(equal, np.float32(1), cosine)
