"""Images that are broken, odd, or made to harm: each is refused with a reason or decoded to the right picture."""

import io
import random
import struct
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipelines.images import reduction
from pipelines.images.decode import DecodeError, ImagePreprocess, decode, prepare
from pipelines.images.formats import orientation
from tests.pipelines.images.formats.measured import measure

_LIMIT = 100_000_000
_GREY = Image.new("RGB", (8, 8), (120, 120, 120))


def _encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _scene(width: int, height: int) -> Image.Image:
    """Smooth shapes without symmetry, so that a turn, a shift or a wrong colour shows."""
    y, x = np.mgrid[:height, :width] / [[[height]], [[width]]]
    bands = [x, y, (np.sin(9 * x) * np.cos(7 * y) + 1) / 2]
    return Image.fromarray((np.stack(bands, -1) * 255).astype(np.uint8))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, depth: int, color: int, *chunks: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IEND", b"")


def _idat(rows: np.ndarray) -> bytes:
    """Rows [H, bytes] uint8, unfiltered."""
    return _chunk(b"IDAT", zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes()))


def _exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II" if order == "<" else b"MM"
    return b"Exif\0\0" + mark + struct.pack(f"{order}HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def _overlapping_tags(count: int, size: int) -> bytes:
    """An image directory each of whose tags claims the same `size` bytes."""
    tags = b"".join(struct.pack("<HHII", 1000 + tag, 7, size, 8) for tag in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + tags + bytes(4)


def _jpeg_with(segments: bytes, image: Image.Image = _GREY, **options) -> bytes:
    data = _encode(image, "JPEG", **options)
    return data[:2] + segments + data[2:]


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _jpeg_of_size(width: int, height: int) -> bytes:
    data = _encode(_GREY, "JPEG")
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def _many_scans(count: int) -> bytes:
    data = _encode(Image.new("L", (3000, 3000)), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


def _gif(width: int, height: int, flags: int = 0, extensions: bytes = b"") -> bytes:
    control = b"\x21\xf9\x04" + bytes([flags, 0, 0, 0, 0])
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0"
    header = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    return header + extensions + control + frame + b";"


def _riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_of_size(width: int, height: int) -> bytes:
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    extended = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + size
    frame = bytes(6) + struct.pack("<I", 7)[:3] * 2 + bytes(4) + _encode(_GREY, "WEBP")[12:]
    return _riff(extended, b"ANIM" + struct.pack("<I", 6) + bytes(6), b"ANMF" + struct.pack("<I", len(frame)) + frame)


def _bmp_of_size(width: int, height: int) -> bytes:
    data = _encode(_GREY, "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def _run_length_bmp(width: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, 1, 1, 8, 1, 0, 0, 0, 256, 0)
    # A skip of 255 rows, then the end.
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(1024) + b"\0\2\0\xff\0\1"


_BOMBS = {
    "png_size": (lambda: _png(60_000, 60_000, 8, 2, _chunk(b"IDAT", zlib.compress(bytes(999)))), "TooManyPixels"),
    "jpeg_size": (lambda: _jpeg_of_size(65_000, 65_000), "TooManyPixels"),
    "webp_size": (lambda: _webp_of_size(16_383, 16_383), "TooManyPixels"),
    "gif_size": (lambda: _gif(65_535, 65_535), "TooManyPixels"),
    "gif_disposal": (lambda: _gif(65_535, 65_535, flags=2 << 2), "TooManyPixels"),
    "bmp_size": (lambda: _bmp_of_size(60_000, 60_000), "TooManyPixels"),
    "bmp_run_length": (lambda: _run_length_bmp(_LIMIT), "CannotDecode"),
    "jpeg_scans": (lambda: _many_scans(500), "TooManyScans"),
    "jpeg_cut": (lambda: _jpeg_of_size(2_000, 2_000)[:-2], "CannotDecode"),
    "jpeg_declared_large": (lambda: _jpeg_of_size(9_000, 9_000), "TooManyPixels"),
    "tiff_tags": (lambda: _overlapping_tags(40_000, 480_000), "CannotDecode"),
    "tiff_float": (lambda: _encode(Image.new("F", (8, 8)), "TIFF"), "CannotDecode"),
    "eps": (lambda: _encode(_GREY, "EPS"), "CannotDecode"),
    "pdf": (lambda: b"%PDF-1.4\n" + bytes(99), "CannotDecode"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "CannotDecode"),
    "html": (lambda: b"<!doctype html><p>404", "CannotDecode"),
    "jpeg_no_height": (lambda: _jpeg_of_size(8, 0), "CannotDecode"),
    "jpeg_no_scan": (lambda: b"\xff\xd8" + _segment(0xE1, _exif(1)) * 9000, "CannotDecode"),
    "gif_cut": (lambda: _gif(8, 8)[:-8], "CannotDecode"),
    "webp_cut": (lambda: _encode(_scene(90, 90), "WEBP")[:-99], "CannotDecode"),
    "bmp_cut": (lambda: _encode(_GREY, "BMP")[:-99], "CannotDecode"),
    "two_bytes": (lambda: b"\xff\xd8", "CannotDecode"),
}

_EXIF_BOMB = _overlapping_tags(15_000, 180_000)
# These hold a right picture, the metadata around it is the attack.
_DECORATED = {
    "jpeg_exif_tags": lambda: _jpeg_with(
        b"".join(_segment(0xE1, b"Exif\0\0" + _EXIF_BOMB[i : i + 65_000]) for i in range(0, len(_EXIF_BOMB), 65_000))
    ),
    "jpeg_exif_pieces": lambda: _jpeg_with(_segment(0xE1, b"Exif\0\0a") * 90_000),
    "jpeg_comments": lambda: _jpeg_with(_segment(0xFE, b"") * 200_000),
    "jpeg_trailing": lambda: _encode(_GREY, "JPEG") + random.Random(0).randbytes(1_000_000),
    "png_texts": lambda: _png(
        8,
        8,
        8,
        0,
        _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000))) * 500,
        _chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(900_000))) * 200,
        _idat(np.full((8, 8), 120, np.uint8)),
    ),
    "png_profiles": lambda: _png(
        8,
        8,
        8,
        0,
        _chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(900_000))) * 900,
        _idat(np.full((8, 8), 120, np.uint8)),
    ),
    "png_frames": lambda: _png(
        8,
        8,
        8,
        0,
        _chunk(b"acTL", struct.pack(">II", 1_000_000, 0)),
        _idat(np.full((8, 8), 120, np.uint8)),
        _chunk(b"fcTL", bytes(26)) * 20_000,
    ),
    "png_exif_tags": lambda: _png(8, 8, 8, 0, _chunk(b"eXIf", _EXIF_BOMB), _idat(np.full((8, 8), 120, np.uint8))),
}


@pytest.mark.parametrize("name", _BOMBS)
def test_bombs_are_refused_soon_and_say_why(name):
    make, reason = _BOMBS[name]
    data = make()
    begin = time.process_time()
    with pytest.raises(DecodeError) as error:
        decode(data, _LIMIT)
    assert error.value.reason == reason and "0x" not in str(error.value)
    assert time.process_time() - begin < 3


@pytest.mark.parametrize("name", _DECORATED)
def test_metadata_costs_no_time_and_the_picture_is_right(name):
    data = _DECORATED[name]()
    begin = time.process_time()
    np.testing.assert_allclose(np.asarray(decode(data, _LIMIT).image, int), 120, atol=1)
    assert time.process_time() - begin < 2


@pytest.mark.parametrize("extension", [b"\x21\xfe\x01a\0" * 200_000, b"\x21\xfe" + b"\x01a" * 500_000 + b"\0"])
def test_comments_of_a_gif_cost_no_time(extension):
    begin = time.process_time()
    with_comments = decode(_gif(1, 1, extensions=extension), _LIMIT).image
    assert time.process_time() - begin < 2
    assert with_comments.tobytes() == decode(_gif(1, 1), _LIMIT).image.tobytes()


def test_of_a_million_frames_the_first_is_taken():
    frame = _gif(1, 1)[19:-1]
    begin = time.process_time()
    assert decode(_gif(1, 1)[:-1] + frame * 1_000_000 + b";", _LIMIT).image.size == (1, 1)
    assert time.process_time() - begin < 1
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for kind in ("PNG", "WEBP"):
        data = _encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert decode(data, _LIMIT).image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded_by_the_pixels():
    """In a process of its own: the peak above what the imports take, over the limit of pixels."""
    side = 1600
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side), np.uint8))
    images = {
        "progressive": _encode(_scene(side, side), "JPEG", progressive=True, subsampling=0, exif=_exif(6)),
        "cmyk": _encode(_scene(side, side).convert("CMYK"), "JPEG", progressive=True),
        "rgba": _encode(_scene(side, side).convert("RGBA"), "PNG", compress_level=1),
        "webp": _encode(_scene(side, side).convert("RGBA"), "WEBP", lossless=True, method=0, exif=_exif(6)),
        "grey16": _encode(grey.convert("I;16"), "PNG", compress_level=1),
    }
    for name, data in images.items():
        peak, _, size = measure(data)
        assert size == f"{side} x {side}" and 3 < peak / side**2 < 24, name


def _plain_webp(side: int) -> bytes:
    """A whole picture of one colour: a few hundred bytes, and as many pixels as it states."""
    return _encode(Image.new("RGB", (side, side), "red"), "WEBP", lossless=True, method=0)


def _animated_webp(canvas: int) -> bytes:
    """A frame of 8 x 8 pixels on a canvas of any size."""
    return _webp_of_size(canvas, canvas)


def _plain_png(side: int) -> bytes:
    return _encode(Image.new("1", (side, side)), "PNG")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("make", "side", "expected"),
    [
        (_plain_webp, 9000, "TooManyPixels"),
        (_plain_webp, 2000, "2000 x 2000"),
        (_animated_webp, 9000, "TooManyPixels"),
        (_animated_webp, 2800, "2800 x 2800"),
        (_plain_png, 9999, "TooManyPixels"),
        (_plain_png, 2800, "2800 x 2800"),
        (lambda side: _gif(side, side), 9000, "TooManyPixels"),
        (lambda side: _bmp_of_size(side, side), 9000, "TooManyPixels"),
        (lambda side: _jpeg_of_size(side, side), 9000, "TooManyPixels"),
    ],
)
def test_a_few_bytes_take_little_memory(make, side, expected):
    data = make(side)
    assert len(data) < 40_000
    peak, _, found = measure(data)
    assert found == expected and peak < 200 << 20


def test_large_pictures_of_real_content_are_decoded():
    """Far more pixels than the bound for a few bytes, at a rate of compression that photographs have."""
    data = _encode(_scene(4000, 3000), "JPEG", quality=60)
    assert decode(data, _LIMIT).image.size == (4000, 3000)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_all_orientations_are_undone(orientation, kind):
    scene = _scene(40, 30)
    data = _encode(scene, kind, exif=_exif(orientation, ">"))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    picture = decode(data, _LIMIT)
    assert picture.image.tobytes() == expected.tobytes()
    assert (picture.width, picture.height) == expected.size == picture.image.size


@pytest.mark.parametrize(
    "exif", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"XX*\0" + bytes(20), _exif(9), _exif(0), _exif(6)[6:25]]
)
def test_broken_exif_leaves_the_picture_as_it_is(exif):
    assert orientation.find([exif]) == 1
    data = _jpeg_with(_segment(0xE1, b"Exif\0\0" + exif), _scene(40, 30))
    assert decode(data, _LIMIT).image.size == (40, 30)


def _reduced_cases() -> dict[str, bytes]:
    scene = _scene(1003, 805)
    cases = {
        "rgb": _encode(scene, "JPEG", quality=90),
        "grey": _encode(scene.convert("L"), "JPEG", quality=90),
        "progressive": _encode(scene, "JPEG", quality=90, progressive=True),
        "cmyk": _encode(scene.convert("CMYK"), "JPEG", quality=90),
        "mpo": _encode(scene, "MPO", save_all=True, append_images=[_scene(300, 200)], quality=90),
    }
    turned = {f"exif{n}": _encode(scene, "JPEG", quality=90, exif=_exif(n)) for n in range(1, 9)}
    return cases | turned


@pytest.mark.parametrize("name", _reduced_cases())
@pytest.mark.parametrize(
    "preprocess", [ImagePreprocess(64, 0.875), ImagePreprocess(64, crop="squash", resize="lanczos")]
)
def test_reduced_decoding_gives_the_same_picture(name, preprocess):
    data = _reduced_cases()[name]
    full, reduced = decode(data, _LIMIT), decode(data, _LIMIT, [preprocess, ImagePreprocess(16)])
    assert min(reduced.image.size) == 202 and min(full.image.size) == 805
    assert (reduced.width, reduced.height) == (full.width, full.height) == full.image.size
    difference = np.abs(prepare(reduced, preprocess).astype(int) - prepare(full, preprocess))
    assert difference.mean() < 0.6 and difference.max() < 9


def test_the_largest_consumer_rules_the_scale():
    data = _encode(_scene(1024, 800), "JPEG")
    small, large = ImagePreprocess(50), ImagePreprocess(200)
    assert decode(data, _LIMIT, [small]).image.size == (128, 100)
    assert decode(data, _LIMIT, [small, large]).image.size == (512, 400)
    assert decode(data, _LIMIT, [ImagePreprocess(201)]).image.size == (1024, 800)
    assert decode(data, _LIMIT, [ImagePreprocess(136)]).image.size == (256, 200)
    assert decode(data, _LIMIT, [ImagePreprocess(138)]).image.size == (512, 400)
    assert decode(_encode(_scene(1024, 800), "PNG"), _LIMIT, [small]).image.size == (1024, 800)


def test_the_limit_is_on_the_declared_pixels_at_any_scale():
    with pytest.raises(DecodeError, match="1024 x 800, the limit is 819,199 pixels"):
        decode(_encode(_scene(1024, 800), "JPEG"), 1024 * 800 - 1, [ImagePreprocess(8)])


def test_adobe_cmyk_is_inverted():
    """Adobe stores inks inverted, and so does Pillow, with Adobe's segment: white paper is no ink."""
    data = _encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert b"Adobe" in reduction.bare(data).data
    red = np.asarray(decode(data, _LIMIT).image, int)
    np.testing.assert_allclose(red, np.broadcast_to([255, 0, 0], red.shape), atol=6)


def test_16_bit_colours_keep_their_high_byte():
    values = np.random.default_rng(0).integers(0, 65_536, (5, 7, 4)).astype(">u2")
    rgb = np.ascontiguousarray(values[..., :3])
    image = decode(_png(7, 5, 16, 2, _idat(rgb.view(np.uint8).reshape(5, -1))), _LIMIT).image
    np.testing.assert_array_equal(np.asarray(image), rgb >> 8)
    values[..., 3] = 0xFFFF
    opaque = decode(_png(7, 5, 16, 6, _idat(values.view(np.uint8).reshape(5, -1))), _LIMIT).image
    np.testing.assert_array_equal(np.asarray(opaque), values[..., :3] >> 8)


def test_one_bit_palettes_and_grey_with_alpha():
    bits = np.random.default_rng(0).integers(0, 2, (4, 8)).astype(np.uint8)
    rows = _idat(np.packbits(bits, -1))
    assert (np.asarray(decode(_png(8, 4, 1, 0, rows), _LIMIT).image)[..., 1] == bits * 255).all()
    palette = _chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 50]))
    colors = np.array([[10, 20, 30], [200, 100, 50]])
    assert (np.asarray(decode(_png(8, 4, 1, 3, palette, rows), _LIMIT).image) == colors[bits]).all()
    clear = _chunk(b"tRNS", bytes([0, 255]))
    colors[0] = 255
    assert (np.asarray(decode(_png(8, 4, 1, 3, palette, clear, rows), _LIMIT).image) == colors[bits]).all()
    grey_alpha = _encode(Image.new("LA", (3, 3), (0, 0)), "PNG")
    assert np.asarray(decode(grey_alpha, _LIMIT).image).min() == 255


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
@pytest.mark.parametrize("crop", ["center", "center_rounded", "squash"])
def test_tiny_and_thin_images_are_prepared(size, kind, crop):
    if kind == "WEBP" and max(size) > 16_383:
        pytest.skip("larger than a WebP can be")
    preprocess = ImagePreprocess(32, crop=crop)
    picture = decode(_encode(Image.new("RGB", size, "white"), kind), _LIMIT, [preprocess])
    assert (picture.width, picture.height) == size
    np.testing.assert_array_equal(prepare(picture, preprocess), 255)


def test_bare_leaves_what_needs_no_cutting():
    for data in (_encode(_GREY, "WEBP"), _encode(_GREY, "BMP"), b"text"):
        assert reduction.bare(data).data == data
