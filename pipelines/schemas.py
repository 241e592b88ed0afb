"""The Parquet contracts between the programs: columns, ids, file metadata, and checked reading and writing.

It defines the rows of embeddings, rejects and neighbour lists (docs/contracts.md describes them). `manifest` defines
which files make up a folder.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.errors import UserError

SCHEMA_VERSION = 2
ROW_BITS = 40
ROW_GROUP_ROWS = 4096
# Values that the writer takes at a time: with 1,024, its default, a table of vectors took a fifth longer.
_WRITE_BATCH_VALUES = 1 << 17

DTYPES = {"float32": pa.float32(), "float16": pa.float16()}


@dataclasses.dataclass(frozen=True)
class EncoderInfo:
    """Identity of the encoder of a vector column, and the form of its vectors."""

    fingerprint: str
    dim: int
    normalized: bool
    dtype: str


def make_id(shard: int, row: int | np.ndarray) -> int | np.ndarray:
    """Returns the id `(shard << 40) | row` of a row of an embedding shard, as int64."""
    return (shard << ROW_BITS) | row


def split_ids(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the shard numbers and row numbers, int64, of ids `[n]`."""
    return ids >> ROW_BITS, ids & ((1 << ROW_BITS) - 1)


def embeddings(dims: Mapping[str, int], dtype: str = "float32") -> pa.Schema:
    """Returns the schema of embedding shards.

    Args:
        dims: width of each vector column: `key`, and any number of `value_..`, which are sorted by name.
        dtype: `float32` or `float16`.
    """
    vectors = [pa.field(column, pa.list_(DTYPES[dtype], dims[column]), nullable=False) for column in sorted(dims)]
    return pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("content_key", pa.binary(32), nullable=False),
            pa.field("source_shard", pa.string(), nullable=False),
            pa.field("member", pa.string(), nullable=False),
            pa.field("url", pa.string()),
            pa.field("caption", pa.string()),
            pa.field("label", pa.int32()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("metadata", pa.string()),
            *vectors,
        ]
    )


def classes(dims: Mapping[str, int], dtype: str = "float32") -> pa.Schema:
    """Returns the schema of the embedded class names; arguments as of `embeddings`, of text columns only."""
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


def fixed_list(values: np.ndarray, field: pa.Field) -> pa.Array:
    """Returns rows `[n, width]` as an Arrow array of fixed-size lists of the field's type."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=field.type.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, type=field.type)


def to_matrix(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Returns a column of fixed-size lists as an array `[n, width]` of its own dtype, without padding or nulls.

    Raises:
        UserError: if the column is something else.
    """
    if not pa.types.is_fixed_size_list(column.type):
        raise UserError(
            f"a column of vectors is of type {column.type}: its file is damaged; remove it and run its stage again"
        )
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    width = column.type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in chunks]
    return np.concatenate(parts) if parts else pa.array([], column.type.value_type).to_numpy().reshape(0, width)


def content_keys(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Returns a column of 32-byte digests as an array `S32` `[n]`, which compares and sorts bytewise."""
    return np.frombuffer(b"".join(column.to_pylist()), "S32")


def unit_keys(column: pa.Array | pa.ChunkedArray, info: EncoderInfo, where: str) -> np.ndarray:
    """Returns a key column as float32 `[n, d]` of unit length, so that dot products are cosines.

    Args:
        column: fixed-size lists, of float16 or float32.
        info: of the key encoder; keys that it calls normalised are left as they are.
        where: what to name in an error.

    Raises:
        UserError: if a key is not of the encoder's width or has a value that is not finite.
    """
    keys = to_matrix(column).astype(np.float32)
    if keys.shape[1] != info.dim:
        raise UserError(
            f"{where}: its keys have {keys.shape[1]} values, not {info.dim}; remove its file and embed again"
        )
    finite = np.isfinite(keys).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{where}: row {int(np.argmin(finite))} has a key that is not finite; remove its file and embed again"
        )
    if not info.normalized:
        keys /= np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return keys


@contextlib.contextmanager
def writer(uri: str, schema: pa.Schema, metadata: Mapping[str, str]) -> Iterator[pq.ParquetWriter]:
    """Opens a Parquet file for writing; it gets its name only when it is whole. The same rows give the same bytes.

    Dictionaries would make vectors larger and slower; BYTE_STREAM_SPLIT makes them smaller, and faster to read.
    """
    plain = schema.with_metadata({"schema_version": str(SCHEMA_VERSION), **metadata})
    vectors = [field.name for field in schema if pa.types.is_fixed_size_list(field.type)]
    dictionaries = [field.name for field in schema if pa.types.is_string(field.type)]
    with storage.atomic_write(uri) as file:
        with pq.ParquetWriter(
            file,
            plain,
            compression="zstd",
            use_dictionary=dictionaries or False,
            use_byte_stream_split=[f"{name}.list.element" for name in vectors] or False,
            write_statistics=[field.name for field in schema if field.name not in vectors],
            write_page_checksum=True,
            write_batch_size=_WRITE_BATCH_VALUES,
        ) as parquet:
            yield parquet


def write(uri: str, table: pa.Table, metadata: Mapping[str, str]) -> None:
    """Writes one table as a whole Parquet file."""
    with writer(uri, table.schema.remove_metadata(), metadata) as parquet:
        parquet.write_table(table.replace_schema_metadata(parquet.schema.metadata), row_group_size=ROW_GROUP_ROWS)


@contextlib.contextmanager
def open_parquet(
    uri: str, columns: Sequence[str], metadata: Mapping[str, str] | None = None
) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file for reading, and verifies its page checksums.

    Args:
        uri: of the file.
        columns: that the file must have.
        metadata: values that the file's own metadata must have.

    Raises:
        UserError: if the file is broken, lacks a column, or belongs to another run or version.
    """
    with storage.open_read(uri) as file:
        try:
            # With `pre_buffer`, everything that was read would stay in memory until the file is closed.
            parquet = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
        except storage.BROKEN_PARQUET as error:
            raise UserError(
                f"{uri}: is not a whole Parquet file ({error}); remove it and run its stage again"
            ) from error
        _check(uri, parquet.schema_arrow, columns, metadata or {})
        try:
            yield parquet
        except storage.BROKEN_PARQUET as error:
            raise UserError(f"{uri}: is damaged ({error}); remove it and run its stage again") from error


def _check(uri: str, schema: pa.Schema, columns: Sequence[str], metadata: Mapping[str, str]) -> None:
    if missing := [column for column in columns if column not in schema.names]:
        raise UserError(f"{uri}: has no column {missing[0]!r}; its columns are {', '.join(schema.names)}")
    stored = schema.metadata or {}
    found = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in stored.items()}
    if found.get("schema_version") != str(SCHEMA_VERSION):
        raise UserError(
            f"{uri}: schema_version is {found.get('schema_version')}, this program reads {SCHEMA_VERSION}; "
            "make the file again with this version"
        )
    for name, value in metadata.items():
        if found.get(name) != value:
            raise UserError(f"{uri}: {name} is {found.get(name)}, expected {value}: the file belongs to another run")


def read(uri: str, columns: Sequence[str], metadata: Mapping[str, str] | None = None) -> pa.Table:
    """Reads columns of a whole Parquet file; errors as `open_parquet`."""
    with open_parquet(uri, columns, metadata) as parquet:
        return parquet.read(list(columns))


def count_rows(uri: str) -> int:
    """Returns how many rows a file's own footer says it has."""
    with open_parquet(uri, []) as parquet:
        return int(parquet.metadata.num_rows)
