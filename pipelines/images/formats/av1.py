"""The one frame of an AV1 bitstream, and how large its decoder would make it, whatever is said around it.

Units and the sequence header are those of the AV1 Bitstream & Decoding Process Specification, 5.3 to 5.5.
"""

from pipelines.images.formats.bare import RefusedError

_SEQUENCE_HEADER, _FRAME_HEADER, _TILES, _FRAME = 1, 3, 4, 6
_HEADER_BYTES = 64


def still(data: bytes) -> tuple[bytes, int, int]:
    """Returns the units that the picture needs, and the largest width and height of its frame in pixels.

    Raises:
        RefusedError: if the bitstream is damaged, or has several frames, as layered pictures have.
    """
    place, header, kept, frames = 0, b"", [], 0
    while place < len(data):
        kind, body, end = _unit(data, place)
        if kind == _SEQUENCE_HEADER:
            if header and data[body:end] != header:
                raise RefusedError("is an AVIF whose AV1 data has several sequence headers")
            if not header:
                kept.append(data[place:end])
            header = data[body:end]
        elif kind in (_FRAME_HEADER, _TILES, _FRAME):
            frames += kind != _TILES
            kept.append(data[place:end])
        place = end
    if not header or frames != 1:
        raise RefusedError(f"is an AVIF whose AV1 data has {frames} frames; pictures of one frame are supported")
    return b"".join(kept), *_size(header)


def _unit(data: bytes, place: int) -> tuple[int, int, int]:
    """Returns the kind of the unit at a place, and where its body begins and ends."""
    kind, has_extension, has_size = data[place] >> 3 & 15, data[place] >> 2 & 1, data[place] >> 1 & 1
    place += 1 + has_extension
    if not has_size:
        return kind, place, len(data)
    size = 0
    for shift in range(0, 56, 7):
        byte = data[place]
        place += 1
        size |= (byte & 127) << shift
        if byte < 128:
            break
    if place + size > len(data):
        raise RefusedError("is an AVIF that ends within its AV1 data")
    return kind, place, place + size


def _size(header: bytes) -> tuple[int, int]:
    """Returns the largest width and height that a frame with this sequence header can have."""
    bits = "".join(f"{byte:08b}" for byte in header[:_HEADER_BYTES]).ljust(8 * _HEADER_BYTES, "0")
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    take(3 + 1)
    is_reduced = take(1)
    if is_reduced:
        take(5)
    else:
        if take(1):
            raise RefusedError("is an AVIF whose AV1 data has times, as videos have; stills are supported")
        has_delays = take(1)
        if take(5):
            raise RefusedError("is an AVIF in layers, which is not supported")
        take(12)
        # The tier is stated from level 4.0 on.
        if take(5) > 7:
            take(1)
        if has_delays and take(1):
            take(4)
    width_bits, height_bits = take(4) + 1, take(4) + 1
    if is_reduced:
        return take(width_bits) + 1, take(height_bits) + 1
    # A frame may state any size of so many bits.
    return 1 << width_bits, 1 << height_bits
