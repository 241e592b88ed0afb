"""The first directory of a TIFF: reads the tags that pixels need, each bounded, and writes them into a new file."""

import struct
from collections.abc import Sequence

import numpy as np

from pipelines.images.formats.bare import RefusedError

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_SIZES, PLANES = 273, 277, 278, 279, 284
T4_OPTIONS, T6_OPTIONS, PREDICTOR, COLORS = 292, 293, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_SIZES = 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES = 338, 339, 347
YCC_COEFFICIENTS, YCC_SUBSAMPLING, YCC_POSITION, BLACK_AND_WHITE = 529, 530, 531, 532

MAX_PARTS = 1 << 16
_MAX_SAMPLES = 16
# By tag, how many values it may have; all others are one value. Pillow makes a Python object of each.
_MOST = {
    **dict.fromkeys((STRIP_OFFSETS, STRIP_SIZES, TILE_OFFSETS, TILE_SIZES), MAX_PARTS),
    **dict.fromkeys((BITS, EXTRA_SAMPLES, SAMPLE_FORMAT), _MAX_SAMPLES),
    **dict.fromkeys((WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES, ROWS_PER_STRIP, PLANES), 1),
    **dict.fromkeys((T4_OPTIONS, T6_OPTIONS, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, YCC_POSITION), 1),
    COLORS: 3 << 8,
    JPEG_TABLES: 1 << 16,
    YCC_COEFFICIENTS: 3,
    YCC_SUBSAMPLING: 2,
    BLACK_AND_WHITE: 6,
}
_BYTE, _SHORT, _LONG, _RATIONAL, _UNDEFINED = 1, 3, 4, 5, 7
_TYPES = {_BYTE: "u1", _SHORT: "u2", _LONG: "u4", _RATIONAL: "u4", _UNDEFINED: "u1"}
# How they are written; all others as integers of 32 bits.
_KINDS = {
    **dict.fromkeys((YCC_COEFFICIENTS, BLACK_AND_WHITE), _RATIONAL),
    **dict.fromkeys((BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANES, PREDICTOR, COLORS), _SHORT),
    **dict.fromkeys((EXTRA_SAMPLES, YCC_SUBSAMPLING, YCC_POSITION), _SHORT),
    JPEG_TABLES: _UNDEFINED,
}


def read(data: bytes, order: str) -> dict[int, np.ndarray]:
    """Returns the values of the tags that pixels need, int64 `[N]`; of a rational number both parts, `[2 N]`.

    Args:
        data: the file.
        order: `<` or `>`, of its bytes.

    Raises:
        RefusedError: if the directory or a value is outside the file, or has more values than it can need.
    """
    (start,) = struct.unpack_from(f"{order}L", data, 4)
    if start + 2 > len(data):
        raise RefusedError("is a TIFF whose directory is outside the file")
    (count,) = struct.unpack_from(f"{order}H", data, start)
    if start + 2 + 12 * count > len(data):
        raise RefusedError("is a TIFF that ends within its directory")
    found: dict[int, np.ndarray] = {}
    for place in range(start + 2, start + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from(f"{order}H", data, place)
        if tag in _MOST and tag not in found:
            found[tag] = _values(data, order, place, tag)
    return found


def _values(data: bytes, order: str, place: int, tag: int) -> np.ndarray:
    kind, count = struct.unpack_from(f"{order}HL", data, place + 2)
    if kind not in _TYPES or (kind == _RATIONAL) != (_KINDS.get(tag) == _RATIONAL):
        raise RefusedError(f"is a TIFF whose tag {tag} is of type {kind}, which it cannot be")
    if not 0 < count <= _MOST[tag]:
        raise RefusedError(f"is a TIFF whose tag {tag} has {count:,} values, the limit is {_MOST[tag]:,}")
    dtype = np.dtype(order + _TYPES[kind])
    numbers = 2 * count if kind == _RATIONAL else count
    at = place + 8
    if numbers * dtype.itemsize > 4:
        (at,) = struct.unpack_from(f"{order}L", data, at)
    if at + numbers * dtype.itemsize > len(data):
        raise RefusedError(f"is a TIFF whose tag {tag} is outside the file")
    return np.frombuffer(data, dtype, numbers, at).astype(np.int64)


def write(order: str, parts: Sequence[bytes], tags: dict[int, np.ndarray], offsets_tag: int, sizes_tag: int) -> bytes:
    """Returns a TIFF of one directory.

    Args:
        order: `<` or `>`, of its bytes.
        parts: the strips or tiles.
        tags: values by tag, without those of the parts.
        offsets_tag: under which the places of the parts are written.
        sizes_tag: likewise, their sizes.
    """
    sizes = np.array([len(part) for part in parts], np.int64)
    tags = {**tags, offsets_tag: 8 + np.cumsum(sizes) - sizes, sizes_tag: sizes}
    start = 8 + int(sizes.sum())
    padding = bytes(start % 2)
    start += len(padding)
    entries, values = [], b""
    after = start + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        kind = _KINDS.get(tag, _LONG)
        content = tags[tag].astype(order + _TYPES[kind]).tobytes()
        count = len(tags[tag]) // (2 if kind == _RATIONAL else 1)
        entry = struct.pack(f"{order}HHL", tag, kind, count)
        if len(content) <= 4:
            entries.append(entry + content.ljust(4, b"\0"))
        else:
            entries.append(entry + struct.pack(f"{order}L", after + len(values)))
            values += content + bytes(len(content) % 2)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HL", 42, start)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    return b"".join([head, *parts, padding, directory, values])
