"""Parquet files with the image bytes in a column: img2dataset's `parquet` output, HuggingFace's, or any other.

The tables beside vectors are read here, too; `siblings` has those beside tars. Columns of lists are not read, because a
few bytes can encode a list of any length; they can also encode a value that many rows share, so batches are small.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.base import Embed, Source
from pipelines import storage
from pipelines.errors import UserError, nearest, one_line
from pipelines.sources import naming
from pipelines.sources.files import parquet_bounds
from pipelines.sources.sample import Filtered, InputShard, Reject, Sample, field_names, rename, to_sample
from pipelines.sources.stream import open_stored

# `image` is bytes, or a struct with `bytes`, as HuggingFace has it.
FIELDS = {
    "image": ("jpg", "png", "webp", "image", "img"),
    "caption": ("txt", "caption", "TEXT", "text"),
    "label": ("label",),
    "url": ("url", "URL"),
}
_BATCH_ROWS = 8
_MAX_DEPTH = 8
_MAX_COLUMNS = 4096
_BUFFER_BYTES = 1 << 20
_MAX_WHOLE_BYTES = 128 << 20
_MAX_FOOTER_BYTES = 64 << 20
# EXIF is large and personal.
_UNREAD = {"exif"}


class BrokenParquet(Exception):
    """A file that is not Parquet, or does not match its footer."""


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Turns Arrow's errors about broken bytes into a `BrokenParquet`; a failing store is a `UserError` and passes."""
    try:
        yield
    except storage.BROKEN_PARQUET as error:
        raise BrokenParquet(one_line(error)[:300] or type(error).__name__) from error


def _check_footer(file: IO[bytes]) -> int:
    """Returns the file's size; a `ValueError` if its last bytes cannot be a footer."""
    size = file.seek(0, 2)
    file.seek(max(size - 8, 0))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if size < 12 or tail[4:] != b"PAR1":
        raise ValueError("it does not end as Parquet does")
    if length > min(size - 8, _MAX_FOOTER_BYTES):
        raise ValueError(f"its footer claims {length:,} bytes")
    file.seek(0)
    return size


class Table:
    """A Parquet file that is read in bounded memory, with page checksums verified.

    Attributes:
        schema: of the columns.
        size_bytes: of the file.
        group_rows: rows of each row group, as the footer claims.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Reads the footer; a `BrokenParquet` if there is none, or it claims more than the file can contain."""
        self._file = file
        with _reading():
            self.size_bytes = _check_footer(file)
            self._whole = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
            self._footer = self._whole.metadata
            self.schema = self._whole.schema_arrow
            self._chunks = parquet_bounds.chunks(file)
            groups = [self._footer.row_group(group) for group in range(self._footer.num_row_groups)]
            self._group_bytes = [group.total_byte_size for group in groups]
            self.group_rows = [group.num_rows for group in groups]
        if min(self.group_rows, default=0) < 0 or len(self.schema) > _MAX_COLUMNS:
            raise BrokenParquet(f"its footer claims {len(self.schema):,} columns, or fewer than no rows")

    def batches(self, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yields a row group in batches of a few rows.

        Raises:
            BrokenParquet: if it cannot be read, a page claims far more than it has, or it has not the rows that the
                footer claims.
        """
        found = 0
        with _reading():
            parquet = self._reader(group)
            most = parquet_bounds.batch_rows(self._file, self._chunks[group], columns, _BATCH_ROWS)
            stream = parquet.iter_batches(most, row_groups=[group], columns=columns, use_threads=False)
        while True:
            with _reading():
                batch = next(stream, None)
            if batch is None:
                break
            found += len(batch)
            if found > self.group_rows[group]:
                break
            yield batch
        if found != self.group_rows[group]:
            raise BrokenParquet(
                f"the row group has {found:,} rows or more, the footer claims {self.group_rows[group]:,}"
            )

    def _reader(self, group: int) -> pq.ParquetFile:
        """Returns a reader of whole column chunks or, if the row group is large, of single pages.

        A reader of pages first allocates the size that their headers claim, up to 2 GiB. The size is not read from the
        footer's column chunks: pyarrow 25 aborts the process for some that are damaged.
        """
        if min(self._group_bytes[group], self.size_bytes) <= _MAX_WHOLE_BYTES:
            return self._whole
        return pq.ParquetFile(
            self._file,
            metadata=self._footer,
            pre_buffer=False,
            page_checksum_verification=True,
            buffer_size=_BUFFER_BYTES,
        )


@contextlib.contextmanager
def open_table(uri: str) -> Iterator[Table]:
    """Opens a Parquet file.

    Raises:
        BrokenParquet: if it is not one.
        UserError: if it does not exist, or the store fails.
    """
    with open_stored(uri) as file:
        yield Table(file)


def row_values(batch: pa.RecordBatch, row: int, columns: list[str]) -> dict[str, Any]:
    """Returns some fields of a row; a `ValueError` if one does not fit its type, such as text that is not UTF-8."""
    return {name: _value(batch.column(batch.schema.get_field_index(name))[row]) for name in columns}


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    # An unknown time zone is a LookupError, a time out of range an ArithmeticError.
    except (ValueError, LookupError, ArithmeticError, TypeError, pa.ArrowException) as error:
        if pa.types.is_temporal(scalar.type) and not isinstance(error, LookupError):
            return _time_text(scalar)
        raise ValueError(f"a value of type {scalar.type} cannot be read ({error})") from error


def _time_text(scalar: pa.Scalar) -> str:
    """Returns a time that Python has no type for as text: in nanoseconds, or beyond the year 9999.

    A time with a zone is stored in UTC, which is what the Z says.
    """
    kind, zone = scalar.type, ""
    if pa.types.is_timestamp(kind) and kind.tz:
        kind, zone = pa.timestamp(kind.unit), "Z"
    text = "" if pa.types.is_duration(kind) else pa.scalar(scalar.value, kind).cast(pa.string()).as_py()
    # Arrow writes "<value out of range: 5>".
    return f"{scalar.value} {kind}" if text.startswith("<") or not text else f"{text}{zone}"


def _is_bytes(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    of_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in of_bytes)


def is_image(kind: pa.DataType) -> bool:
    """Tells whether a type can be of images: bytes, or a struct with `bytes`."""
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return _is_bytes(kind)


def _is_single(kind: pa.DataType, depth: int = 0) -> bool:
    """Tells whether a type is one of single values, or a struct of them."""
    if pa.types.is_struct(kind) and depth < _MAX_DEPTH:
        return all(_is_single(field.type, depth + 1) for field in kind)
    return not pa.types.is_nested(kind) and not pa.types.is_run_end_encoded(kind)


def readable_columns(schema: pa.Schema, own: Collection[str] = ()) -> list[str]:
    """Returns the columns that can be fields: of single values, with a unique name; those of bytes only if in `own`."""
    counts = collections.Counter(schema.names)
    return [
        field.name
        for field in schema
        if counts[field.name] == 1
        and field.name not in _UNREAD
        and _is_single(field.type)
        and (field.name in own or not is_image(field.type))
    ]


def check_single(schema: pa.Schema, names: Mapping[str, tuple[str, ...]], uri: str) -> None:
    """Raises a `UserError` if the column of one of our fields holds lists, which would be null without a word."""
    for our, theirs in names.items():
        found = next((name for name in theirs if name in schema.names), "")
        if schema.names.count(found) == 1 and not _is_single(schema.field(found).type):
            raise UserError(
                f"{uri}: column {found!r}, the {our}, is of type {schema.field(found).type}; make it a column of "
                f"single values, or name another by the source's fields={our}=.."
            )


def check_names(source: Source, names: Mapping[str, tuple[str, ...]], columns: list[str], uri: str) -> None:
    """Raises a `UserError` with the nearest column if one that the source's `fields` name is missing."""
    chosen = {entry.partition("=")[0] for entry in source.fields}
    for our in chosen & set(names):
        (theirs,) = names[our]
        if theirs not in columns:
            said = f"{uri}: has no column of single values {theirs!r} (fields={our}=..)"
            raise UserError(f"{said}; {nearest(theirs, columns)}")


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a table that are read.

    Attributes:
        shard: that the table is.
        image: name of the column of images.
        leaf: path of its bytes.
        fields: names of the other columns.
        names: the names that each of our fields may have.
    """

    shard: InputShard
    image: str
    leaf: str
    fields: list[str]
    names: Mapping[str, tuple[str, ...]]


def choose(schema: pa.Schema, shard: InputShard) -> Columns:
    """Returns the columns to read; errors as `read`, and a `BrokenParquet` if the images are not bytes."""
    names, uri = field_names(shard.source, FIELDS), shard.uri
    image = _choose_image(schema, names.pop("image"), uri)
    fields = readable_columns(schema, {name for theirs in names.values() for name in theirs})
    check_names(shard.source, names, fields, uri)
    check_single(schema, names, uri)
    leaf = f"{image}.bytes" if pa.types.is_struct(schema.field(image).type) else image
    return Columns(shard, image, leaf, [name for name in fields if name != image], names)


def _choose_image(schema: pa.Schema, names: tuple[str, ...], uri: str) -> str:
    image = next((name for name in names if name in schema.names), None)
    if image is None:
        said = " or ".join(map(repr, names))
        raise UserError(f"{uri}: has no column {said} with images (fields=image=..); {nearest(said, schema.names)}")
    if schema.names.count(image) > 1:
        raise BrokenParquet(f"has two columns {image!r}")
    kind = schema.field(image).type
    if not is_image(kind):
        raise BrokenParquet(f"column {image!r} is of type {kind}, not bytes of images")
    return image


def _image_bytes(batch: pa.RecordBatch, column: str, row: int) -> pa.Buffer | None:
    """Returns the encoded image of a row without copying it; None for an empty cell."""
    scalar = batch.column(batch.schema.get_field_index(column))[row]
    if scalar.is_valid and pa.types.is_struct(scalar.type):
        scalar = scalar["bytes"]
    if scalar.is_valid and pa.types.is_dictionary(scalar.type):
        scalar = scalar.value
    return scalar.as_buffer() if scalar.is_valid else None


def read(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject | Filtered]:
    """Yields the rows of a Parquet file; members are the numbers of its rows, from 0.

    A row group that is damaged is one reject that says which rows are lost; the next group is read.

    Raises:
        UserError: if a column is missing, or the store fails.
    """
    try:
        with open_table(shard.uri) as table:
            columns = choose(table.schema, shard)
            if sum(table.group_rows) > table.size_bytes:
                # Empty rows take no bytes, and rejecting each of them would take days.
                raise BrokenParquet(f"its footer claims {sum(table.group_rows):,} rows in {table.size_bytes:,} bytes")
            first = 0
            for group, rows in enumerate(table.group_rows):
                yield from _read_group(table, group, first, columns, embed.max_image_bytes)
                first += rows
    except BrokenParquet as error:
        yield Reject("", "read", "BrokenParquet", str(error))


def _read_group(
    table: Table, group: int, first: int, columns: Columns, limit: int
) -> Iterator[Sample | Reject | Filtered]:
    number = first
    try:
        for batch in table.batches(group, [columns.leaf, *columns.fields]):
            for row in range(len(batch)):
                yield read_row(batch, row, str(number), columns, limit)
                number += 1
    except BrokenParquet as error:
        last = first + table.group_rows[group] - 1
        yield Reject(str(number), "read", "BrokenParquet", f"rows {number:,} to {last:,} cannot be read: {error}")


def read_row(batch: pa.RecordBatch, row: int, member: str, columns: Columns, limit: int) -> Sample | Reject | Filtered:
    """Returns a row of a batch; images of more than `limit` bytes are rejects."""
    try:
        fields = rename(row_values(batch, row, columns.fields), columns.names)
        fields |= {our: fields[our].decode() for our in columns.names if isinstance(fields[our], bytes)}
        image = _image_bytes(batch, columns.image, row)
    except ValueError as error:
        return Reject(member, "read", "BadValue", str(error))
    if image is not None and image.size > limit:
        return Reject(member, "read", "TooLarge", f"has {image.size:,} bytes, the limit is {limit:,}")
    sample = to_sample(columns.shard, member, b"" if image is None else image.to_pybytes(), fields)
    if image is None and isinstance(sample, Sample):
        return Reject(member, "read", "MissingImage", f"column {columns.image!r} is empty")
    return sample


def labels(batch: pa.RecordBatch, columns: list[str], names: tuple[str, ...]) -> Iterator[Any]:
    """Yields the label of each row of a batch as it is; `names` are those of its column, of which `columns` are there.

    Raises:
        ValueError: if one does not fit its type.
    """
    for row in range(len(batch)):
        found = rename(row_values(batch, row, columns), {"label": names})["label"]
        yield found.decode() if isinstance(found, bytes) else found


def label_values(shard: InputShard) -> Iterator[Any]:
    """Yields the labels of a Parquet file as they are, reading no other column; of a damaged group only some."""
    names = field_names(shard.source, FIELDS)["label"]
    with contextlib.suppress(BrokenParquet), open_table(shard.uri) as table:
        columns = [name for name in readable_columns(table.schema, names) if name in names]
        if sum(table.group_rows) > table.size_bytes or not columns:
            return
        for group in range(len(table.group_rows)):
            with contextlib.suppress(BrokenParquet, ValueError):
                for batch in table.batches(group, columns):
                    yield from labels(batch, columns, names)


def class_label(shard: InputShard) -> tuple[str, ...]:
    """Returns the names that a file's own metadata gives to its labels; nothing without any."""
    with contextlib.suppress(BrokenParquet), open_table(shard.uri) as table:
        return naming.class_label(table.schema, field_names(shard.source, FIELDS)["label"])
    return ()
