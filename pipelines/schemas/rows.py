"""The rows of each kind of Parquet file: embeddings, class names, rejects, filtered rows, concepts, neighbour lists."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

ROW_BITS = 40
# Of a content key.
DIGEST = pa.binary(32)
# A small grey picture of each image (`pipelines.images.thumbnail`).
THUMBNAIL, THUMBNAIL_SIDE = "thumbnail", 32
KEY_SPACE = "key_space"
"""Metadata of `classes.parquet`: the column of texts whose encoder filled `key`, names in the space of the keys."""

DTYPES = {"float32": pa.float32(), "float16": pa.float16()}


@dataclasses.dataclass(frozen=True)
class EncoderInfo:
    """Identity of the encoder of a vector column, and the form of its vectors."""

    fingerprint: str
    dim: int
    normalized: bool
    dtype: str

    def stored(self, vectors: np.ndarray) -> np.ndarray:
        """Returns vectors in the type that they are stored in; what it cannot hold becomes infinite."""
        with np.errstate(over="ignore"):
            return vectors.astype(self.dtype, copy=False)


def make_id(shard: int, row: int | np.ndarray) -> int | np.ndarray:
    """Returns the id `(shard << 40) | row` of a row of an embedding shard, as int64."""
    return (shard << ROW_BITS) | row


def split_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the shard numbers and row numbers, int64, of ids `[n]`."""
    return ids >> ROW_BITS, ids & ((1 << ROW_BITS) - 1)


def embeddings(dims: Mapping[str, int], dtype: str = "float32", thumbnails: bool = False) -> pa.Schema:
    """Returns the schema of embedding shards.

    Args:
        dims: width of each vector column: `key`, and any number of `value_..`, which are sorted by name.
        dtype: `float32` or `float16`.
        thumbnails: whether it has the column of thumbnails, as shards have and the rows of neighbour lists have not.
    """
    vectors = [pa.field(column, pa.list_(DTYPES[dtype], dims[column]), nullable=False) for column in sorted(dims)]
    pictures = [pa.field(THUMBNAIL, pa.binary(THUMBNAIL_SIDE**2))] if thumbnails else []
    return pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("content_key", DIGEST, nullable=False),
            pa.field("source_shard", pa.string(), nullable=False),
            pa.field("member", pa.string(), nullable=False),
            pa.field("url", pa.string()),
            pa.field("caption", pa.string()),
            pa.field("label", pa.int32()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("metadata", pa.string()),
            *pictures,
            *vectors,
        ]
    )


def classes(dims: Mapping[str, int], dtype: str = "float32") -> pa.Schema:
    """Returns the schema of the embedded class names; arguments as of `embeddings`, the widths those of names."""
    vectors = [pa.field(column, pa.list_(DTYPES[dtype], dims[column]), nullable=False) for column in sorted(dims)]
    return pa.schema(
        [pa.field("label", pa.int32(), nullable=False), pa.field("name", pa.string(), nullable=False), *vectors]
    )


REJECTS = pa.schema(
    [
        pa.field("source_shard", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error_type", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("retryable", pa.bool_(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
    ]
)


FILTERED = pa.schema(
    [
        pa.field("source_shard", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("filter", pa.string(), nullable=False),
        pa.field("value", pa.string(), nullable=False),
    ]
)


CONCEPT_COUNTS = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("captions", pa.int64(), nullable=False),
    ]
)
"""Names or classes, and how many captions of the memory name each."""


CONCEPT_ROWS = pa.schema(
    [
        pa.field("label", pa.int32(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("classes", pa.int32(), nullable=False),
    ]
)
"""A class, a memory row whose caption names it, and how many classes that caption names."""


def neighbors(k: int) -> pa.Schema:
    """Returns the schema of neighbour lists of length `k`; -1 pads ids, -inf pads scores."""
    return pa.schema(
        [
            pa.field("query_id", pa.int64(), nullable=False),
            pa.field("label", pa.int32()),
            pa.field("neighbor_ids", pa.list_(pa.int64(), k), nullable=False),
            pa.field("scores", pa.list_(pa.float32(), k), nullable=False),
            pa.field("num_valid", pa.int32(), nullable=False),
            pa.field("num_excluded", pa.int32(), nullable=False),
        ]
    )
