"""Removes everything from an encoded image that the pixels of its first frame do not need; `decode` decodes the rest.

Hostile metadata can cost Pillow's readers far more than its size: overlapping EXIF tags are copied one by one (180 KB
of JPEG took 2.6 GB), comments are joined in quadratic time, profiles and texts are inflated, and the disposal of a GIF
is painted before its size is known. So Pillow sees no metadata.
"""

import dataclasses
import re
import struct

_ORIENTATION = 0x0112
_SHORT = 3

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

_JPEG_SCAN = 0xDA
_JPEG_SCAN_OR_END = re.compile(b"\xff[\xda\xd9]")
# APP0 (JFIF) and APP14 (Adobe) define the colour space. Other application segments and comments are removed.
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_JPEG_BARE_MARKERS = {0x00, 0x01, *range(0xD0, 0xDA)}

_GIF_EXTENSION, _GIF_IMAGE, _GIF_CONTROL = 0x21, 0x2C, 0xF9


@dataclasses.dataclass(frozen=True)
class Bare:
    """An encoded image without its metadata.

    Attributes:
        data: the bytes to decode.
        orientation: of the EXIF standard, 1 (upright) to 8.
        scans: passes over the picture that decoding takes; more than 1 only for a progressive JPEG.
    """

    data: bytes
    orientation: int = 1
    scans: int = 1


def bare(data: bytes) -> Bare:
    """Returns a JPEG, PNG or GIF with only what its first frame needs, and other bytes unchanged.

    Raises:
        IndexError: if the bytes end within a GIF's structure.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(_PNG_SIGNATURE):
        return _png(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return Bare(_gif(data))
    return Bare(data)


def orientation(exif: bytes) -> int:
    """Returns the orientation, 1 to 8, in the first directory of an EXIF block; 1 if there is none."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        if order:
            (start,) = struct.unpack_from(f"{order}4xI", tiff)
            (count,) = struct.unpack_from(f"{order}H", tiff, start)
            for entry in range(count):
                tag, kind, value = struct.unpack_from(f"{order}HH4xH", tiff, start + 2 + 12 * entry)
                if tag == _ORIENTATION and kind == _SHORT and 1 <= value <= 8:
                    return value
    except struct.error:
        # The picture can be used without it.
        pass
    return 1


def _jpeg(data: bytes) -> Bare:
    kept, exif, place = [data[:2]], b"", 2
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
            if marker == 0xE1 and segment[4:10] == b"Exif\0\0":
                exif = exif or segment[4:]
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
    return Bare(b"".join([*kept, data[start:end]]), orientation(exif), scans)


def _png(data: bytes) -> Bare:
    kept, exif, place, kind = [_PNG_SIGNATURE], b"", len(_PNG_SIGNATURE), b""
    while place < len(data) and kind != b"IEND":
        kind = data[place + 4 : place + 8]
        end = place + 12 + int.from_bytes(data[place : place + 4])
        if kind in _PNG_PIXELS:
            kept.append(data[place:end])
        elif kind == b"eXIf":
            exif = exif or data[place + 8 : end - 4]
        place = end
    return Bare(b"".join(kept), orientation(exif))


def _gif(data: bytes) -> bytes:
    def colors(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    place = 13 + colors(data[10])
    header, control = data[:place], b""
    while data[place] in (_GIF_EXTENSION, _GIF_IMAGE):
        begin, kind = place, data[place]
        place += 2 if kind == _GIF_EXTENSION else 11 + colors(data[place + 9])
        while data[place]:
            place += 1 + data[place]
        place += 1
        if kind == _GIF_IMAGE:
            return header + control + data[begin:place] + b";"
        if data[begin + 1] == _GIF_CONTROL and data[begin + 2] == 4:
            # Keep only the flag of transparency: disposal is for later frames.
            control = data[begin : begin + 3] + bytes([data[begin + 3] & 1]) + data[begin + 4 : begin + 8]
    return header + b";"
