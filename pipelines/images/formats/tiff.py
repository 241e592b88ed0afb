"""The first picture of a TIFF as a file of its own, with the tags that pixels need and no others.

The structure of a TIFF is itself an attack: tags, strips and tiles may overlap and claim any size. So all of it is read
here, bounded by the file, and written anew.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from pipelines.images.formats import orientation
from pipelines.images.formats import tiff_directory as tag
from pipelines.images.formats.bare import Bare, RefusedError

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_BIG = (b"II+\0", b"MM\0+")
SIGNATURES = (*_ORDERS, *_BIG)

_PLAIN, _LZW, _JPEG, _DEFLATES, _PACK_BITS, _FAXES = 1, 5, 7, (8, 32946), 32773, (2, 3, 4)
_COMPRESSIONS = (_PLAIN, _LZW, _JPEG, *_DEFLATES, _PACK_BITS, *_FAXES)
_WHITE_IS_0, _BLACK_IS_0, _RGB, _PALETTE, _CMYK, _YCC = 0, 1, 2, 3, 5, 6
# By the meaning of the colours: how many there are, and the bits that each may have.
_COLORS = {
    _WHITE_IS_0: (1, (1, 2, 4, 8, 16)),
    _BLACK_IS_0: (1, (1, 2, 4, 8, 16)),
    _RGB: (3, (8, 16)),
    _PALETTE: (1, (1, 2, 4, 8)),
    _CMYK: (4, (8, 16)),
    _YCC: (3, (8,)),
}
# Meanings of a sample beyond the colours.
_UNSPECIFIED, _PREMULTIPLIED, _ALPHA = 0, 1, 2
# By colours and bits: the extra samples that Pillow knows, each the last of more that are unspecified.
_EXTRAS = {
    (_BLACK_IS_0, 8): ((_ALPHA,),),
    (_RGB, 8): tuple((first, *(_UNSPECIFIED,) * more) for first in (_UNSPECIFIED, _ALPHA) for more in range(3)),
    (_RGB, 16): ((_UNSPECIFIED,), (_ALPHA,)),
    (_PALETTE, 8): ((_UNSPECIFIED,), (_ALPHA,)),
    (_CMYK, 8): ((_UNSPECIFIED,), (_UNSPECIFIED, _UNSPECIFIED)),
}
_UNSIGNED, _VOID = 1, 4
_APART, _LOW_BIT_FIRST = 2, 2
_NO_PREDICTOR, _DIFFERENCES = 1, 2
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_SCAN = b"\xff\xda"


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How the pixels are stored.

    Attributes:
        width: of the picture, in pixels.
        height: likewise.
        compression: number of the standard.
        color: what the colours mean, a number of the standard.
        bits: of a sample.
        samples: of a pixel.
        extras: what the samples beyond the colours mean.
        apart: whether each sample has strips of its own.
        across: strips or tiles side by side.
        down: likewise, one below the other.
        part: width and height of a strip or tile.
        tiled: whether the picture is stored in tiles, which may be larger than it.
    """

    width: int
    height: int
    compression: int
    color: int
    bits: int
    samples: int
    extras: tuple[int, ...]
    apart: bool
    across: int
    down: int
    part: tuple[int, int]
    tiled: bool


def bare(data: bytes) -> Bare:
    """Returns the first picture of a TIFF.

    Raises:
        RefusedError: if the structure is damaged, or the pixels are of a kind that is not decoded.
        struct.error: if the header is cut.
    """
    if data.startswith(_BIG):
        raise RefusedError("is a BigTIFF, which is not supported; write it as a classic TIFF")
    order = _ORDERS[data[:4]]
    tags = tag.read(data, order)
    layout = _layout(tags)
    parts = _parts(data, tags, layout)
    if layout.compression != _JPEG and _one(tags, tag.FILL_ORDER, 1) == _LOW_BIT_FIRST:
        parts = [part.translate(_REVERSED) for part in parts]
    offsets, sizes = (tag.TILE_OFFSETS, tag.TILE_SIZES) if layout.tiled else (tag.STRIP_OFFSETS, tag.STRIP_SIZES)
    return Bare(
        tag.write(order, parts, _kept(tags, layout), offsets, sizes),
        "TIFF",
        orientation.find([data]),
        scans=max(1, *(part.count(_SCAN) for part in parts)) if layout.compression == _JPEG else 1,
        coded=(layout.across * layout.part[0], layout.down * layout.part[1]) if layout.tiled else None,
        inverted=layout.color == _WHITE_IS_0 and layout.bits == 16,
        premultiplied=layout.extras[:1] == (_PREMULTIPLIED,),
    )


def _one(tags: dict[int, np.ndarray], number: int, default: int | None = None) -> int:
    if number in tags:
        return int(tags[number][0])
    if default is None:
        raise RefusedError(f"is a TIFF without tag {number}, which is needed")
    return default


def _layout(tags: dict[int, np.ndarray]) -> _Layout:
    width, height = _one(tags, tag.WIDTH), _one(tags, tag.HEIGHT)
    color, samples = _one(tags, tag.PHOTOMETRIC), _one(tags, tag.SAMPLES, 1)
    tiled = tag.TILE_WIDTH in tags
    if tiled:
        part = _one(tags, tag.TILE_WIDTH), _one(tags, tag.TILE_HEIGHT)
    else:
        part = width, min(_one(tags, tag.ROWS_PER_STRIP, height), height)
    if not all((width, height, *part)):
        raise RefusedError("is a TIFF without pixels")
    extras = tuple(int(extra) for extra in tags.get(tag.EXTRA_SAMPLES, ()))
    if not extras and (color, samples) == (_RGB, 4):
        # Where nothing is said about the fourth sample it is alpha.
        extras = (_ALPHA,)
    layout = _Layout(
        width=width,
        height=height,
        compression=_one(tags, tag.COMPRESSION, _PLAIN),
        color=color,
        bits=_one(tags, tag.BITS, 1),
        samples=samples,
        extras=extras,
        apart=samples > 1 and _one(tags, tag.PLANES, 1) == _APART,
        across=-(-width // part[0]),
        down=-(-height // part[1]),
        part=part,
        tiled=tiled,
    )
    _check_samples(tags, layout)
    _check_compression(tags, layout)
    return layout


def _check_samples(tags: dict[int, np.ndarray], layout: _Layout) -> None:
    """Raises a `RefusedError` if the samples are none that are decoded to the right colours."""
    formats = set(tags.get(tag.SAMPLE_FORMAT, np.array([_UNSIGNED])).tolist())
    if not formats <= {_UNSIGNED, _VOID}:
        raise RefusedError("is a TIFF of signed, floating or complex numbers; only unsigned ones are supported")
    if layout.color not in _COLORS:
        raise RefusedError(f"is a TIFF with photometric interpretation {layout.color}, which is not supported")
    count, depths = _COLORS[layout.color]
    stated = tags.get(tag.BITS, np.array([1])).tolist()
    if len(set(stated)) != 1 or layout.bits not in depths or len(stated) not in (1, layout.samples):
        bits = "/".join(map(str, stated))
        raise RefusedError(f"is a TIFF of {bits} bits with photometric interpretation {layout.color}: not supported")
    extras = tuple(_ALPHA if extra == _PREMULTIPLIED else extra for extra in layout.extras)
    known = not extras or extras in _EXTRAS.get((layout.color, layout.bits), ())
    if not known or layout.samples != count + len(extras):
        said = f"{layout.samples} samples, of which {len(extras)} are extra ({', '.join(map(str, extras)) or 'none'})"
        raise RefusedError(f"is a TIFF with {said}; with photometric interpretation {layout.color} not supported")


def _check_compression(tags: dict[int, np.ndarray], layout: _Layout) -> None:
    """Raises a `RefusedError` if libtiff would not read the strips or tiles as they are meant."""
    if layout.compression not in _COMPRESSIONS:
        raise RefusedError(f"is a TIFF with compression {layout.compression}, which is not supported")
    one_bit = layout.bits == 1 and layout.color in (_WHITE_IS_0, _BLACK_IS_0)
    eight_bits = layout.bits == 8 and layout.color != _PALETTE
    if (layout.compression in _FAXES and not one_bit) or (layout.compression == _JPEG and not eight_bits):
        raise RefusedError(f"is a TIFF with compression {layout.compression} of {layout.bits} bits: not supported")
    if _one(tags, tag.PREDICTOR, _NO_PREDICTOR) not in (_NO_PREDICTOR, _DIFFERENCES):
        raise RefusedError("is a TIFF with a predictor for floating numbers, which is not supported")
    if layout.apart and layout.color not in (_RGB, _CMYK):
        # Pillow puts the planes into red, green, blue and alpha, whatever they mean.
        raise RefusedError(
            f"is a TIFF of separate planes with photometric interpretation {layout.color}: not supported"
        )
    if layout.color == _PALETTE and len(tags.get(tag.COLORS, ())) != 3 << layout.bits:
        raise RefusedError("is a TIFF without a whole palette")
    if layout.color == _YCC and any(side not in (1, 2, 4) for side in tags.get(tag.YCC_SUBSAMPLING, (2, 2))):
        raise RefusedError("is a TIFF with a subsampling of YCbCr that there is none of")
    for fractions in (tag.YCC_COEFFICIENTS, tag.BLACK_AND_WHITE):
        if fractions in tags and not tags[fractions][1::2].all():
            raise RefusedError("is a TIFF that divides by 0")


def _parts(data: bytes, tags: dict[int, np.ndarray], layout: _Layout) -> Sequence[bytes]:
    """Returns the strips or tiles, whole and not more than the file has.

    Raises:
        RefusedError: if one is missing or outside the file, or they overlap.
    """
    count = layout.across * layout.down * (layout.samples if layout.apart else 1)
    kind = "tile" if layout.tiled else "strip"
    if count > tag.MAX_PARTS:
        raise RefusedError(f"is a TIFF of {count:,} {kind}s, the limit is {tag.MAX_PARTS:,}")
    offsets = tags.get(tag.TILE_OFFSETS if layout.tiled else tag.STRIP_OFFSETS, np.zeros(0, np.int64))[:count]
    if layout.compression == _PLAIN:
        # What their sizes are said to be is often wrong.
        whole = _plain_bytes(tags, layout, layout.part[1])
        if whole > len(data):
            raise RefusedError(f"is a TIFF that ends within a {kind}")
        sizes = np.full(count, whole)
        if not layout.tiled:
            sizes[layout.down - 1 :: layout.down] = _plain_bytes(tags, layout, (layout.height - 1) % layout.part[1] + 1)
    else:
        sizes = tags.get(tag.TILE_SIZES if layout.tiled else tag.STRIP_SIZES, np.zeros(0, np.int64))[:count]
    if len(offsets) != count or len(sizes) != count or not sizes.all():
        raise RefusedError(f"is a TIFF that has fewer {kind}s than its size needs")
    if (offsets + sizes).max() > len(data):
        raise RefusedError(f"is a TIFF that ends within a {kind}")
    if sizes.sum() > len(data):
        raise RefusedError(f"is a TIFF whose {kind}s overlap")
    return [data[start : start + size] for start, size in zip(offsets.tolist(), sizes.tolist(), strict=True)]


def _plain_bytes(tags: dict[int, np.ndarray], layout: _Layout, rows: int) -> int:
    """Returns how large a strip or tile of so many rows is without compression."""
    width = layout.part[0]
    if layout.color == _YCC:
        wide, high = (int(side) for side in tags.get(tag.YCC_SUBSAMPLING, (2, 2)))
        return -(-width // wide) * -(-rows // high) * (wide * high + 2)
    return rows * -(-width * layout.bits * (1 if layout.apart else layout.samples) // 8)


def _kept(tags: dict[int, np.ndarray], layout: _Layout) -> dict[int, np.ndarray]:
    """Returns the tags of the new file, beside those of strips and tiles."""
    grey = layout.color == _WHITE_IS_0 and layout.bits == 16
    numbers = {
        tag.WIDTH: layout.width,
        tag.HEIGHT: layout.height,
        tag.COMPRESSION: layout.compression,
        # Pillow knows no white at 0 of 16 bits in each order of bytes; `colors` inverts.
        tag.PHOTOMETRIC: _BLACK_IS_0 if grey else layout.color,
        tag.SAMPLES: layout.samples,
        tag.PLANES: _APART if layout.apart else 1,
    }
    if layout.tiled:
        numbers |= {tag.TILE_WIDTH: layout.part[0], tag.TILE_HEIGHT: layout.part[1]}
    else:
        numbers[tag.ROWS_PER_STRIP] = layout.part[1]
    kept = {number: np.array([value]) for number, value in numbers.items()}
    kept[tag.BITS] = np.full(layout.samples, layout.bits)
    if layout.extras:
        # Pillow would leave colours in planes of their own multiplied; `colors` puts all on white.
        kept[tag.EXTRA_SAMPLES] = np.where(np.array(layout.extras) == _PREMULTIPLIED, _ALPHA, layout.extras)
    wanted = {
        tag.COLORS: layout.color == _PALETTE,
        tag.PREDICTOR: layout.compression in (_LZW, *_DEFLATES),
        tag.T4_OPTIONS: layout.compression == 3,
        tag.T6_OPTIONS: layout.compression == 4,
        tag.JPEG_TABLES: layout.compression == _JPEG,
        **dict.fromkeys((tag.YCC_COEFFICIENTS, tag.YCC_SUBSAMPLING), layout.color == _YCC),
        **dict.fromkeys((tag.YCC_POSITION, tag.BLACK_AND_WHITE), layout.color == _YCC),
    }
    return kept | {number: tags[number] for number, is_wanted in wanted.items() if is_wanted and number in tags}
