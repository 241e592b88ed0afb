"""The picture of an AVIF as a file of its own: its AV1 frames, those of its alpha, and the properties that pixels need.

The turn is taken from the file's properties, which win over any EXIF. What the AV1 frames themselves say of their size
is read here, since they are decoded at that size.
"""

import dataclasses
import struct

from PIL import features

from pipelines.images.formats import av1, boxes
from pipelines.images.formats.bare import Bare, RefusedError

_BRANDS = (b"avif", b"avis")
_MAX_BRANDS_BYTES, _MAX_META_BYTES, _MAX_TILES = 1 << 10, 1 << 22, 1 << 10
_MAX_SIDE = 1 << 16
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")
# How many bytes of each property are kept: `av1C` may go on with units of AV1, and `pixi` is longest with four samples.
_KEPT = {b"ispe": 12, b"pixi": 9, b"av1C": 4, b"colr": 11, b"auxC": 64}
# Turns are undone after decoding, and of several layers, which these choose from, none is decoded.
_READ = (b"irot", b"imir", b"clap", b"a1op", b"lsel")
# By the turn in quarters against the clock and the axis of the mirror, or None: the orientation of the EXIF standard.
_ORIENTATIONS: dict[tuple[int, int | None], int] = {
    **{(0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6},
    **{(0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7},
    **{(0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5},
}


@dataclasses.dataclass
class _Part:
    """An item that is kept; `refers` are kinds of references and the items that they lead to."""

    number: int
    item: boxes.Item
    data: bytes
    refers: list[tuple[bytes, list[int]]]


class _File:
    """The items of a file, and of those that are kept, the largest frame."""

    def __init__(self, data: bytes, meta: dict[bytes, bytes]) -> None:
        self._data, self._inner = data, meta.get(b"idat", b"")
        self.items = boxes.items(meta)
        self.parts: list[_Part] = []
        self.coded = (0, 0)
        self._left = len(data)

    def keep(self, number: int) -> list[int]:
        """Keeps an item and its tiles; returns their numbers."""
        item = self.items.get(number)
        if item is None or item.kind not in (b"av01", b"grid"):
            kind = item.kind.decode("latin-1").strip() if item else "missing"
            raise RefusedError(f"is an AVIF whose picture is of the kind {kind!r}, which is not supported")
        if item.kind == b"av01":
            self._count(self._frame(number, item), 1, 1)
            return [number]
        tiles, data = item.refers.get(b"dimg", []), self._bytes(item)[:12]
        rows, columns = (data[2] + 1, data[3] + 1) if len(data) >= 8 else (0, 0)
        if not 0 < rows * columns == len(tiles) == len(set(tiles)) <= _MAX_TILES:
            raise RefusedError(f"is an AVIF with a grid of {len(tiles):,} tiles, more or fewer than it can have")
        self.parts.append(_Part(number, item, data, [(b"dimg", tiles)]))
        found = {tile: self.items[tile] for tile in tiles if tile in self.items}
        if len(found) < len(tiles) or any(tile.kind != b"av01" for tile in found.values()):
            raise RefusedError("is an AVIF with a grid of something else than AV1 pictures")
        sides = [self._frame(*tile) for tile in found.items()]
        self._count((max(side[0] for side in sides), max(side[1] for side in sides)), columns, rows)
        return [number, *tiles]

    def _count(self, size: tuple[int, int], columns: int, rows: int) -> None:
        self.coded = max(self.coded[0], columns * size[0]), max(self.coded[1], rows * size[1])

    def _frame(self, number: int, item: boxes.Item) -> tuple[int, int]:
        """Keeps an item of one frame; returns the largest sides of it, as coded or as stated."""
        data, width, height = av1.still(self._bytes(item))
        self.parts.append(_Part(number, item, data, []))
        stated = _property(item, b"ispe")
        if len(stated) < 12:
            raise RefusedError("is an AVIF that does not state the size of a picture")
        stated_width, stated_height = struct.unpack_from(">II", stated, 4)
        if not 0 < stated_width < _MAX_SIDE or not 0 < stated_height < _MAX_SIDE:
            raise RefusedError(f"is an AVIF of {stated_width} x {stated_height} pixels")
        return max(width, stated_width), max(height, stated_height)

    def _bytes(self, item: boxes.Item) -> bytes:
        source = self._inner if item.in_data else self._data
        if not item.extents or any(not size or start + size > len(source) for start, size in item.extents):
            raise RefusedError("is an AVIF with a picture outside the file")
        self._left -= sum(size for _, size in item.extents)
        if self._left < 0:
            raise RefusedError("is an AVIF whose pictures overlap")
        return b"".join(source[start : start + size] for start, size in item.extents)


def has_brand(data: bytes) -> bool:
    """Tells whether a file says that it is an AVIF."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4]), _MAX_BRANDS_BYTES)
    return any(data[place : place + 4] in _BRANDS for place in (8, *range(16, end, 4)))


def bare(data: bytes) -> Bare:
    """Returns the still picture of an AVIF.

    Raises:
        RefusedError: if the structure is damaged, of a kind that is not decoded, or Pillow was built without AVIF.
    """
    if not features.check("avif"):
        raise RefusedError("is an AVIF, which the installed Pillow cannot decode; install one with AVIF")
    meta = next((body for kind, body in boxes.children(data) if kind == b"meta"), b"")
    if len(meta) > _MAX_META_BYTES:
        raise RefusedError(f"is an AVIF with {len(meta):,} bytes about its picture, the limit is {_MAX_META_BYTES:,}")
    inside = dict(reversed(list(boxes.children(meta, 4))))
    pitm = inside.get(b"pitm", b"")
    if not pitm:
        raise RefusedError("is an AVIF without a still picture; sequences alone are not supported")
    primary = int.from_bytes(pitm[4:6] if pitm[0] == 0 else pitm[4:8])
    file = _File(data, inside)
    shown = file.keep(primary)
    for number in shown:
        _keep_alpha(file, number)
    item = file.items[primary]
    box = _box(item)
    return Bare(
        _written(file.parts),
        "AVIF",
        _ORIENTATIONS[_turn(item)],
        canvas=box and box[2:],
        left=-box[0] if box else 0,
        top=-box[1] if box else 0,
        coded=file.coded,
    )


def _property(item: boxes.Item, kind: bytes) -> bytes:
    """Returns the content of an item's first property of a kind; of colours, of the first that states no profile."""
    found = (body for name, body, _ in item.properties if name == kind and (kind != b"colr" or body[:4] == b"nclx"))
    return next(found, b"")


def _keep_alpha(file: _File, number: int) -> None:
    """Keeps the first item that is the alpha of another."""
    for other, item in file.items.items():
        if number in item.refers.get(b"auxl", []) and _property(item, b"auxC")[4:].startswith(_ALPHA):
            if all(part.number != other for part in file.parts):
                file.keep(other)
            alpha = next(part for part in file.parts if part.number == other)
            alpha.refers.append((b"auxl", [number]))
            if other in file.items[number].refers.get(b"prem", []):
                next(part for part in file.parts if part.number == number).refers.append((b"prem", [other]))
            return


def _turn(item: boxes.Item) -> tuple[int, int | None]:
    turn, mirror = _property(item, b"irot"), _property(item, b"imir")
    return turn[0] & 3 if turn else 0, mirror[0] & 1 if mirror else None


def _box(item: boxes.Item) -> tuple[int, int, int, int] | None:
    """Returns left, top, width and height of the part that is shown, before it is turned; None for all.

    One that is not of whole pixels within the picture is passed over.
    """
    body, size = _property(item, b"clap"), _property(item, b"ispe")
    if len(body) < 32 or len(size) < 12:
        return None
    numbers = struct.unpack_from(">8i", body)
    if any(below <= 0 for below in numbers[1::2]):
        return None
    found = []
    for place, side in enumerate(struct.unpack_from(">II", size, 4)):
        part, part_below, shift, shift_below = numbers[2 * place], numbers[2 * place + 1], *numbers[4 + 2 * place :][:2]
        # The shift is between the centres, so the first pixel is at (side - part) / 2 + shift.
        first, below = (side - part // part_below) * shift_below + 2 * shift, 2 * shift_below
        if part % part_below or first % below or not 0 <= first // below < first // below + part // part_below <= side:
            return None
        found.append((first // below, part // part_below))
    return found[0][0], found[1][0], found[0][1], found[1][1]


def _written(parts: list[_Part]) -> bytes:
    """Returns a file of these items alone, the first of which is the picture."""
    brands = boxes.box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    data = [part.data for part in parts]
    start = len(brands) + len(_meta(parts, 0)) + 8
    return b"".join([brands, _meta(parts, start), struct.pack(">I", 8 + sum(map(len, data))), b"mdat", *data])


def _meta(parts: list[_Part], start: int) -> bytes:
    numbers = {part.number: place for place, part in enumerate(parts, 1)}
    known: list[bytes] = []
    places, kinds, uses, references = b"", b"", b"", b""
    for place, part in enumerate(parts, 1):
        places += struct.pack(">HHHII", place, 0, 1, start, len(part.data))
        start += len(part.data)
        kinds += boxes.box(b"infe", b"\2\0\0\0", struct.pack(">HH", place, 0), part.item.kind, b"\0")
        indices = [_index(known, content) for content in _kept(part.item)]
        uses += struct.pack(">HB", place, len(indices)) + b"".join(struct.pack(">H", index) for index in indices)
        for kind, others in part.refers:
            targets = b"".join(struct.pack(">H", numbers[other]) for other in others)
            references += boxes.box(kind, struct.pack(">HH", place, len(others)), targets)
    uses = struct.pack(">I", len(parts)) + uses
    return boxes.full_box(
        b"meta",
        boxes.full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
        boxes.full_box(b"pitm", b"\0\1"),
        boxes.full_box(b"iloc", b"\x44\0", struct.pack(">H", len(parts)), places),
        boxes.full_box(b"iinf", struct.pack(">H", len(parts)), kinds),
        boxes.full_box(b"iref", references) if references else b"",
        boxes.box(b"iprp", boxes.box(b"ipco", *known), boxes.box(b"ipma", b"\0\0\0\1", uses)),
    )


def _index(known: list[bytes], content: bytes) -> int:
    """Returns the number of a property, to which it is added; with the mark of those that readers must know."""
    if content not in known:
        known.append(content)
    return known.index(content) + 1 | (0x8000 if content[4:8] == b"av1C" else 0)


def _kept(item: boxes.Item) -> list[bytes]:
    """Returns the properties of an item that pixels need, as boxes."""
    for kind, _, is_essential in item.properties:
        if is_essential and kind not in _KEPT and kind not in _READ:
            name = kind.decode("latin-1")
            raise RefusedError(f"is an AVIF with the property {name!r}, which is needed and not supported")
    bodies = {kind: _property(item, kind)[:most] for kind, most in _KEPT.items()}
    return [boxes.box(kind, body) for kind, body in bodies.items() if body]
