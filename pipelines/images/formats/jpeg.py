"""A JPEG reduced to its pixels; which way is up is read here."""

import re

from pipelines.images.formats import orientation
from pipelines.images.formats.bare import Bare

SIGNATURE = b"\xff\xd8"

_SCAN = 0xDA
_SCAN_OR_END = re.compile(b"\xff[\xda\xd9]")
# APP0 (JFIF) and APP14 (Adobe) define the colour space. Other application segments and comments are removed.
_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_BARE_MARKERS = {0x00, 0x01, *range(0xD0, 0xDA)}
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
# The first part of EXIF that has more than one segment has the orientation; later ones may be blocks of their own.
_MAX_EXIF_BLOCKS = 16


def bare(data: bytes) -> Bare:
    """Returns the segments that the pixels need, of several pictures the first."""
    exif: list[bytes] = []
    kept, xmp, place = [data[:2]], b"", 2
    while 0 <= (place := data.find(b"\xff", place)) <= len(data) - 4:
        marker = data[place + 1]
        if marker == _SCAN:
            break
        if marker == 0xFF:
            place += 1
            continue
        end = place + 2
        if marker not in _BARE_MARKERS:
            end += int.from_bytes(data[place + 2 : place + 4])
            segment = data[place:end]
            if marker == 0xE1 and segment[4:10] == b"Exif\0\0" and len(exif) < _MAX_EXIF_BLOCKS:
                exif.append(segment[4:])
            elif marker == 0xE1 and segment.startswith(_XMP, 4):
                xmp = segment
            if marker not in _METADATA:
                kept.append(segment)
        place = end
    start, end, scans = place if place >= 0 else len(data), len(data), 0
    for mark in _SCAN_OR_END.finditer(data, start):
        if mark[0][1] != _SCAN:
            # After the end there may be other pictures (MPO), videos of phones, or anything.
            end = mark.end()
            break
        scans += 1
    return Bare(b"".join([*kept, data[start:end]]), "JPEG", orientation.find(exif, xmp), scans)
