"""TIFFs of any layout, written byte by byte, so that they may also be wrong."""

import struct

import numpy as np

SIZES = {1: 1, 3: 2, 4: 4, 5: 8}


def packed(samples: np.ndarray, bits: int, order: str) -> bytes:
    """Rows of samples [H, W, channels], each beginning at a byte."""
    rows = samples.reshape(len(samples), -1)
    if bits >= 8:
        return rows.astype(f"{order}u{bits // 8}").tobytes()
    planes = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(planes.reshape(len(rows), -1), axis=-1).tobytes()


def tiff(order: str, tags: dict[int, tuple[int, list[int]]], parts: list[bytes] = (), offsets: int = 273) -> bytes:
    """A TIFF with kind and values of each tag; those of the parts are added where they are not given."""
    sizes = [len(part) for part in parts]
    places = [8 + sum(sizes[:place]) for place in range(len(parts))]
    ours = {offsets: (4, places), offsets + (6 if offsets == 273 else 1): (4, sizes)} if parts else {}
    tags = {**ours, **tags}
    start = 8 + sum(sizes) + sum(sizes) % 2
    entries, values = b"", b""
    for tag, (kind, numbers) in sorted(tags.items()):
        code = {1: "B", 3: "H", 4: "I", 5: "I"}[kind]
        content = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        count = len(numbers) // (2 if kind == 5 else 1)
        place = start + 2 + 12 * len(tags) + 4 + len(values)
        entries += struct.pack(f"{order}HHI", tag, kind, count)
        entries += content.ljust(4, b"\0") if len(content) <= 4 else struct.pack(f"{order}I", place)
        values += content if len(content) > 4 else b""
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    body = b"".join(parts).ljust(start - 8, b"\0")
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + values
