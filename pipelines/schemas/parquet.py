"""Parquet files that are written whole, and read with their checksums, version and run checked."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.errors import UserError, one_line

SCHEMA_VERSION = 3
ROW_GROUP_ROWS = 4096
# Values that the writer takes at a time: with 1,024, its default, a table of vectors took a fifth longer.
_WRITE_BATCH_VALUES = 1 << 17
# The length of the footer and `PAR1`, at the end of a Parquet file; and the most that a footer may have.
_TAIL_BYTES, _MOST_FOOTER_BYTES = 8, 1 << 28


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
