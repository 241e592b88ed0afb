"""How an image is to be turned, from its EXIF or XMP, without reading any more of either.

The answers are those of Pillow's `exif_transpose`: the orientation may be of any numeric type but BYTE, of several
values the first counts, of several tags the last.
"""

import re
import struct
from collections.abc import Sequence

_ORIENTATION = 0x0112
# By the type of the tag: a single value. A rational number is a pair.
_FORMATS = {3: "H", 4: "L", 5: "LL", 6: "b", 8: "h", 9: "l", 10: "ll", 11: "f", 12: "d", 13: "L", 16: "Q"}
_NO_NUMBERS = (1, 2, 7)
_IN_XMP = re.compile(rb'tiff:Orientation(="|>)([0-9])')


def find(blocks: Sequence[bytes], xmp: bytes = b"") -> int:
    """Returns the orientation, 1 to 8, of the first block of EXIF that states one, otherwise that of the XMP.

    Args:
        blocks: of EXIF, with or without the mark of EXIF before each.
        xmp: a packet of XMP; empty for none.
    """
    stated = next((value for block in blocks if (value := _in_exif(block)) is not None), None)
    if stated is None and (found := _IN_XMP.search(xmp)):
        stated = int(found[2])
    return int(stated) if stated is not None and stated in range(1, 9) else 1


def _in_exif(exif: bytes) -> float | None:
    """Returns the orientation in the first directory of a block; None if there is none that can be read."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    stated = None
    try:
        if order:
            (start,) = struct.unpack_from(f"{order}4xL", exif)
            (count,) = struct.unpack_from(f"{order}H", exif, start)
            for entry in range(count):
                stated = _value(exif, order, start + 2 + 12 * entry, stated)
    except struct.error:
        # The picture can be used without it.
        pass
    return stated


def _value(exif: bytes, order: str, place: int, before: float | None) -> float | None:
    """Returns the value of an entry of a directory; `before` if it is of another tag, or has no value."""
    tag, kind, count = struct.unpack_from(f"{order}HHL", exif, place)
    if tag != _ORIENTATION or not count:
        return before
    if kind not in _FORMATS:
        return 0 if kind in _NO_NUMBERS else before
    layout = order + _FORMATS[kind]
    at, size = place + 8, struct.calcsize(layout) * count
    if size > 4:
        (at,) = struct.unpack_from(f"{order}L", exif, at)
    if at + size > len(exif):
        return before
    values = struct.unpack_from(layout, exif, at)
    if len(values) == 1:
        return values[0]
    return values[0] / values[1] if values[1] else 0
