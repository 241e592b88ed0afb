"""The contracts between the programs: columns, ids, file metadata, and checked reading and writing.

It defines the rows of embeddings, rejects and neighbour lists (docs/contracts.md describes them), and how the shape of
a JSON object is checked. `manifest` defines which files make up a folder.
"""

import contextlib
import dataclasses
import hashlib
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.errors import UserError, one_line

SCHEMA_VERSION = 3
ROW_BITS = 40
# Of a content key.
DIGEST = pa.binary(32)
ROW_GROUP_ROWS = 4096
# Values that the writer takes at a time: with 1,024, its default, a table of vectors took a fifth longer.
_WRITE_BATCH_VALUES = 1 << 17
# The length of the footer and `PAR1`, at the end of a Parquet file; and the most that a footer may have.
_TAIL_BYTES, _MOST_FOOTER_BYTES = 8, 1 << 28

# The squares of a shorter vector lose digits in float32.
_SAFE_LENGTH = 1e-12

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


def unusable(vectors: np.ndarray) -> tuple[list[int], list[int]]:
    """Returns which vectors `[n, dim]`, float32 or float16 as they are stored, have no direction, and which are broken.

    A vector has no direction that its type can hold if its values are below the smallest normal number in the mean:
    what is left of them is rounding. For float32 the bound is the 1e-12 by which lengths are floored everywhere.

    Returns:
        The rows that are zero or shorter than the bound, and those with a value that is not finite.
    """
    kind = np.finfo(vectors.dtype)
    shortest = max(float(kind.smallest_normal) * vectors.shape[1] ** 0.5, 1e-12)
    wide = vectors.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("nd,nd->n", wide, wide)
        odd = np.flatnonzero(~((squares > 4 * shortest**2) & (squares < np.inf)))
    # In float64, where no square of a float32 is too large or too small.
    lengths = np.linalg.norm(vectors[odd].astype(np.float64), axis=1)
    return odd[lengths < shortest].tolist(), odd[~np.isfinite(lengths)].tolist()


def moderate(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns vectors `[n, dim]` of any float type as float32 with their lengths, which float32 can hold, `[n, 1]`.

    Where it cannot, since their squares are too large or too small for it, they are divided by their largest value.
    Others keep their bytes; the array itself is returned if nothing had to be changed. Those that are zero have the
    length 0, those with a value that is not finite stay broken.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rows = np.ascontiguousarray(vectors, np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        odd = np.flatnonzero(~((lengths[:, 0] > _SAFE_LENGTH) & (lengths[:, 0] < np.inf)))
        if len(odd):
            wide = vectors[odd].astype(np.float64)
            largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
            rows = rows.copy() if np.may_share_memory(rows, vectors) else rows
            rows[odd] = wide / np.where(largest > 0, largest, 1.0)
            lengths[odd] = np.linalg.norm(rows[odd], axis=1, keepdims=True)
    return rows, lengths


def unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors `[n, dim]` of any float type as float32 of unit length; zero vectors stay zero."""
    rows, lengths = moderate(vectors)
    mine = None if np.may_share_memory(rows, vectors) else rows
    return np.divide(rows, np.maximum(lengths, np.finfo(np.float32).tiny), out=mine)


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
    """Returns a column of 32-byte digests as an array `S32` `[n]`, which compares and sorts bytewise.

    Raises:
        UserError: if the column is something else.
    """
    if column.type != DIGEST or column.null_count:
        raise UserError(
            f"a column of digests is of type {column.type}, {column.null_count} of them missing: its file is damaged; "
            "remove it and run its stage again"
        )
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [np.frombuffer(chunk.buffers()[1], "S32")[chunk.offset :][: len(chunk)] for chunk in chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.empty(0, "S32")


def digests(images: np.ndarray) -> pa.Array:
    """Returns the column of some digests, `S32` `[n]` or uint8 `[n, 32]`: the opposite of `content_keys`."""
    return pa.FixedSizeBinaryArray.from_buffers(DIGEST, len(images), [None, pa.py_buffer(images.tobytes())])


def thumbnails(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a column of thumbnails as uint8 `[n, side, side]`, black where there is none, and where there is one."""
    blank = bytes(THUMBNAIL_SIDE**2)
    grey = b"".join(value or blank for value in column.to_pylist())
    shape = (-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.frombuffer(grey, np.uint8).reshape(shape), column.is_valid().to_numpy(zero_copy_only=False)


def unit_keys(column: pa.Array | pa.ChunkedArray, info: EncoderInfo, where: str) -> np.ndarray:
    """Returns a key column as float32 `[n, d]` of unit length, so that dot products are cosines.

    Args:
        column: fixed-size lists, of float16 or float32.
        info: of the key encoder; keys that it calls normalised are left as they are.
        where: what to name in an error.

    Raises:
        UserError: if a key is not of the encoder's width or has a value that is not finite.
    """
    keys = to_matrix(column)
    if keys.shape[1] != info.dim:
        raise UserError(
            f"{where}: its keys have {keys.shape[1]} values, not {info.dim}; remove its file and embed again"
        )
    finite = np.isfinite(keys).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{where}: row {int(np.argmin(finite))} has a key that is not finite; remove its file and embed again"
        )
    return keys.astype(np.float32) if info.normalized else unit(keys)


@contextlib.contextmanager
def writer(uri: str, schema: pa.Schema, metadata: Mapping[str, str]) -> Iterator[pq.ParquetWriter]:
    """Opens a Parquet file for writing; it gets its name only when it is whole. The same rows give the same bytes.

    Dictionaries would make vectors larger and slower. BYTE_STREAM_SPLIT makes them smaller, and faster to read; DuckDB
    reads it of float32 alone.
    """
    plain = schema.with_metadata({"schema_version": str(SCHEMA_VERSION), **metadata})
    vectors = {field.name: field.type.value_type for field in schema if pa.types.is_fixed_size_list(field.type)}
    split = [f"{name}.list.element" for name, kind in vectors.items() if not pa.types.is_float16(kind)]
    dictionaries = [field.name for field in schema if pa.types.is_string(field.type)]
    with storage.atomic_write(uri) as file:
        with pq.ParquetWriter(
            file,
            plain,
            compression="zstd",
            use_dictionary=dictionaries or False,
            use_byte_stream_split=split or False,
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
    uri: str,
    columns: Sequence[str],
    metadata: Mapping[str, str] | None = None,
    footer: str = "",
    remedy: str = "remove it and run its stage again",
) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file for reading, and verifies its page checksums.

    Args:
        uri: of the file.
        columns: that the file must have.
        metadata: values that the file's own metadata must have.
        footer: SHA-256 of its footer, which has no checksum of its own; empty if it is not known.
        remedy: what to do if it is damaged, the end of the error's sentence.

    Raises:
        UserError: if the file is broken, lacks a column, or belongs to another run or version.
    """
    with storage.open_read(uri) as file:
        if footer and _footer_sha256(file) != footer:
            raise UserError(f"{uri}: is damaged or of another run; {remedy}")
        try:
            # With `pre_buffer`, everything that was read would stay in memory until the file is closed.
            parquet = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
        except storage.BROKEN_PARQUET as error:
            raise UserError(f"{uri}: is not a whole Parquet file ({one_line(error)}); {remedy}") from error
        _check(uri, parquet.schema_arrow, columns, metadata or {})
        try:
            yield parquet
        except storage.BROKEN_PARQUET as error:
            raise UserError(f"{uri}: is damaged ({one_line(error)}); {remedy}") from error


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


def footer_sha256(uri: str) -> str:
    """Returns the SHA-256 of a Parquet file's size and footer, 64 hexadecimal digits.

    The footer says where the columns are, of which type and how many rows; with the checksums of the pages it vouches
    for the whole file, without reading it.
    """
    with storage.open_read(uri) as file:
        return _footer_sha256(file)


def _footer_sha256(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    length = int.from_bytes(tail[-_TAIL_BYTES:-4], "little")
    file.seek(max(0, size - _TAIL_BYTES - min(length, _MOST_FOOTER_BYTES)))
    digest = hashlib.sha256(f"{size} ".encode())
    digest.update(file.read())
    file.seek(0)
    return digest.hexdigest()


def read(uri: str, columns: Sequence[str], metadata: Mapping[str, str] | None = None, footer: str = "") -> pa.Table:
    """Reads columns of a whole Parquet file; arguments and errors as `open_parquet`."""
    with open_parquet(uri, columns, metadata, footer) as parquet:
        return parquet.read(list(columns))


def read_ids(parquet: pq.ParquetFile, columns: Sequence[str], ids: np.ndarray) -> pa.Table:
    """Reads columns of the rows of an opened Parquet file that have one of some ids, in the order of the file.

    Only the row groups that may have one by their smallest and largest id are decoded, one at a time.

    Args:
        parquet: that has a column `id`.
        columns: to read.
        ids: int64 `[n]`, ascending.
    """
    place = parquet.schema_arrow.names.index("id")
    wanted, whole = list(dict.fromkeys(["id", *columns])), pa.array(ids)
    # A column of lists has one leaf, so that the places of leaves are those of columns.
    parts = [pa.schema([parquet.schema_arrow.field(name) for name in wanted]).empty_table()]
    for group in range(parquet.num_row_groups):
        known = parquet.metadata.row_group(group).column(place).statistics
        if known is None or not known.has_min_max or _has_between(ids, known.min, known.max):
            table = parquet.read_row_group(group, wanted).replace_schema_metadata()
            parts.append(table.filter(pc.is_in(table["id"], value_set=whole)))
    return pa.concat_tables(parts).select(list(columns))


def _has_between(ids: np.ndarray, least: int, most: int) -> bool:
    return bool(np.searchsorted(ids, least, "left") < np.searchsorted(ids, most, "right"))


def has_column(uri: str, column: str) -> bool:
    """Tells whether a Parquet file has a column; errors as `open_parquet`."""
    with open_parquet(uri, []) as parquet:
        return column in parquet.schema_arrow.names


def count_rows(uri: str) -> int:
    """Returns how many rows a file's own footer says it has."""
    with open_parquet(uri, []) as parquet:
        return int(parquet.metadata.num_rows)


def read_json(uri: str, shape: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """Reads a JSON object that `storage.write_json` wrote, and checks that it is whole and of a shape.

    Args:
        uri: of the file.
        shape: the entries that it must have, as `misshapen` takes them; others are allowed.
        remedy: what to do if it is not, the end of the error's sentence.

    Returns:
        The object without its seal.

    Raises:
        UserError: if it is missing, damaged, edited, of an older version, or of another kind.
    """
    value = storage.read_json(uri, remedy, sealed=True)
    if where := misshapen(value, shape):
        raise UserError(f"{uri}: is not a file of this kind and version ({where}); {remedy}")
    return dict(value)


def shape_of(kind: type) -> dict[str, Any]:
    """Returns the shape of a dataclass as a JSON object; entries with a default may be missing."""
    types = typing.get_type_hints(kind)
    return {
        field.name: _shape_of(types[field.name])
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }


def _shape_of(kind: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return shape_of(typing.cast(type, kind))
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        return {str: _shape_of(arguments[1])}
    if origin in (list, tuple):
        return [_shape_of(arguments[0])]
    return object if origin or kind is Any else kind


def misshapen(value: Any, shape: Any, where: str = "") -> str:
    """Returns what of a JSON value is not of a shape; empty if nothing is.

    Args:
        value: to check.
        shape: a type (`float` takes whole numbers, `int` takes no booleans, `object` takes all) or a tuple of types;
            `[shape]` for a list of such values; `{str: shape}` for an object of such values; or the entries that an
            object must have, by their names.
        where: path of the value.
    """
    parts: list[tuple[Any, Any, str]]
    if isinstance(shape, Mapping) and isinstance(value, dict):
        if missing := [name for name in shape if name is not str and name not in value]:
            return f"{where or 'it'} has no {missing[0]!r}"
        known = {name: shape.get(str, shape.get(name)) for name in value if str in shape or name in shape}
        parts = [(value[name], kind, f"{where}.{name}" if where else name) for name, kind in known.items()]
    elif isinstance(shape, list) and isinstance(value, list):
        parts = [(part, shape[0], f"{where}[{number}]") for number, part in enumerate(value)]
    else:
        kinds = shape if isinstance(shape, tuple) else (shape,)
        is_right = type(value) in kinds or object in kinds or (type(value) is int and float in kinds)
        return "" if is_right else f"{where or 'it'} is {'of another type' if where else 'no object'}"
    return next(filter(None, (misshapen(*part) for part in parts)), "")
