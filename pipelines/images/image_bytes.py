"""Removes everything from an encoded image that the pixels of its first frame do not need; `decode` decodes the rest.

Hostile metadata can cost Pillow's readers far more than its size: overlapping EXIF tags are copied one by one (180 KB
of JPEG took 2.6 GB), comments are joined in quadratic time, profiles and texts are inflated, and the disposal of a GIF
is painted before its size is known. So Pillow sees no metadata.
"""

import re

from pipelines.images import animations, bitfields, orientation, png_bytes
from pipelines.images.bare import Bare

_JPEG_SCAN = 0xDA
_JPEG_SCAN_OR_END = re.compile(b"\xff[\xda\xd9]")
# APP0 (JFIF) and APP14 (Adobe) define the colour space. Other application segments and comments are removed.
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_JPEG_BARE_MARKERS = {0x00, 0x01, *range(0xD0, 0xDA)}
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
# The first part of EXIF that has more than one segment has the orientation; later ones may be blocks of their own.
_MAX_EXIF_BLOCKS = 16


def bare(data: bytes) -> Bare:
    """Returns a JPEG, PNG, GIF, WebP or BMP with only what its first frame needs, and other bytes unchanged.

    Raises:
        IndexError, ValueError, struct.error: if the structure is broken.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(png_bytes.SIGNATURE):
        return png_bytes.bare(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return animations.gif(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return animations.webp(data)
    if data.startswith(b"BM"):
        return Bare(bitfields.plain(data))
    return Bare(data)


def _jpeg(data: bytes) -> Bare:
    exif: list[bytes] = []
    kept, xmp, place = [data[:2]], b"", 2
    while 0 <= (place := data.find(b"\xff", place)) <= len(data) - 4:
        marker = data[place + 1]
        if marker == _JPEG_SCAN:
            break
        if marker == 0xFF:
            place += 1
            continue
        end = place + 2
        if marker not in _JPEG_BARE_MARKERS:
            end += int.from_bytes(data[place + 2 : place + 4])
            segment = data[place:end]
            if marker == 0xE1 and segment[4:10] == b"Exif\0\0" and len(exif) < _MAX_EXIF_BLOCKS:
                exif.append(segment[4:])
            elif marker == 0xE1 and segment.startswith(_XMP, 4):
                xmp = segment
            if marker not in _JPEG_METADATA:
                kept.append(segment)
        place = end
    start, end, scans = place if place >= 0 else len(data), len(data), 0
    for mark in _JPEG_SCAN_OR_END.finditer(data, start):
        if mark[0][1] != _JPEG_SCAN:
            # After the end there may be other pictures (MPO), videos of phones, or anything.
            end = mark.end()
            break
        scans += 1
    return Bare(b"".join([*kept, data[start:end]]), orientation.find(exif, xmp), scans)
