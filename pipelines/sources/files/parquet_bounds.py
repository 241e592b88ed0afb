"""Bounds on what a Parquet file unpacks to, read from the headers of its pages before Arrow unpacks them.

Arrow allocates what a page's header claims, up to 2 GiB, and repeats a value of a dictionary for each row that has it:
717 bytes took 6.2 GB. Footer and page headers are structs of Thrift's compact protocol, as in parquet.thrift of
apache/parquet-format; the numbers of the fields below are of that file. Arrow aborts the process when it is asked for
the columns of some damaged footers, so the footer is read here, too.
"""

import dataclasses
from collections.abc import Collection, Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FREE_PAGE_BYTES = 16 << 20
"""A page may unpack to this size; to more only if that is at most `MAX_PAGE_RATIO` times its own."""

MAX_PAGE_RATIO = 200
_FREE_VALUES, _VALUES_PER_BYTE = 1 << 20, 4
_MAX_BATCH_BYTES = 64 << 20
_FREE_ROWS, _ROWS_PER_BYTE = 1 << 20, 64
_FREE_TABLE_BYTES, _TABLE_RATIO = 64 << 20, 1000
_MAX_ROW_BYTES = 4 << 20
_TABLE_BATCH_ROWS = 512
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
# What a value takes beside its text.
_VALUE_BYTES = 8
_HEADER_BYTES, _MAX_HEADER_BYTES = 1 << 12, 8 << 20
_MAX_DEPTH = 8

_BYTE_ARRAYS = (6, 7)
_DELTA_BYTE_ARRAY = 7
_DICTIONARY_PAGE = 2
_BOOLEANS, _NUMBERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), (4, 5, 6), 7, 8, (9, 10), 12
_BYTE = 3


class Excess(ValueError):
    """A file claims or has more than its size allows; says the limit."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A column of a row group.

    Attributes:
        path: of the column, with dots.
        is_bytes: whether its values are byte strings.
        start: of its first page in the file.
        size_bytes: of its pages.
        values: that it claims.
    """

    path: str
    is_bytes: bool
    start: int
    size_bytes: int
    values: int


class _Reader:
    """Reads structs of Thrift's compact protocol; an IndexError if they are cut, a ValueError if they are none."""

    def __init__(self, data: bytes) -> None:
        self._data, self.place = data, 0

    def _byte(self) -> int:
        self.place += 1
        return self._data[self.place - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")
        return value | byte << shift

    def _signed(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _bytes(self, size: int) -> bytes:
        self.place += size
        if self.place > len(self._data):
            raise IndexError("the data ends early")
        return self._data[self.place - size : self.place]

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Returns the fields of a struct by their numbers."""
        if depth > _MAX_DEPTH:
            raise ValueError("structs are nested too deep")
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            number = number + (kind >> 4) if kind >> 4 else self._signed()
            fields[number] = self._value(kind & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _BOOLEANS:
            return kind == 1
        if kind == _BYTE:
            return self._byte()
        if kind in _NUMBERS:
            return self._signed()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in _LISTS:
            return self._list(depth)
        if kind == _STRUCT:
            return self.struct(depth + 1)
        raise ValueError(f"a field is of type {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        size = head >> 4 if head >> 4 < 15 else self._varint()
        if size > len(self._data) - self.place:
            raise IndexError("a list ends early")
        if head & 15 in _BOOLEANS:
            return [self._byte() == 1 for _ in range(size)]
        return [self._value(head & 15, depth) for _ in range(size)]


def chunks(file: IO[bytes]) -> list[list[Chunk]]:
    """Returns the columns of each row group, as the footer of a Parquet file states them.

    Raises:
        ValueError: if the footer cannot be read.
    """
    size = file.seek(0, 2)
    file.seek(size - 8)
    length = int.from_bytes(file.read(4), "little")
    file.seek(size - 8 - length)
    try:
        footer = _Reader(file.read(length)).struct()
        return [[_chunk(column[3]) for column in group[1]] for group in footer[4]]
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("its footer cannot be read") from error


def _chunk(column: dict[int, Any]) -> Chunk:
    dictionary = column.get(11) or column[9]
    path = b".".join(column[3]).decode(errors="replace")
    start, size, values = _whole(min(dictionary, column[9])), _whole(column[7]), _whole(column[5])
    return Chunk(path, column[1] in _BYTE_ARRAYS, start, size, values)


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError("a field is no number")
    return value


def batch_rows(file: IO[bytes], group: list[Chunk], columns: Collection[str], most: int) -> int:
    """Returns how many rows of a row group may be decoded at once, at most `most`; checks the pages of the columns.

    Args:
        file: that the row group is in; its position changes.
        group: from `chunks`.
        columns: that are read: names, or paths with dots.
        most: rows.

    Raises:
        Excess: if a page, or those of all columns, claim far more than they have.
        ValueError: if the headers cannot be read.
    """
    repeated = unpacked = packed = 0
    for chunk in group:
        if any(chunk.path == column or chunk.path.startswith(f"{column}.") for column in columns):
            pages = list(_pages(file, chunk))
            largest = max(pages, default=_Page(0, 0, False), key=lambda page: page.unpacked)
            unpacked, packed = unpacked + largest.unpacked, packed + largest.packed
            repeated += max((page.unpacked for page in pages if page.shared), default=0) if chunk.is_bytes else 0
    if unpacked > max(_MAX_BATCH_BYTES, MAX_PAGE_RATIO * packed):
        limit = f"above {_MAX_BATCH_BYTES:,}, the limit is {MAX_PAGE_RATIO} times their size"
        raise Excess(f"a page of each column, {packed:,} bytes in all, claims to unpack to {unpacked:,}; {limit}")
    return max(1, min(most, _MAX_BATCH_BYTES // max(repeated, 1)))


@dataclasses.dataclass(frozen=True)
class _Page:
    """Sizes of a page in bytes, and whether many rows can share one of its values."""

    unpacked: int
    packed: int
    shared: bool


def _pages(file: IO[bytes], chunk: Chunk) -> Iterator[_Page]:
    """Yields what the headers of a column's pages claim."""
    place, end = chunk.start, chunk.start + chunk.size_bytes
    while place < end:
        header, size = _header(file, place, chunk.path)
        try:
            unpacked, packed, kind = _whole(header[2]), _whole(header[3]), _whole(header[1])
            encoding = header[5][2] if 5 in header else header[8][4] if 8 in header else None
        except (LookupError, TypeError) as error:
            raise ValueError(f"column {chunk.path!r} has a page whose header cannot be read") from error
        if packed < 0 or unpacked < 0:
            raise ValueError(f"column {chunk.path!r} has a page of a negative size")
        if unpacked > max(FREE_PAGE_BYTES, MAX_PAGE_RATIO * packed):
            raise Excess(
                f"column {chunk.path!r} has a page of {packed:,} bytes that claims to unpack to {unpacked:,}; above "
                f"{FREE_PAGE_BYTES:,}, the limit is {MAX_PAGE_RATIO} times its size"
            )
        yield _Page(unpacked, packed, kind == _DICTIONARY_PAGE or encoding == _DELTA_BYTE_ARRAY)
        place += size + packed


def _header(file: IO[bytes], place: int, path: str) -> tuple[dict[int, Any], int]:
    """Returns the header of a page and the bytes that it takes."""
    most = _HEADER_BYTES
    while True:
        file.seek(place)
        reader = _Reader(file.read(most))
        try:
            return reader.struct(), reader.place
        except IndexError as error:
            # Statistics in a header contain whole values.
            if most >= _MAX_HEADER_BYTES:
                raise ValueError(f"column {path!r} has a page whose header cannot be read") from error
            most *= 16


def batches(file: IO[bytes], parquet: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a table of texts in batches of bounded size.

    Args:
        file: that is read.
        parquet: the same file, opened.
        columns: of single values, of lists or of structs.

    Raises:
        Excess: names the limit that the file exceeds: on its rows, on the bytes of a row, or on its texts in all, each
            in proportion to its size.
        ValueError: if its headers cannot be read; Arrow's own errors if its pages cannot.
    """
    size = file.seek(0, 2)
    claimed = parquet.metadata.num_rows
    if claimed > max(_FREE_ROWS, _ROWS_PER_BYTE * size):
        limit = f"above {_FREE_ROWS:,}, the limit is {_ROWS_PER_BYTE} rows for each byte"
        raise Excess(f"its footer claims {claimed:,} rows in {size:,} bytes; {limit}")
    leaves = [parquet.schema.column(place) for place in range(len(parquet.schema))]
    lists = [leaf.path for leaf in leaves if leaf.max_repetition_level]
    # A list may repeat one value of a dictionary without end, so such values stay numbers until they are counted.
    reader = pq.ParquetFile(file, metadata=parquet.metadata, pre_buffer=False, read_dictionary=lists)
    total = 0
    for place, group in enumerate(chunks(file)):
        _check_lists(group, lists)
        rows = batch_rows(file, group, columns, _TABLE_BATCH_ROWS)
        for batch in reader.iter_batches(rows, row_groups=[place], columns=columns, use_threads=False):
            weights = np.sum([_weights(column) for column in batch.columns], axis=0, dtype=np.int64)
            total += int(np.sum(weights))
            if np.max(weights, initial=0) > _MAX_ROW_BYTES:
                raise Excess(f"a row has {np.max(weights):,} bytes of values, the limit is {_MAX_ROW_BYTES:,}")
            if total > max(_FREE_TABLE_BYTES, _TABLE_RATIO * size):
                raise Excess(f"it unpacks to more than {_TABLE_RATIO} times its {size:,} bytes")
            yield batch


def _weights(array: pa.Array) -> np.ndarray:
    """Returns about how many bytes the value of each row takes, int64 `[n]`."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        rows = pc.fill_null(array.indices, 0).to_numpy(zero_copy_only=False)
        shared = _weights(array.dictionary)
        if len(rows) and array.null_count < len(rows) and not 0 <= rows.min() <= rows.max() < len(shared):
            raise ValueError("a row names a value that its dictionary does not have")
        return shared[rows] if len(shared) else np.zeros(len(array), np.int64)
    if pa.types.is_struct(kind):
        parts = [_weights(array.field(place)) for place in range(kind.num_fields)]
        return np.sum(parts, axis=0, dtype=np.int64) + np.zeros(len(array), np.int64)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        ends = np.concatenate([[0], np.cumsum(_weights(array.values))])[array.offsets.to_numpy(zero_copy_only=False)]
        return np.diff(ends) + _VALUE_BYTES
    if pa.types.is_fixed_size_list(kind):
        inside = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        return _weights(inside).reshape(len(array), kind.list_size).sum(axis=1) + _VALUE_BYTES
    if any(is_kind(kind) for is_kind in _TEXTS):
        return pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64) + _VALUE_BYTES
    return np.full(len(array), _VALUE_BYTES, np.int64)


def _check_lists(group: list[Chunk], paths: Collection[str]) -> None:
    """Raises a `ValueError` if a column of lists claims far more values than it has bytes."""
    for chunk in group:
        if chunk.path in paths and chunk.values > max(_FREE_VALUES, _VALUES_PER_BYTE * chunk.size_bytes):
            raise Excess(
                f"column {chunk.path!r} claims {chunk.values:,} values in {chunk.size_bytes:,} bytes; above "
                f"{_FREE_VALUES:,}, the limit is {_VALUES_PER_BYTE} for each byte"
            )
