"""A PNG reduced to its pixels; which way is up, and which colour is transparent, are read here.

Pillow compares the transparent colour of some depths with pixels that it has scaled or cut to 8 bits, so the colour is
taken out of the file and compared by `colors`.
"""

import zlib

from pipelines.images.formats import orientation
from pipelines.images.formats.bare import Bare

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_GREY, _RGB, _PALETTE = 0, 2, 3
_CHANNELS = {_GREY: 1, _RGB: 3}
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp", b"Raw profile type exif"
# A directory of EXIF, and the properties of a packet of XMP, are near its start.
_MAX_TEXT_BYTES = 1 << 17


def bare(data: bytes) -> Bare:
    """Returns the chunks that the pixels need."""
    kept, exif, hidden = [SIGNATURE], b"", None
    texts: dict[bytes, tuple[bytes, bytes]] = {}
    place, kind, color, depth = len(SIGNATURE), b"", -1, 8
    seen_pixels = False
    while place < len(data) and kind != b"IEND":
        kind = data[place + 4 : place + 8]
        end = place + 12 + int.from_bytes(data[place : place + 4])
        chunk = data[place:end]
        if kind in _PIXELS:
            kept.append(chunk)
        if kind == b"IHDR" and len(chunk) >= 25:
            depth, color = chunk[16], chunk[17]
        elif kind == b"tRNS" and not seen_pixels:
            if color == _PALETTE:
                kept.append(chunk)
            elif hidden is None:
                hidden = _hidden(chunk, color, depth)
        elif kind == b"eXIf":
            exif = exif or chunk[8:-4]
        elif kind in _TEXTS and chunk.startswith((_XMP + b"\0", _RAW_EXIF + b"\0"), 8):
            key, _, rest = chunk[8:-4].partition(b"\0")
            texts.setdefault(key, (kind, rest))
        seen_pixels = seen_pixels or kind == b"IDAT"
        place = end
    blocks = [exif] if exif else [_raw_exif(*texts[_RAW_EXIF])] if _RAW_EXIF in texts else []
    xmp = _text(*texts[_XMP]) if _XMP in texts else b""
    return Bare(b"".join(kept), "PNG", orientation.find(blocks, xmp), hidden=hidden, depth=depth)


def _hidden(chunk: bytes, color: int, depth: int) -> tuple[int, ...] | None:
    """Returns the transparent colour; None where the chunk is damaged or does not fit the image, as browsers do."""
    values = chunk[8:-4]
    count = _CHANNELS.get(color, 0)
    if len(values) != 2 * count or not count or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
        return None
    # Bits beyond the depth do not count.
    return tuple(int.from_bytes(values[at : at + 2]) & (1 << depth) - 1 for at in range(0, 2 * count, 2))


def _text(kind: bytes, rest: bytes) -> bytes:
    """Returns the beginning of the text of a chunk, inflated in bounded memory; nothing if it is damaged."""
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif packed:
        rest = rest[1:]
    try:
        return zlib.decompressobj().decompress(rest, _MAX_TEXT_BYTES) if packed else rest[:_MAX_TEXT_BYTES]
    except zlib.error:
        return b""


def _raw_exif(kind: bytes, rest: bytes) -> bytes:
    """Returns EXIF that ImageMagick wrote as a text: a line's end, name, length, then hexadecimal digits."""
    digits = b"".join(b"".join(_text(kind, rest).split(b"\n")[3:]).split())
    try:
        return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    except ValueError:
        return b""
