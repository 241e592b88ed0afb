"""TFRecords of `tf.train.Example`: img2dataset's `tfrecord` output, and any other by the names of its features.

Framing and messages are read here, without TensorFlow, which takes seconds to load and whose reader stops at the first
damaged record. Framing (tensorflow/core/lib/io/record_writer.h): length `uint64`, masked CRC-32C of the length, data,
masked CRC-32C of the data.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import google_crc32c

from configs.base import Embed
from pipelines.errors import UserError, nearest
from pipelines.sources.sample import (
    MAX_TEXT_BYTES,
    Filtered,
    InputShard,
    Reject,
    Sample,
    field_names,
    rename,
    to_sample,
)
from pipelines.sources.stream import BrokenStream, Stream

FIELDS = {
    "image": ("jpg", "png", "webp", "image/encoded", "image"),
    "caption": ("txt", "caption", "image/text", "text"),
    "label": ("label",),
    "url": ("url", "image/url"),
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Real messages have few fields; millions of tiny ones would take minutes to parse.
_MAX_PARTS = 16
_MAX_VALUES = 4096
_ENOUGH_RECORDS = 100
_MAX_OTHER_BYTES = 4 * MAX_TEXT_BYTES


class _BrokenExample(ValueError):
    """Bytes that are not a `tf.train.Example`."""


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _is_plain(head: bytes) -> bool:
    """Tells whether a file begins with the length of a record, which may look like any compression's first bytes."""
    return len(head) == 12 and _masked_crc(head[:8]) == int.from_bytes(head[8:], "little")


def _records(stream: Stream, limit: int) -> Iterator[bytes | str]:
    """Yields the data of each record as bytes, or a text that says why it cannot be read.

    Raises:
        BrokenStream: where the framing can no longer be trusted.
    """
    while header := stream.read(12):
        if len(header) < 12:
            raise BrokenStream("the file ends early")
        length, crc = struct.unpack("<QI", header)
        if _masked_crc(header[:8]) != crc:
            raise BrokenStream("the checksum of a record's length is wrong")
        if length > limit:
            stream.skip(length + 4)
            yield f"has {length:,} bytes, the limit is {limit:,}"
            continue
        data = stream.read_exactly(length)
        if struct.unpack("<I", stream.read_exactly(4))[0] != _masked_crc(data):
            yield "the checksum of its data is wrong"
            continue
        yield data


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise _BrokenExample("ends within a number")
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
    raise _BrokenExample("has a number of more than ten bytes")


def _fields(data: memoryview, most: int) -> Iterator[tuple[int, int, Any]]:
    """Yields number, wire type and value of each field of a protocol buffer message of at most `most` fields."""
    place = count = 0
    while place < len(data):
        count += 1
        if count > most:
            raise _BrokenExample(f"has a message of more than {most:,} fields")
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, kind, value
            continue
        if kind not in (_FIXED64, _BYTES, _FIXED32):
            raise _BrokenExample(f"has a field of wire type {kind}")
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
        if kind == _BYTES:
            length, place = _varint(data, place)
        if length > len(data) - place:
            raise _BrokenExample("ends within a field")
        yield number, kind, data[place : place + length]
        place += length


def _fields_of(data: memoryview, most: int, wanted: int) -> Iterator[memoryview]:
    """Yields the messages and byte strings of one number."""
    for number, kind, value in _fields(data, most):
        if (number, kind) == (wanted, _BYTES):
            yield value


def parse_example(data: bytes) -> dict[str, memoryview]:
    """Returns the encoded `tf.train.Feature` of each name of an encoded `tf.train.Example`.

    Raises:
        ValueError: if the bytes are not such a message.
    """
    features = {}
    for message in _fields_of(memoryview(data), _MAX_PARTS, 1):
        for entry in _fields_of(message, _MAX_VALUES, 1):
            pair = {part: value for part, kind, value in _fields(entry, _MAX_PARTS) if kind == _BYTES}
            try:
                features[bytes(pair.get(1, b"")).decode()] = pair.get(2, memoryview(b""))
            except UnicodeDecodeError as error:
                raise _BrokenExample("has a feature whose name is not UTF-8") from error
    return features


def feature_values(feature: memoryview) -> Iterator[bytes | int | float]:
    """Yields the values of an encoded feature: bytes, floats or ints; a `ValueError` if they cannot be read."""
    for kind_of_list, kind, message in _fields(feature, _MAX_PARTS):
        values = _LISTS.get(kind_of_list)
        if kind != _BYTES or values is None:
            continue
        for number, wire, value in _fields(message, _MAX_VALUES):
            if number == 1:
                yield from values(wire, value)


def _bytes_values(wire: int, value: Any) -> Iterator[bytes]:
    if wire == _BYTES:
        yield bytes(value)


def _float_values(wire: int, value: Any) -> Iterator[float]:
    """Yields floats, packed or single: both are runs of four bytes each."""
    if wire in (_BYTES, _FIXED32):
        if len(value) % 4:
            raise _BrokenExample("ends within a number")
        yield from (single for (single,) in struct.iter_unpack("<f", value))


def _int_values(wire: int, value: Any) -> Iterator[int]:
    """Yields whole numbers, packed or single."""
    if wire == _VARINT:
        yield _signed(value)
    elif wire == _BYTES:
        place = 0
        while place < len(value):
            single, place = _varint(value, place)
            yield _signed(single)


# By the number of the field of `tf.train.Feature`.
_LISTS: dict[int, Callable[[int, Any], Iterator[bytes | int | float]]] = {
    1: _bytes_values,
    2: _float_values,
    3: _int_values,
}


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _plain(feature: memoryview) -> Any:
    """Returns a feature as a text, a number or a list of them; None if it is empty, large, or bytes but not text."""
    if len(feature) > MAX_TEXT_BYTES:
        return None
    values: list[Any] = []
    for value in feature_values(feature):
        if len(values) == _MAX_VALUES:
            return None
        try:
            values.append(value.decode() if isinstance(value, bytes) else value)
        except UnicodeDecodeError:
            return None
    if len(values) > 1:
        return values
    return None if values in ([], [""]) else values[0]


def _read_record(
    shard: InputShard, member: str, features: Mapping[str, memoryview], names: Mapping[str, tuple[str, ...]], limit: int
) -> Sample | Reject | Filtered:
    image = next((name for name in names["image"] if name in features), None)
    if image is None:
        return Reject(member, "read", "MissingImage", f"has no feature {' or '.join(names['image'])}")
    encoded = next((value for value in feature_values(features[image]) if isinstance(value, bytes)), None)
    others = {name: _plain(feature) for name, feature in features.items() if name != image}
    if encoded is None:
        return Reject(member, "read", "MissingImage", f"feature {image} holds no bytes")
    if len(encoded) > limit:
        return Reject(member, "read", "TooLarge", f"has {len(encoded):,} bytes, the limit is {limit:,}")
    ours = {our: names[our] for our in ("caption", "label", "url")}
    for our, error_type in _BROKEN.items():
        if broken := _unreadable(features, others, ours[our]):
            return Reject(member, "read", error_type, f"feature {broken} is no text and no number, or too long")
    return to_sample(shard, member, encoded, rename(others, ours))


# Of our features: why a row is rejected whose feature has values that cannot be read.
_BROKEN = {"caption": "CaptionNotUtf8", "label": "BadLabel", "url": "BadUrl"}


def _unreadable(features: Mapping[str, memoryview], others: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """Returns the feature of one of our fields that has values, but none that is a text or a number."""
    name = next((name for name in names if name in others), None)
    if name is None or others[name] is not None:
        return None
    return name if any(value != b"" for value in feature_values(features[name])) else None


def read(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject | Filtered]:
    """Yields the records of a TFRecord file, which may be compressed; members are their numbers, from 0.

    Raises:
        UserError: if none of many records has a feature that `fields` names, or the store fails.
    """
    names = field_names(shard.source, FIELDS)
    missing = {theirs for _, _, theirs in (entry.partition("=") for entry in shard.source.fields)}
    features: dict[str, memoryview] = {}
    number = 0
    with Stream(shard.uri, _is_plain) as stream:
        try:
            for record in _records(stream, embed.max_image_bytes + _MAX_OTHER_BYTES):
                if isinstance(record, str):
                    yield Reject(str(number), "read", "BrokenRecord", record)
                else:
                    try:
                        features = parse_example(record)
                        missing -= features.keys()
                        yield _read_record(shard, str(number), features, names, embed.max_image_bytes)
                    except _BrokenExample as error:
                        yield Reject(str(number), "read", "BrokenRecord", f"is no tf.train.Example: {error}")
                number += 1
        except BrokenStream as error:
            yield Reject(str(number), "read", "TruncatedRecords", f"nothing from here on can be read: {error}")
            return
    # Writers omit empty features, so a few records prove nothing.
    if missing and number >= _ENOUGH_RECORDS and features:
        name = min(missing)
        raise UserError(f"{shard.uri}: no record has a feature {name!r}; {nearest(name, list(features))}")
