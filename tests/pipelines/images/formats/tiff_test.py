"""TIFFs of each kind against pixels that follow from the format, and against libvips; and TIFFs made to harm."""

import itertools
import random
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from pipelines.images.decode import DecodeError, decode
from tests.pipelines.images.formats.measured import changed, measure, no_more_memory, outcome
from tests.pipelines.images.formats.scenes import alike, decoded, on_white, saved, scene, vips
from tests.pipelines.images.formats.tiff_files import packed, tiff

_LIMIT = 100_000_000
_HEIGHT, _WIDTH = scene().shape[:2]
_PALETTE = np.random.default_rng(0).integers(0, 256, (256, 3))


def _kinds() -> dict[str, tuple[int, int, int, list[int]]]:
    """Photometric interpretation, bits, samples and extra samples."""
    kinds = {}
    for bits in (1, 2, 4, 8, 16):
        kinds[f"white is 0, {bits}"] = 0, bits, 1, []
        kinds[f"black is 0, {bits}"] = 1, bits, 1, []
        if bits < 16:
            kinds[f"palette {bits}"] = 3, bits, 1, []
    for bits in (8, 16):
        kinds[f"rgb {bits}"] = 2, bits, 3, []
        kinds[f"rgba {bits}, unsaid"] = 2, bits, 4, []
        kinds[f"cmyk {bits}"] = 5, bits, 4, []
        for extra in (0, 1, 2):
            kinds[f"rgb {bits} and {extra}"] = 2, bits, 4, [extra]
    kinds["grey and alpha"] = 1, 8, 2, [2]
    kinds["grey times alpha"] = 1, 8, 2, [1]
    return kinds


_KINDS = _kinds()
_LAYOUTS = ("one strip", "strips", "tiles", "planes", "planes of tiles", "low bit first", "planes of strips")


def _samples(name: str) -> np.ndarray:
    color, bits, samples, extras = _KINDS[name]
    found = scene(samples, 1 << bits)
    if 1 in extras:
        found[..., :-1] = found[..., :-1] * found[..., -1:] // ((1 << bits) - 1)
    return found


def _parts(samples: np.ndarray, bits: int, order: str, layout: str) -> tuple[list[bytes], dict]:
    planes = [samples[..., i : i + 1] for i in range(samples.shape[-1])] if "planes" in layout else [samples]
    if "tiles" in layout:
        padded = [np.pad(plane, ((0, -_HEIGHT % 16), (0, -_WIDTH % 16), (0, 0)), mode="edge") for plane in planes]
        places = itertools.product(padded, range(0, _HEIGHT, 16), range(0, _WIDTH, 16))
        parts = [packed(plane[y : y + 16, x : x + 16], bits, order) for plane, y, x in places]
        return parts, {322: (3, [16]), 323: (3, [16])}
    rows = 5 if "strips" in layout else _HEIGHT
    parts = [packed(plane[y : y + rows], bits, order) for plane in planes for y in range(0, _HEIGHT, rows)]
    return parts, {278: (3, [rows])}


def _file(name: str, order: str = "<", layout: str = "strips", compression: int = 1, **more) -> bytes:
    color, bits, samples, extras = _KINDS[name]
    parts, tags = _parts(_samples(name), bits, order, layout)
    if compression == 8:
        parts = [zlib.compress(part) for part in parts]
    if layout == "low bit first":
        parts = [bytes(int(f"{byte:08b}"[::-1], 2) for byte in part) for part in parts]
        tags[266] = 3, [2]
    tags |= {256: (3, [_WIDTH]), 257: (4, [_HEIGHT]), 258: (3, [bits] * samples), 259: (3, [compression])}
    tags |= {262: (3, [color]), 277: (3, [samples]), 284: (3, [2 if "planes" in layout else 1])}
    if extras:
        tags[338] = 3, extras
    if color == 3:
        tags[320] = 3, (_PALETTE[: 1 << bits].T.reshape(-1) * 257).tolist()
    tags |= {int(tag): value for tag, value in more.items()}
    return tiff(order, tags, parts, 324 if "tiles" in layout else 273)


def _right(name: str) -> np.ndarray:
    color, bits, _, extras = _KINDS[name]
    samples = _samples(name)
    eight = samples >> 8 if bits == 16 else samples * 255 // ((1 << bits) - 1)
    if color == 3:
        return _PALETTE[samples[..., 0]]
    if color == 5:
        return (255 - eight[..., :3]) * (255 - eight[..., 3:]) / 255
    count = 3 if color == 2 else 1
    colors, alpha = eight[..., :count] + np.zeros(3, int), eight[..., -1]
    if color == 0:
        return 255 - colors
    if eight.shape[-1] == count or extras == [0]:
        return colors
    return np.minimum(colors + 255 - alpha[..., None], 255) if extras == [1] else on_white(colors, alpha)


@pytest.mark.parametrize("name", _KINDS)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("layout", _LAYOUTS)
def test_every_kind_and_layout(name, order, layout):
    if "planes" in layout and name.startswith("grey "):
        with pytest.raises(DecodeError, match="separate planes with photometric interpretation 1"):
            decode(_file(name, order, layout), _LIMIT)
        return
    for compression in (1, 8):
        data = _file(name, order, layout, compression)
        assert alike(decoded(data), _right(name)), compression
    # libvips mixes inks by a profile, shows what is unspecified as alpha, and reads few kinds of other depths and of
    # planes.
    color, bits, _, extras = _KINDS[name]
    planes = layout == "planes of tiles" or ("planes" in layout and bits == 1)
    if color != 5 and bits in (1, 8) and extras in ([], [2]) and "unsaid" not in name and not planes:
        assert alike(vips(data), _right(name))


_MODES = {
    "RGB": ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg"),
    "RGBA": ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"),
    "L": ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"),
    "LA": ("raw", "tiff_lzw"),
    "P": ("raw", "tiff_lzw"),
    "YCbCr": ("jpeg",),
    "1": ("raw", "tiff_ccitt", "group3", "group4", "packbits"),
}


@pytest.mark.parametrize(("mode", "compression"), [(mode, one) for mode, all in _MODES.items() for one in all])
def test_what_pillow_writes_is_what_libvips_reads(mode, compression):
    image = Image.fromarray(scene(4).astype(np.uint8)).convert(mode)
    data = saved(image, "TIFF", compression=compression)
    assert alike(decoded(data), vips(data), 1)


@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", "<>")
def test_differences_between_neighbours_are_summed(differences, bits, order):
    samples = scene(3, 1 << bits)
    stored = np.diff(samples, axis=1, prepend=0) % (1 << bits) if differences else samples
    tags = {256: (3, [_WIDTH]), 257: (3, [_HEIGHT]), 258: (3, [bits] * 3), 259: (3, [8]), 262: (3, [2])}
    tags |= {277: (3, [3]), 317: (3, [2 if differences else 1])}
    found = decoded(tiff(order, tags, [zlib.compress(packed(stored, bits, order))]))
    np.testing.assert_array_equal(found, samples >> bits - 8)


@pytest.mark.parametrize("sides", [(1, 1), (2, 2), (2, 1), (4, 4)])
def test_subsampled_colours_without_jpeg(sides):
    """Blocks of brightness with one pair of colours for each, by the formula of BT.601."""
    wide, high = sides
    width, height = 16, 12
    across, down = width // wide, height // high
    random_numbers = np.random.default_rng(1)
    light = random_numbers.integers(60, 190, (height, width))
    blue, red = random_numbers.integers(100, 150, (2, down, across))
    blocks = light.reshape(down, high, across, wide).swapaxes(1, 2).reshape(down, across, -1)
    body = np.concatenate([blocks, blue[..., None], red[..., None]], -1).astype(np.uint8).tobytes()
    tags = {256: (3, [width]), 257: (3, [height]), 258: (3, [8] * 3), 262: (3, [6]), 277: (3, [3])}
    data = tiff("<", tags | {530: (3, [wide, high])}, [body])
    cb, cr = (plane.repeat(high, 0).repeat(wide, 1) - 128 for plane in (blue, red))
    right = np.stack([light + 1.402 * cr, light - 0.344136 * cb - 0.714136 * cr, light + 1.772 * cb], -1)
    assert alike(decoded(data), right, 2)


def test_of_several_pages_the_first_is_shown():
    pages = [Image.new("RGB", (8, 6), color) for color in ("red", "blue", "green")]
    data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    np.testing.assert_array_equal(decoded(data), np.broadcast_to([255, 0, 0], (6, 8, 3)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", "<>")
def test_orientation(orientation, order):
    data = _file("rgb 8", order, **{"274": (3, [orientation])})
    found = decode(data, _LIMIT)
    assert found.image.size == (found.width, found.height)
    assert alike(np.asarray(found.image), vips(data))


_FULL = {256: (3, [8]), 257: (3, [8]), 258: (3, [8]), 262: (3, [1])}
_PIXELS = bytes(64)


def _changed(**tags: tuple[int, list[int]]) -> bytes:
    return tiff("<", _FULL | {int(tag): value for tag, value in tags.items()}, [_PIXELS])


_REFUSED = {
    "is a BigTIFF": b"II+\0" + bytes(60),
    "tag 256, which is needed": tiff("<", {257: (3, [8])}),
    "tag 262, which is needed": tiff("<", {256: (3, [8]), 257: (3, [8])}, [_PIXELS]),
    "without pixels": _changed(**{"256": (3, [0])}),
    "signed, floating or complex": _changed(**{"339": (3, [3])}),
    "photometric interpretation 8": _changed(**{"262": (3, [8])}),
    "of 32 bits": _changed(**{"258": (3, [32])}),
    "of 12 bits": _changed(**{"258": (3, [12])}),
    "of 8/16/8 bits": _changed(**{"258": (3, [8, 16, 8]), "277": (3, [3]), "262": (3, [2])}),
    "2 samples, of which 1 are extra": _changed(**{"277": (3, [2]), "338": (3, [0])}),
    "70 samples": _changed(**{"277": (4, [70])}),
    "compression 6,": _changed(**{"259": (3, [6])}),
    "compression 50000,": _changed(**{"259": (3, [50000])}),
    "compression 4 of 8 bits": _changed(**{"259": (3, [4])}),
    "predictor for floating numbers": _changed(**{"317": (3, [3])}),
    "without a whole palette": _changed(**{"262": (3, [3])}),
    "a subsampling of YCbCr": _changed(**{"262": (3, [6]), "277": (3, [3]), "530": (3, [0, 0])}),
    "divides by 0": _changed(**{"262": (3, [6]), "277": (3, [3]), "529": (5, [1, 0] * 3)}),
    "separate planes with photometric interpretation 6": _changed(
        **{"262": (3, [6]), "277": (3, [3]), "284": (3, [2])}
    ),
    "has 1,000 values": _changed(**{"256": (3, [8] * 1000)}),
    "65,537 values": _changed(**{"273": (4, [8] * 65_537)}),
    "type 5, which it cannot be": _changed(**{"256": (5, [8, 1])}),
    "65,537 strips": _changed(**{"257": (4, [65_537]), "278": (3, [1])}),
    "fewer strips": _changed(**{"278": (3, [4])}),
    "fewer tiles": _changed(**{"322": (3, [4]), "323": (3, [4])}),
    "ends within a strip": _changed(**{"273": (4, [4000])}),
    r"ends within a strip\Z": tiff("<", _FULL | {256: (4, [1 << 31]), 257: (4, [1 << 31])}, [_PIXELS]),
    "strips overlap": _changed(**{"278": (3, [1]), "256": (3, [60]), "273": (4, [8] * 8)}),
    "outside the file": b"II*\0" + struct.pack("<I", 1 << 31),
    "ends within its directory": b"II*\0" + struct.pack("<IH", 8, 65_535) + bytes(99),
    "tag 273 is outside the file": b"II*\0" + struct.pack("<IHHHIII", 8, 1, 273, 4, 9, 1 << 30, 0),
}


@pytest.mark.parametrize("words", _REFUSED)
def test_what_is_not_decoded_is_named(words):
    with pytest.raises(DecodeError, match=words) as error:
        decode(_REFUSED[words], _LIMIT)
    assert error.value.reason == "CannotDecode"


def test_sides_of_strips_that_are_stated_wrongly_do_not_matter_without_compression():
    np.testing.assert_array_equal(decoded(_changed(**{"279": (4, [1]), "278": (4, [0xFFFFFFFF])})), 0)


def _tile_bomb(side: int) -> bytes:
    tags = _FULL | {259: (3, [8]), 322: (4, [side]), 323: (4, [side])}
    return tiff("<", tags, [zlib.compress(bytes(64))], 324)


def _strip_bomb(width: int, height: int, compression: int = 8) -> bytes:
    tags = _FULL | {256: (4, [width]), 257: (4, [height]), 259: (3, [compression])}
    return tiff("<", tags, [zlib.compress(bytes(64))])


def _blank_fax(side: int) -> bytes:
    return saved(Image.new("1", (side, side), 255), "TIFF", compression="group4")


def _many_tags() -> bytes:
    """A right picture beside 40,000 tags that each claim the same half megabyte."""
    data = tiff("<", _FULL, [_PIXELS])
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    more = b"".join(struct.pack("<HHII", 1000 + tag, 7, 480_000, 8) for tag in range(40_000))
    return data[:start] + struct.pack("<H", count + 40_000) + data[start + 2 : -4] + more + bytes(4)


def _scans(count: int) -> bytes:
    """A progressive JPEG with many scans as the strip of a TIFF."""
    jpeg = saved(Image.new("L", (2048, 2048)), "JPEG", progressive=True)
    part = jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * count + jpeg[-2:]
    return tiff("<", _FULL | {256: (3, [2048]), 257: (3, [2048]), 259: (3, [7])}, [part])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: _tile_bomb(1 << 20), "TooManyPixels"),
        (lambda: _tile_bomb(1 << 13), "TooManyPixels"),
        (lambda: _tile_bomb(1 << 11), "CannotDecode"),
        (lambda: _strip_bomb(1 << 31, 1 << 31), "TooManyPixels"),
        (lambda: _strip_bomb(9_000, 9_000), "TooManyPixels"),
        (lambda: _strip_bomb(2_800, 2_800), "CannotDecode"),
        (lambda: _strip_bomb(2_800, 2_800, 5), "CannotDecode"),
        (lambda: _strip_bomb(2_800, 2_800, 7), "CannotDecode"),
        (lambda: _blank_fax(9_000), "TooManyPixels"),
        (lambda: _blank_fax(2_800), "2800 x 2800"),
        (_many_tags, "8 x 8"),
        (lambda: _scans(1_000), "TooManyScans"),
    ],
)
def test_hostile_ones_take_little_memory_and_time(make, expected):
    data = make()
    peak, secs, found = measure(data)
    assert found == expected and peak < 150 << 20 and secs < 2


def _seeds() -> list[bytes]:
    image = Image.fromarray(scene().astype(np.uint8))
    found = [
        _file(name, order, layout, 8) for name, order, layout in (("rgb 8", "<", "tiles"), ("palette 4", ">", "strips"))
    ]
    found += [_file("black is 0, 16", ">", "strips"), _file("rgb 8 and 1", "<", "planes of tiles")]
    found += [saved(image, "TIFF", compression=one) for one in ("tiff_lzw", "packbits", "jpeg", "raw")]
    return found + [saved(image.convert("1"), "TIFF", compression=one) for one in ("group3", "group4", "tiff_ccitt")]


@pytest.mark.parametrize("seed", range(len(_seeds())))
def test_cut_anywhere_it_is_a_picture_or_refused(seed):
    data = _seeds()[seed]
    for size in range(0, len(data), 1 if len(data) < 2500 else 7):
        outcome(data[:size])


@pytest.mark.parametrize("seed", range(len(_seeds())))
def test_changed_anywhere_it_is_a_picture_or_refused(seed):
    data, chance = _seeds()[seed], random.Random(seed)
    with no_more_memory(64 << 20):
        for _ in range(400):
            outcome(changed(data, chance, chance.choice([0, max(0, len(data) - 250)]), len(data)))
