"""AVIFs against what Pillow shows of the whole file, as libvips has none here, and against what they were made of."""

import functools
import io
import itertools
import random
import struct
import sys

import numpy as np
import pytest
from PIL import AvifImagePlugin, Image, ImageOps, features

from pipelines.images.decode import DecodeError, decode
from pipelines.images.formats import avif
from tests.pipelines.images.formats.measured import changed, measure, no_more_memory, outcome
from tests.pipelines.images.formats.scenes import alike, decoded, on_white, saved, scene

if not features.check("avif"):
    pytest.skip("Pillow was built without AVIF", allow_module_level=True)

_LIMIT = 100_000_000
_EXACT = {"quality": 100, "subsampling": "4:4:4", "speed": 8}


def _image(channels: int = 3) -> Image.Image:
    return Image.fromarray(scene(channels).astype(np.uint8).squeeze())


def _pillow(data: bytes) -> np.ndarray:
    """The whole file, upright, on white, as Pillow shows it."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode == "RGBA":
        pixels = np.asarray(image).astype(float)
        return on_white(pixels[..., :3], pixels[..., 3])
    return np.asarray(image.convert("RGB")).astype(int)


_OPTIONS = {
    "defaults": {},
    "exact": _EXACT,
    "limited range": {"range": "limited"},
    "multiplied": {"alpha_premultiplied": True, "quality": 90},
    "tiles": {"tile_rows": 1, "tile_cols": 1, "quality": 90},
    **{sampling: {"subsampling": sampling, "quality": 90} for sampling in ("4:2:0", "4:2:2", "4:4:4", "4:0:0")},
}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", _OPTIONS)
def test_what_pillow_writes(channels, name):
    data = saved(_image(channels), "AVIF", **{"speed": 8, **_OPTIONS[name]})
    assert alike(decoded(data), _pillow(data), 1)
    if name == "exact":
        found = scene(channels)
        right = on_white(found[..., :3], found[..., 3]) if channels == 4 else found + np.zeros(3)
        assert alike(decoded(data), right, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(_image(), "AVIF", exif=exif, **_EXACT)
    picture = decode(data, _LIMIT)
    np.testing.assert_array_equal(np.asarray(picture.image), _pillow(data))
    assert picture.image.size == (picture.width, picture.height)
    assert b"irot" not in avif.bare(data).data and b"imir" not in avif.bare(data).data


def test_metadata_does_not_reach_pillow():
    exif = Image.Exif()
    exif[0x010E] = "a description"
    data = saved(_image(), "AVIF", exif=exif, xmp=b"<a packet>", icc_profile=b"a profile", **_EXACT)
    bare = avif.bare(data).data
    assert not any(word in bare for word in (b"a description", b"<a packet>", b"a profile", b"Exif", b"mime", b"prof"))
    np.testing.assert_array_equal(decoded(data), _pillow(data))


def test_of_a_sequence_the_still_picture_is_shown():
    images = [_image(4), *(Image.new("RGBA", _image().size, color) for color in ("red", "blue"))]
    data = saved(images[0], "AVIF", save_all=True, append_images=images[1:], **_EXACT)
    assert data[8:12] == b"avis"
    assert alike(decoded(data), _pillow(data), 1)


# Files of any layout, written box by box


def _box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I", 8 + sum(map(len, parts))) + kind + b"".join(parts)


def _av1(image: Image.Image, **options) -> bytes:
    """The frame of an image; without alpha nothing else is in the file's `mdat`."""
    data = saved(image, "AVIF", **{**_EXACT, **options})
    return data[data.index(b"mdat") + 4 :]


def _ispe(width: int, height: int) -> bytes:
    return _box(b"ispe", bytes(4), struct.pack(">II", width, height))


_AV1C = _box(b"av1C", b"\x81\x20\x00\x00")
_NCLX = _box(b"colr", b"nclx\0\1\0\x0d\0\6\x80")


def _file(
    items: list[tuple[bytes, bytes, list[bytes]]],
    references: list[tuple[bytes, int, list[int]]] = (),
    primary: int = 1,
    extents: dict[int, list[tuple[int, int]]] | None = None,
    inner: bool = False,
    brand: bytes = b"avif",
    protected: int = 0,
    before: bytes = b"",
    pieces: int = 1,
) -> bytes:
    """Items of kind, data and properties, numbered from 1; the places of some may be given instead."""
    properties = list(dict.fromkeys(one for _, _, own in items for one in own))

    def meta(start: int) -> bytes:
        places, kinds, uses = b"", b"", b""
        for number, (kind, data, own) in enumerate(items, 1):
            cuts = [len(data) * cut // pieces for cut in range(pieces + 1)]
            found = [(start + left, right - left) for left, right in itertools.pairwise(cuts)]
            found = (extents or {}).get(number, found)
            places += struct.pack(">HHHH", number, inner, 0, len(found))
            places += b"".join(struct.pack(">II", *extent) for extent in found)
            start += len(data)
            kinds += _box(b"infe", b"\2\0\0\0", struct.pack(">HH", number, protected), kind, b"\0")
            indices = [properties.index(one) + 1 | 0x80 * (one[4:8] in (b"av1C", b"clap", b"what")) for one in own]
            uses += struct.pack(">HB", number, len(own)) + bytes(indices)
        refers = [_box(kind, struct.pack(f">HH{len(to)}H", source, len(to), *to)) for kind, source, to in references]
        bodies = b"".join(data for _, data, _ in items)
        return _box(
            b"meta",
            bytes(4),
            _box(b"hdlr", bytes(8), b"pict", bytes(13)),
            _box(b"pitm", bytes(4), struct.pack(">H", primary)),
            _box(b"iloc", b"\1\0\0\0\x44\0", struct.pack(">H", len(items)), places),
            _box(b"iinf", bytes(4), struct.pack(">H", len(items)), kinds),
            _box(b"iref", bytes(4), *refers),
            _box(b"iprp", _box(b"ipco", *properties), _box(b"ipma", bytes(4), struct.pack(">I", len(items)), uses)),
            _box(b"idat", bodies) if inner else b"",
        )

    head = _box(b"ftyp", brand, bytes(4), b"avifmif1miaf") + before
    begin = 0 if inner else len(head) + len(meta(0)) + 8
    body = b"" if inner else _box(b"mdat", *(data for _, data, _ in items))
    return head + meta(begin) + body


@functools.cache
def _plain(width: int, height: int, color: str = "red", **options) -> bytes:
    return _av1(Image.new("RGB", (width, height), color), **options)


def _one(data: bytes, width: int = 23, height: int = 17, *more: bytes, **options) -> bytes:
    return _file([(b"av01", data, [_ispe(width, height), _AV1C, _NCLX, *more])], **options)


_SCENE = _av1(_image())


@pytest.mark.parametrize("options", [{}, {"inner": True}, {"pieces": 3}, {"before": _box(b"free", bytes(99))}])
def test_wherever_the_data_lies(options):
    assert alike(decoded(_one(_SCENE, **options)), scene(), 4)


def test_alpha_is_found_by_its_reference():
    alpha = Image.fromarray(scene(4)[..., 3].astype(np.uint8))
    urn = _box(b"auxC", bytes(4), b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")
    color = (b"av01", _SCENE, [_ispe(23, 17), _AV1C, _NCLX])
    other = (b"av01", _av1(alpha, subsampling="4:0:0"), [_ispe(23, 17), _AV1C, urn])
    found = scene(4)
    assert alike(decoded(_file([color, other], [(b"auxl", 2, [1])])), on_white(found[..., :3], found[..., 3]), 5)
    assert alike(decoded(_file([color, other])), found[..., :3], 4)


def _grid(rows: int, columns: int, width: int, height: int) -> tuple[bytes, bytes, list[bytes]]:
    return b"grid", struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height), [_ispe(width, height), _NCLX]


def _tiles(count: int, side: int = 64) -> list[tuple[bytes, bytes, list[bytes]]]:
    colors = ("red", "lime", "blue", "white", "black", "yellow")
    return [(b"av01", _plain(side, side, colors[i % 6]), [_ispe(side, side), _AV1C, _NCLX]) for i in range(count)]


def test_a_grid_is_put_together():
    data = _file([_grid(2, 3, 190, 100), *_tiles(6)], [(b"dimg", 1, [2, 3, 4, 5, 6, 7])])
    found = decoded(data)
    assert found.shape == (100, 190, 3)
    right = [[(255, 0, 0), (0, 255, 0), (0, 0, 255)], [(255, 255, 255), (0, 0, 0), (255, 255, 0)]]
    for row, column in itertools.product(range(2), range(3)):
        part = found[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
        assert np.abs(part - right[row][column]).max() < 6


def _clap(width: int, height: int, x: tuple[int, int] = (0, 1), y: tuple[int, int] = (0, 1), below: int = 1) -> bytes:
    return _box(b"clap", struct.pack(">8i", width * below, below, height, 1, *x, *y))


@pytest.mark.parametrize(
    ("clap", "part"),
    [
        # (23 - 11) / 2 + 3 = 9 from the left, (17 - 8) / 2 - 3 / 2 = 3 from above.
        (_clap(11, 8, (3, 1), (-3, 2)), (9, 3, 20, 11)),
        (_clap(11, 7, below=2), (6, 5, 17, 12)),
        # Half a pixel, outside, and negative: passed over.
        (_clap(10, 8), (0, 0, 23, 17)),
        (_clap(11, 7, (90, 1)), (0, 0, 23, 17)),
        (_clap(-11, 7), (0, 0, 23, 17)),
    ],
)
@pytest.mark.parametrize("turn", range(4))
def test_the_clean_aperture_is_cut_before_turning(clap, part, turn):
    picture = decode(_one(_SCENE, 23, 17, clap, _box(b"irot", bytes([turn]))), _LIMIT)
    right = np.rot90(scene()[part[1] : part[3], part[0] : part[2]], turn)
    assert alike(np.asarray(picture.image), right, 4) and picture.image.size == (picture.width, picture.height)


_URN = _box(b"auxC", bytes(4), b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")


def _two(kind: bytes, source: int, to: list[int]) -> bytes:
    item = (b"av01", _SCENE, [_ispe(23, 17), _AV1C, _URN])
    return _file([item, item], [(kind, source, to)])


_REFUSED = {
    "kind 'hvc1'": lambda: _file([(b"hvc1", _SCENE, [_ispe(23, 17)])]),
    "kind 'missing'": lambda: _one(_SCENE, primary=9),
    "kind 'missing',": lambda: _one(_SCENE, protected=1),
    "outside the file": lambda: _one(_SCENE, extents={1: [(400, 1 << 30)]}),
    "outside the file\\Z": lambda: _one(_SCENE, extents={1: []}),
    "pictures overlap": lambda: _one(_SCENE, extents={1: [(300, 200)] * 60_000}),
    "within its AV1 data": lambda: _one(_SCENE[:-9]),
    "several sequence headers": lambda: _one(_SCENE + _plain(64, 64)),
    "has 2 frames": lambda: _one(_SCENE * 2),
    "has 0 frames": lambda: _one(_SCENE[:12]),
    "does not state the size": lambda: _file([(b"av01", _SCENE, [_AV1C])]),
    "of 4000000000 x 17 pixels": lambda: _one(_SCENE, 4_000_000_000),
    "of 0 x 17 pixels": lambda: _one(_SCENE, 0),
    "property 'what'": lambda: _one(_SCENE, 23, 17, _box(b"what", b"")),
    "without a still picture": lambda: _box(b"ftyp", b"avis", bytes(4)) + _box(b"moov", bytes(99)),
    "grid of 2 tiles": lambda: _file([_grid(2, 2, 128, 128), *_tiles(2)], [(b"dimg", 1, [2, 3])]),
    "grid of 4 tiles": lambda: _file([_grid(2, 2, 128, 128), *_tiles(1)], [(b"dimg", 1, [2] * 4)]),
    "something else than AV1": lambda: _file([_grid(1, 1, 64, 64)], [(b"dimg", 1, [1])]),
    "grid of 0 tiles": lambda: _file([_grid(1, 1, 64, 64)]),
    r"4,19\d,\d\d\d bytes about": lambda: _one(_SCENE, 23, 17, _box(b"free", bytes(1 << 22))),
}


@pytest.mark.parametrize("words", _REFUSED)
def test_what_is_not_decoded_is_named(words):
    with pytest.raises(DecodeError, match=words) as error:
        decode(_REFUSED[words](), _LIMIT)
    assert error.value.reason == "CannotDecode"


@pytest.mark.parametrize("references", [("auxl", 1, [1]), ("auxl", 2, [2, 1]), ("dimg", 1, [2]), ("prem", 1, [1])])
def test_loops_of_references_end(references):
    outcome(_two(references[0].encode(), *references[1:]))


def test_other_pictures_in_such_boxes_are_no_image():
    for brand in (b"heic", b"mp42", b"qt  "):
        data = _one(_SCENE).replace(b"avif", brand)
        with pytest.raises(DecodeError, match="is no JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, PPM image"):
            decode(data, _LIMIT)


def test_without_avif_in_pillow_it_is_said(monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    with pytest.raises(DecodeError, match="is an AVIF, which the installed Pillow cannot decode; install"):
        decode(_one(_SCENE), _LIMIT)


def test_each_decoder_has_one_thread():
    assert AvifImagePlugin.DEFAULT_MAX_THREADS == 1


def _grid_bomb(count: int) -> bytes:
    """Many tiles of 1024 x 1024 pixels of one colour."""
    tile = _plain(1024, 1024)
    items = [(b"av01", tile, [_ispe(1024, 1024), _AV1C, _NCLX])] * count * count
    numbers = list(range(2, len(items) + 2))
    return _file([_grid(count, count, 1024 * count, 1024 * count), *items], [(b"dimg", 1, numbers)])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        # One colour: a few hundred bytes.
        (lambda: _one(_plain(2_800, 2_800), 2_800, 2_800), "2800 x 2800"),
        (lambda: _one(_plain(4_000, 4_000), 4_000, 4_000), "TooManyPixels"),
        # The frame is larger than the file says, or smaller.
        (lambda: _one(_plain(4_000, 4_000), 8, 8), "TooManyPixels"),
        (lambda: _one(_plain(2_800, 2_800), 8, 8), "8 x 8"),
        (lambda: _one(_plain(64, 64), 16_000, 16_000), "TooManyPixels"),
        (lambda: _one(_plain(64, 64), 2_800, 2_800), "2800 x 2800"),
        (lambda: _grid_bomb(3), "TooManyPixels"),
        (lambda: _grid_bomb(2), "2048 x 2048"),
    ],
)
def test_hostile_ones_take_little_memory_and_time(make, expected):
    data = make()
    peak, secs, found = measure(data)
    assert found == expected and peak < 24 << 23 and secs < 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_memory_is_bounded_by_the_pixels(mode):
    side = 1600
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 4), np.uint8)
    data = saved(Image.fromarray(pixels).convert(mode), "AVIF", quality=50, subsampling="4:4:4", speed=10)
    peak, _, found = measure(data)
    assert found == f"{side} x {side}" and peak - len(data) < 24 * side**2


def _seeds() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        saved(_image(4), "AVIF", exif=exif, quality=50),
        saved(_image(), "AVIF", save_all=True, append_images=[_image()], quality=50),
        _file([_grid(1, 2, 128, 64), *_tiles(2)], [(b"dimg", 1, [2, 3])]),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_cut_anywhere_it_is_a_picture_or_refused(seed):
    data = _seeds()[seed]
    for size in range(len(data)):
        outcome(data[:size])


@pytest.mark.parametrize("seed", range(3))
def test_changed_anywhere_it_is_a_picture_or_refused(seed):
    data, chance = _seeds()[seed], random.Random(seed)
    with no_more_memory(64 << 20):
        for _ in range(1_000):
            outcome(changed(data, chance, 0, min(len(data), 700)))
