"""Arrow streams with the image bytes in a column, as `datasets.save_to_disk` writes them (`data-*.arrow`).

A stream has a schema and then batches, each behind a header that says how long it is. The headers are read here, before
Arrow is given a batch: so none is larger than a bound, and none is compressed, which `datasets` never does and a few
bytes could be made to unpack to anything. Rows are interpreted as those of Parquet files.
"""

import contextlib
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import flatbuffers
import pyarrow as pa
from flatbuffers.table import Table

from configs.base import Embed
from pipelines import storage
from pipelines.errors import one_line
from pipelines.sources import naming
from pipelines.sources.files import parquet
from pipelines.sources.sample import Filtered, InputShard, Reject, Sample, field_names
from pipelines.sources.stream import BrokenStream, Stream

INSIDE = ("*.arrow",)
_CONTINUES = b"\xff\xff\xff\xff"
_MAX_HEADER_BYTES = 64 << 20
_MAX_BATCH_BYTES = 1 << 29
# Fields of the flatbuffers tables `Message` and `RecordBatch`, as offsets in their tables of contents.
_KIND, _HEADER, _BODY_BYTES, _COMPRESSION = 6, 8, 10, 10
_SCHEMA, _BATCH = 1, 3


class BrokenArrow(Exception):
    """A file that is not an Arrow stream, or breaks off."""


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Turns errors about broken bytes into a `BrokenArrow`; a failing store is a `UserError` and passes."""
    try:
        yield
    except (*storage.BROKEN_PARQUET, BrokenStream, struct.error, IndexError, TypeError) as error:
        raise BrokenArrow(one_line(error)[:300] or type(error).__name__) from error


def _header(data: bytes) -> tuple[int, int, bool]:
    """Returns of a message's header: its kind, the bytes of its body, and whether those are compressed."""
    message = Table(data, flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0))
    number = flatbuffers.number_types

    def scalar(field: int, kind: Any) -> int:
        place = message.Offset(field)
        return int(message.Get(kind, place + message.Pos)) if place else 0

    kind, compressed = scalar(_KIND, number.Uint8Flags), False
    if kind == _BATCH:
        batch = Table(data, 0)
        message.Union(batch, message.Offset(_HEADER))
        compressed = bool(batch.Offset(_COMPRESSION))
    return kind, scalar(_BODY_BYTES, number.Int64Flags), compressed


def _messages(stream: Stream) -> Iterator[pa.Message]:
    """Yields the schema and the batches of a stream.

    Raises:
        BrokenArrow: if one is too large, compressed, cut off, or of another kind.
        UserError: if the store fails.
    """
    wanted = _SCHEMA
    while prefix := stream.read(8):
        if prefix[:6] == b"ARROW1":
            raise BrokenArrow("it is an Arrow file for random access, not a stream; save it by save_to_disk")
        if len(prefix) < 8 or prefix[:4] != _CONTINUES:
            raise BrokenArrow("it is not a stream of Arrow messages")
        size = int.from_bytes(prefix[4:], "little")
        if size == 0:
            return
        if size > _MAX_HEADER_BYTES:
            raise BrokenArrow(f"a header claims {size:,} bytes")
        header = stream.read_exactly(size)
        kind, body_bytes, compressed = _header(header)
        if not 0 <= body_bytes <= _MAX_BATCH_BYTES:
            raise BrokenArrow(f"a batch claims {body_bytes:,} bytes, the limit is {_MAX_BATCH_BYTES:,}")
        if kind != wanted:
            raise BrokenArrow("a schema and then batches were expected; dictionaries and tensors are not read")
        wanted = _BATCH
        if compressed:
            raise BrokenArrow("its batches are compressed; datasets.save_to_disk writes them as they are")
        yield pa.ipc.read_message(pa.py_buffer(prefix + header + stream.read_exactly(body_bytes)))


def _names(fields: Iterable[pa.Field]) -> Iterator[str]:
    for field in fields:
        yield field.name
        if pa.types.is_struct(field.type):
            yield from _names(field.type)


class _Reader:
    """A stream that is read from start to end; errors as `BrokenArrow`, and a `UserError` if the store fails."""

    def __init__(self, stream: Stream) -> None:
        self._messages = _messages(stream)
        with _reading():
            first = next(self._messages, None)
            if first is None:
                raise BrokenArrow("it is empty")
            self.schema: pa.Schema = pa.ipc.read_schema(first)
            # A name is decoded as late as when it is asked for.
            list(_names(self.schema))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yields the batches."""
        while True:
            with _reading():
                if (message := next(self._messages, None)) is None:
                    return
                batch = pa.ipc.read_record_batch(message, self.schema)
                batch.validate(full=True)
            if len(batch) > message.body.size:
                # Empty rows take no bytes, and rejecting each of them would take days.
                raise BrokenArrow(f"a batch claims {len(batch):,} rows in {message.body.size:,} bytes")
            yield batch


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[_Reader]:
    with Stream(uri) as stream:
        yield _Reader(stream)


def read(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject | Filtered]:
    """Yields the rows of an Arrow stream; members are the numbers of its rows, from 0.

    Of a stream that breaks off, the rows before are kept, and one reject says so.

    Raises:
        UserError: if a column is missing, or the store fails.
    """
    number = 0
    try:
        with _opened(shard.uri) as reader:
            columns = parquet.choose(reader.schema, shard)
            for batch in reader.batches():
                for row in range(len(batch)):
                    yield parquet.read_row(batch, row, str(number), columns, embed.max_image_bytes)
                    number += 1
    except (BrokenArrow, parquet.BrokenParquet) as error:
        yield Reject(str(number), "read", "BrokenArrow", f"row {number:,} and all after it cannot be read: {error}")


def label_values(shard: InputShard) -> Iterator[Any]:
    """Yields the labels of a stream as they are; of one that breaks off those before."""
    names = field_names(shard.source, parquet.FIELDS)["label"]
    with contextlib.suppress(BrokenArrow, ValueError), _opened(shard.uri) as reader:
        columns = [name for name in parquet.readable_columns(reader.schema, names) if name in names]
        for batch in reader.batches() if columns else ():
            yield from parquet.labels(batch, columns, names)


def class_label(shard: InputShard) -> tuple[str, ...]:
    """Returns the names that a ClassLabel gives to the labels of a stream; nothing without any."""
    with contextlib.suppress(BrokenArrow), _opened(shard.uri) as reader:
        return naming.class_label(reader.schema, field_names(shard.source, parquet.FIELDS)["label"])
    return ()
