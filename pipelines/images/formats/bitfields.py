"""BMPs whose header says by masks which bits of a pixel are which colour, rewritten to the one order of 8 bits each.

Pillow knows a few masks, and no alpha in pixels of 16 bits. The result is not larger than twice the data.
"""

import struct

import numpy as np

from pipelines.images.formats.bare import RefusedError

_BITFIELDS, _ALPHA_BITFIELDS = 3, 6
# Of the header of 40 bytes; larger ones contain the masks, after that one three or four follow.
_MASKS, _LEAST_WITH_ALPHA = 54, 56
_BLUE, _GREEN, _RED, _ALPHA = range(4)
_SHIFTS = {_BLUE: 0, _GREEN: 8, _RED: 16, _ALPHA: 24}
_BLOCK_PIXELS = 1 << 16


def plain(data: bytes) -> bytes:
    """Returns a BMP of bit fields with 8 bits of blue, green, red and alpha, any other BMP unchanged.

    Raises:
        struct.error: if the header is cut.
        RefusedError: if pixels are missing, or a mask is not of consecutive bits.
    """
    start, size, width, height = struct.unpack_from("<IIii", data, 10)
    bits, compression = struct.unpack_from("<HI", data, 28) if size >= 40 else (0, 0)
    if compression not in (_BITFIELDS, _ALPHA_BITFIELDS) or bits not in (16, 32) or width <= 0 or not height:
        return data
    has_alpha = size >= _LEAST_WITH_ALPHA or compression == _ALPHA_BITFIELDS
    red, green, blue, alpha = (*struct.unpack_from("<3I", data, _MASKS), 0)
    if has_alpha:
        (alpha,) = struct.unpack_from("<I", data, _MASKS + 12)
    masks = {_BLUE: blue, _GREEN: green, _RED: red, _ALPHA: alpha}
    stride = (width * bits // 8 + 3) // 4 * 4
    rows = abs(height)
    if start + rows * stride > len(data):
        raise RefusedError("ends within its pixels")
    kind = "<u2" if bits == 16 else "<u4"
    packed = (
        np.frombuffer(data, np.uint8, rows * stride, start).reshape(rows, stride)[:, : width * bits // 8].view(kind)
    )
    header = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 32, _BITFIELDS, rows * width * 4, 0, 0, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000 if alpha else 0)
    header = header.ljust(124, b"\0")
    head = b"BM" + struct.pack("<IHHI", 138 + rows * width * 4, 0, 0, 138)
    step = max(1, _BLOCK_PIXELS // width)
    blocks = [_spread(packed[top : top + step], masks).tobytes() for top in range(0, rows, step)]
    return b"".join([head, header, *blocks])


def _spread(packed: np.ndarray, masks: dict[int, int]) -> np.ndarray:
    """Returns pixels with each channel stretched to 8 bits at its place, uint32 `[H, W]`."""
    out = np.zeros(packed.shape, "<u4")
    for channel, mask in masks.items():
        if not mask:
            continue
        low = (mask & -mask).bit_length() - 1
        most = mask >> low
        if most & most + 1:
            raise RefusedError("has a mask of bits that are not consecutive")
        values = (packed & packed.dtype.type(mask & np.iinfo(packed.dtype).max)).astype(np.uint64) >> np.uint64(low)
        out |= ((values * 255 + most // 2) // most).astype(np.uint32) << np.uint32(_SHIFTS[channel])
    return out
