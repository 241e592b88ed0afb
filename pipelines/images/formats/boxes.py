"""Boxes of ISO/IEC 14496-12, as in AVIF: reads items, their places and properties; writes boxes."""

import dataclasses
import struct
from collections.abc import Iterator

from pipelines.images.formats.bare import RefusedError


@dataclasses.dataclass
class Item:
    """A part of a picture in a file.

    Attributes:
        kind: its four characters: `av01`, `grid` and others.
        in_data: whether it lies in the box `idat`, otherwise in the file.
        extents: first byte and size in bytes of each of its pieces.
        properties: kind, content and whether readers must know it, in order.
        refers: by kind of reference, the items that this one refers to.
    """

    kind: bytes = b""
    in_data: bool = False
    extents: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    properties: list[tuple[bytes, bytes, bool]] = dataclasses.field(default_factory=list)
    refers: dict[bytes, list[int]] = dataclasses.field(default_factory=dict)


class Reader:
    """Reads numbers one after the other from bytes; raises a `RefusedError` where they end."""

    def __init__(self, data: bytes) -> None:
        """Starts at the first byte."""
        self._data, self.place = data, 0

    def take(self, size: int) -> bytes:
        """Returns the next `size` bytes."""
        self.place += size
        if self.place > len(self._data):
            raise RefusedError("is an AVIF that ends within a box")
        return self._data[self.place - size : self.place]

    def number(self, size: int) -> int:
        """Returns the next number, of so many bytes."""
        return int.from_bytes(self.take(size))

    def has_more(self) -> bool:
        """Tells whether bytes are left."""
        return self.place < len(self._data)


def children(data: bytes, start: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Yields kind and content of each box, beginning at a byte; a damaged one ends them."""
    while start + 8 <= len(data):
        size, begin = int.from_bytes(data[start : start + 4]), start + 8
        if size == 1:
            size, begin = int.from_bytes(data[start + 8 : start + 16]), start + 16
        end = start + size if size else len(data)
        if end < begin or end > len(data):
            return
        yield data[start + 4 : start + 8], data[begin:end]
        start = end


def items(meta: dict[bytes, bytes]) -> dict[int, Item]:
    """Returns the items of a box `meta`, by their ids.

    Args:
        meta: content of the boxes in it, by kind.

    Raises:
        RefusedError: if a box is damaged.
    """
    found: dict[int, Item] = {}
    _kinds(meta.get(b"iinf", b""), found)
    _places(Reader(meta.get(b"iloc", b"")), found)
    _properties(meta.get(b"iprp", b""), found)
    for kind, body in children(meta.get(b"iref", b""), 4):
        reader, size = Reader(body), 2 if meta[b"iref"][0] == 0 else 4
        item = found.get(reader.number(size), Item())
        item.refers.setdefault(kind, []).extend(reader.number(size) for _ in range(reader.number(2)))
    return found


def _kinds(body: bytes, found: dict[int, Item]) -> None:
    for kind, entry in children(body, 6 if body[:1] == b"\0" else 8):
        if kind == b"infe" and entry[0] in (2, 3):
            reader = Reader(entry[4:])
            number = reader.number(2 if entry[0] == 2 else 4)
            is_protected = reader.number(2)
            if not is_protected:
                found.setdefault(number, Item(reader.take(4)))


def _places(reader: Reader, found: dict[int, Item]) -> None:
    version, _ = reader.number(1), reader.take(3)
    if version > 2:
        raise RefusedError(f"is an AVIF with places of version {version}, which is not known")
    sizes = reader.number(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    for _ in range(reader.number(2 if version < 2 else 4)):
        number = reader.number(2 if version < 2 else 4)
        method = reader.number(2) & 15 if version else 0
        elsewhere, base = reader.number(2), reader.number(base_size)
        extents = []
        for _ in range(reader.number(2)):
            reader.take(index_size)
            extents.append((base + reader.number(offset_size), reader.number(length_size)))
        item = found.get(number)
        # Items within items, and in other files, stay without a place.
        if item and not item.extents and method < 2 and not elsewhere:
            item.in_data, item.extents = method == 1, extents


def _properties(body: bytes, found: dict[int, Item]) -> None:
    known: list[tuple[bytes, bytes]] = []
    for kind, content in children(body):
        if kind == b"ipco" and not known:
            known = list(children(content))
        elif kind == b"ipma":
            reader = Reader(content)
            version, flags = reader.number(1), reader.number(3)
            for _ in range(reader.number(4)):
                item = found.get(reader.number(2 if version == 0 else 4), Item())
                for _ in range(reader.number(1)):
                    size = 2 if flags & 1 else 1
                    index = reader.number(size)
                    is_essential, index = bool(index >> 8 * size - 1), index & (1 << 8 * size - 1) - 1
                    if not 0 <= index - 1 < len(known):
                        continue
                    item.properties.append((*known[index - 1], is_essential))


def box(kind: bytes, *parts: bytes) -> bytes:
    """Returns a box."""
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def full_box(kind: bytes, *parts: bytes) -> bytes:
    """Returns a box of version 0 without flags."""
    return box(kind, bytes(4), *parts)
