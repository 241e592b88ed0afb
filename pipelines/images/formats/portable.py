"""PBM, PGM and PPM, as text or bytes, as the bytes of 8 bits a sample that Pillow reads at once.

Pillow reads headers, texts and any other range than 8 or 16 bits one value at a time, in Python: a comment of 60 MB
takes it many seconds.
"""

import re

import numpy as np

from pipelines.images.formats.bare import Bare, RefusedError

SIGNATURE = re.compile(rb"P[1-6Ff][\s#]")

_SPACE = rb"(?:\s|#[^\r\n]*+[\r\n])++"
_SIZE = re.compile(rb"P[1-6]" + _SPACE + rb"(\d{1,10})" + _SPACE + rb"(\d{1,10})")
_LEVELS = re.compile(_SPACE + rb"(\d{1,10})")
_COMMENT = re.compile(rb"#[^\r\n]*+")
_NO_NUMBER = re.compile(rb"[^\d\s]")
_LONG_NUMBER = re.compile(rb"\d{11}")
_SPACES = b" \t\n\v\f\r"
_BITS, _COLORS = (b"P1", b"P4"), (b"P3", b"P6")
_TEXTS = (b"P1", b"P2", b"P3")
_BLOCK = 1 << 20
# Each leaves a piece of text to join.
_MAX_COMMENTS = 1 << 16


def bare(data: bytes) -> Bare:
    """Returns a picture with a plain header and samples of 8 bits, of bits as they are.

    Raises:
        RefusedError: if it is of floats, damaged, or ends within its pixels.
    """
    kind = data[:2]
    if kind in (b"PF", b"Pf"):
        raise RefusedError("is a PFM, a map of floating numbers, which is not supported")
    found = _SIZE.match(data)
    most, place = 255, found.end() if found else 0
    if found and kind not in _BITS:
        levels = _LEVELS.match(data, place)
        most, place = (int(levels[1]), levels.end()) if levels else (0, 0)
    if not found or not 0 < most < 1 << 16 or not data[place : place + 1].isspace():
        raise RefusedError("is a PBM, PGM or PPM with a broken header")
    width, height = int(found[1]), int(found[2])
    if not width or not height:
        raise RefusedError("is a PBM, PGM or PPM without pixels")
    count = width * height * (3 if kind in _COLORS else 1)
    if kind in _TEXTS:
        pixels = _bits(data[place:], count) if kind == b"P1" else _numbers(data[place:], count, most)
        kind = b"P6" if kind == b"P3" else b"P5"
    else:
        pixels = _bytes(data[place + 1 :], (width + 7) // 8 * height if kind == b"P4" else count, most)
    head = b"%b %d %d%b\n" % (kind, width, height, b"" if kind == b"P4" else b" 255")
    return Bare(head + pixels, "PPM")


def _need(there: int, count: int) -> None:
    if there < count:
        raise RefusedError("ends within its pixels")


def _eight_bits(samples: np.ndarray, most: int) -> bytes:
    """Returns samples of 0 to `most`, which larger ones count as, stretched to 0 to 255."""
    whole = np.minimum(samples, most) * np.uint32(255)
    return ((whole + np.uint32(most // 2)) // np.uint32(most)).astype(np.uint8).tobytes()


def _bytes(data: bytes, count: int, most: int) -> bytes:
    """Returns so many samples that are stored as numbers of 8 or 16 bits."""
    size = 1 if most < 256 else 2
    _need(len(data), count * size)
    if most == 255:
        return data[:count]
    samples = np.frombuffer(data, ">u2" if size == 2 else "u1", count)
    blocks = (samples[at : at + _BLOCK].astype(np.uint32) for at in range(0, count, _BLOCK))
    return b"".join(_eight_bits(block, most) for block in blocks)


def _without_comments(text: bytes) -> bytes:
    if text.count(b"#") > _MAX_COMMENTS:
        raise RefusedError(f"is a PBM, PGM or PPM with more than {_MAX_COMMENTS:,} comments among its pixels")
    return _COMMENT.sub(b"", text)


def _bits(text: bytes, count: int) -> bytes:
    """Returns so many samples of a text of 0 (white) and 1, with or without spaces between."""
    digits = _without_comments(text).translate(None, _SPACES)[:count]
    _need(len(digits), count)
    if digits.translate(None, b"01"):
        raise RefusedError("is a PBM with something that is neither 0 nor 1")
    return digits.translate(bytes.maketrans(b"01", b"\xff\0"))


def _numbers(text: bytes, count: int, most: int) -> bytes:
    """Returns so many samples of a text of numbers."""
    _need(len(text), 2 * count - 1)
    text, found, place = _without_comments(text), [], 0
    while place < len(text) and count > 0:
        end = place + _BLOCK
        while end < len(text) and text[end] not in _SPACES and end < place + _BLOCK + 11:
            end += 1
        block = text[place:end]
        if _NO_NUMBER.search(block) or _LONG_NUMBER.search(block):
            raise RefusedError("is a PGM or PPM of text with something that is no number")
        place = end
        if not block.isspace():
            samples = np.fromstring(block, np.uint64, sep=" ")[:count]
            found.append(_eight_bits(np.minimum(samples, most).astype(np.uint32), most))
            count -= len(samples)
    _need(0, count)
    return b"".join(found)
