"""The first frame of a GIF or WebP as an image of its own, with its place on the canvas.

So a frame costs what it has of pixels, and what it does not cover is transparent, as browsers show it; Pillow fills it
with the first colour of a GIF's palette.
"""

import struct

from pipelines.images.formats import orientation
from pipelines.images.formats.bare import Bare, RefusedError

GIFS = (b"GIF87a", b"GIF89a")

_EXTENSION, _IMAGE, _CONTROL = 0x21, 0x2C, 0xF9
_ALPHA = 0x10
_FRAME_HEADER_BYTES = 16


def gif(data: bytes) -> Bare:
    """Returns the first frame of a GIF without comments, other extensions and disposal.

    Raises:
        IndexError: if the bytes end within the structure.
    """

    def colors(flags: int) -> int:
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    place = 13 + colors(data[10])
    header, control = data[:place], b""
    while data[place] in (_EXTENSION, _IMAGE):
        begin, kind = place, data[place]
        place += 2 if kind == _EXTENSION else 11 + colors(data[place + 9])
        while data[place]:
            place += 1 + data[place]
        place += 1
        if kind == _IMAGE:
            return _gif_frame(header, control, data[begin:place])
        if data[begin + 1] == _CONTROL and data[begin + 2] == 4:
            # Keep only the flag of transparency: disposal is for later frames.
            control = data[begin : begin + 3] + bytes([data[begin + 3] & 1]) + data[begin + 4 : begin + 8]
    return Bare(header + b";", "GIF")


def _gif_frame(header: bytes, control: bytes, frame: bytes) -> Bare:
    left, top, width, height = struct.unpack_from("<4H", frame, 1)
    canvas = struct.unpack_from("<2H", header, 6)
    # A frame that is larger than the canvas makes it larger.
    whole = max(canvas[0], left + width), max(canvas[1], top + height)
    if (left, top, width, height) == (0, 0, *whole):
        return Bare(header + control + frame + b";", "GIF")
    alone = header[:6] + frame[5:9] + header[10:] + control + frame[:1] + bytes(4) + frame[5:] + b";"
    return Bare(alone, "GIF", canvas=whole, left=left, top=top)


def webp(data: bytes) -> Bare:
    """Returns a WebP without metadata, of an animation only the first frame; broken ones are left to the decoder."""
    chunks, frame, flags, canvas, exif, xmp = [], b"", 0, None, b"", b""
    for kind, body in _chunks(data, 12):
        if kind == b"VP8X" and len(body) >= 10:
            flags, canvas = body[0], (1 + _uint24(body, 4), 1 + _uint24(body, 7))
        elif kind in (b"VP8 ", b"VP8L", b"ALPH"):
            chunks.append((kind, body))
        elif kind == b"ANMF":
            frame = frame or body
        elif kind == b"EXIF":
            exif = exif or body
        elif kind == b"XMP ":
            xmp = xmp or body
    if canvas is None:
        return Bare(data, "WEBP")
    size, left, top = canvas, 0, 0
    if frame:
        left, top = 2 * _uint24(frame, 0), 2 * _uint24(frame, 3)
        size = 1 + _uint24(frame, 6), 1 + _uint24(frame, 9)
        chunks = [entry for entry in _chunks(frame, _FRAME_HEADER_BYTES) if entry[0] in (b"VP8 ", b"VP8L", b"ALPH")]
    inside = left + size[0] <= canvas[0] and top + size[1] <= canvas[1]
    if not inside or not any(kind != b"ALPH" for kind, _ in chunks):
        raise RefusedError("is a WebP whose first frame is damaged")
    extended = bytes([flags & _ALPHA, 0, 0, 0]) + b"".join((side - 1).to_bytes(3, "little") for side in size)
    body = b"WEBP" + b"".join(_chunk(kind, body) for kind, body in [(b"VP8X", extended), *chunks])
    alone = b"RIFF" + struct.pack("<I", len(body)) + body
    return Bare(alone, "WEBP", orientation.find([exif], xmp), canvas=canvas, left=left, top=top)


def _uint24(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 3], "little")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _chunks(data: bytes, place: int) -> list[tuple[bytes, bytes]]:
    """Returns kind and content of each whole chunk from a place on."""
    found = []
    while place + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, place + 4)
        if place + 8 + size > len(data):
            break
        found.append((data[place : place + 4], data[place + 8 : place + 8 + size]))
        place += 8 + size + size % 2
    return found
