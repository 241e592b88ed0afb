"""Every mode, depth and orientation of the formats that are decoded, against a second decoder or computed pixels.

libvips shares no code with Pillow but libjpeg and libwebp: it has its own readers of PNGs and GIFs and turns images
itself. It has no BMP. Pixels that follow from the format alone are computed here as well; a comment says where libvips
is not asked, and why.
"""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from pipelines.images.decode import decode
from pipelines.images.formats import orientation

_LIMIT = 1_000_000
_WIDTH, _HEIGHT = 23, 17
_RANDOM = np.random.default_rng(0)


def _scene(channels: int = 3, levels: int = 256) -> np.ndarray:
    """Smooth bands without symmetry [H, W, channels], so that a turn, a shift or a swapped channel shows."""
    y, x = np.mgrid[:_HEIGHT, :_WIDTH] / [[[_HEIGHT]], [[_WIDTH]]]
    bands = [x, y, (np.sin(5 * x) * np.cos(4 * y) + 1) / 2, (x + 2 * y) / 3]
    return np.floor(np.stack(bands[:channels], -1) * levels).astype(np.int64)


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _image(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array.squeeze().astype(np.uint8))


def _decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, _LIMIT).image).astype(int)


def _on_white(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours [H, W, 3] and alpha [H, W], 0 to 255, on white."""
    share = alpha[..., None] / 255
    return colors * share + 255 * (1 - share)


def _vips(data: bytes) -> np.ndarray:
    """The pixels that libvips shows, on white, upright."""
    pyvips = pytest.importorskip("pyvips", exc_type=ImportError)
    image = pyvips.Image.new_from_buffer(data, "", access="random").autorot()
    wide = image.format == "ushort"
    if image.interpretation in ("cmyk", "b-w", "grey16") and image.bands in (1, 2):
        image = image[0].bandjoin([image[0], image[0], *image[1:]]) if image.bands == 2 else image.bandjoin([image] * 2)
    elif image.interpretation == "cmyk":
        image = image.icc_transform("srgb")
    pixels = image.numpy().astype(float)
    if wide:
        pixels = pixels // 256
    return _on_white(pixels[..., :3], pixels[..., 3]) if pixels.shape[-1] == 4 else pixels[..., :3]


# PNG


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


_ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def _packed(samples: np.ndarray, depth: int) -> bytes:
    """Rows of samples [H, W, channels] as a PNG has them, without a filter."""
    rows = samples.reshape(len(samples), -1)
    if depth == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        lines = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    return b"".join(b"\0" + line for line in lines)


def _png(samples: np.ndarray, depth: int, color: int, *chunks: bytes, interlaced: bool = False) -> bytes:
    parts = [samples]
    if interlaced:
        parts = [samples[y::dy, x::dx] for x, y, dx, dy in _ADAM7]
    data = b"".join(_packed(part, depth) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], depth, color, 0, 0, interlaced)
    body = [_chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", zlib.compress(data)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _hidden(*values: int) -> bytes:
    return _chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


_PALETTE = _RANDOM.integers(0, 256, (256, 3), np.uint8)
_CLEAR = _RANDOM.integers(0, 256, 256, np.uint8)
# Color type of the PNG standard and its channels.
_PNG_TYPES = {"grey": (0, 1), "rgb": (2, 3), "palette": (3, 1), "grey-alpha": (4, 2), "rgba": (6, 4)}
_PNG_DEPTHS = {
    "grey": (1, 2, 4, 8, 16),
    "rgb": (8, 16),
    "palette": (1, 2, 4, 8),
    "grey-alpha": (8, 16),
    "rgba": (8, 16),
}


def _png_cases() -> dict[str, tuple[bytes, np.ndarray]]:
    """Each type and depth, plain and interlaced, with and without transparency; and the pixels that are right."""
    cases = {}
    for kind, depths in _PNG_DEPTHS.items():
        color, channels = _PNG_TYPES[kind]
        for depth, interlaced, clear in itertools.product(depths, (False, True), (False, True)):
            samples = _scene(channels, 1 << depth)
            chunks = [_chunk(b"PLTE", _PALETTE[: 1 << depth].tobytes())] if kind == "palette" else []
            if clear and kind == "palette":
                chunks.append(_chunk(b"tRNS", _CLEAR[: 1 << depth].tobytes()))
            elif clear and kind in ("grey", "rgb"):
                chunks.append(_hidden(*samples[3, 5]))
            elif clear:
                continue
            name = f"{kind}{depth}{' interlaced' * interlaced}{' tRNS' * clear}"
            data = _png(samples, depth, color, *chunks, interlaced=interlaced)
            cases[name] = data, _png_pixels(samples, depth, kind, clear)
    return cases


def _png_pixels(samples: np.ndarray, depth: int, kind: str, clear: bool) -> np.ndarray:
    eight = samples >> 8 if depth == 16 else samples * 255 // ((1 << depth) - 1)
    alpha = np.full(samples.shape[:2], 255)
    if kind == "palette":
        colors = _PALETTE[samples[..., 0]].astype(int)
        alpha = _CLEAR[samples[..., 0]].astype(int) if clear else alpha
        return _on_white(colors, alpha)
    if kind in ("grey-alpha", "rgba"):
        return _on_white(eight[..., :-1] + np.zeros(3, int), eight[..., -1])
    if clear:
        alpha = np.where((samples == samples[3, 5]).all(-1), 0, 255)
    return _on_white(eight + np.zeros(3, int), alpha)


@pytest.mark.parametrize("name", _png_cases())
def test_png(name):
    data, right = _png_cases()[name]
    found = _decoded(data)
    assert np.abs(found - right).max() <= 1
    assert np.abs(found - _vips(data)).max() <= 1


@pytest.mark.parametrize(
    ("depth", "color", "values", "hits"),
    [
        (1, 0, (0,), "0"),
        (2, 0, (1,), "1"),
        (4, 0, (5,), "5"),
        (8, 0, (85,), "85"),
        (16, 0, (0x5555,), "0x5555"),
        # Bits beyond the depth do not count.
        (2, 0, (0xFF01,), "1"),
        (8, 0, (0x1255,), "0x55"),
        (8, 2, (0x0155, 0x0255, 0x0355), "0x55 each"),
        # Near values, and those of the same high byte, do not count.
        (16, 0, (0x5556,), ""),
        (16, 2, (0x5555, 0x5555, 0x5556), ""),
        (16, 2, (0x5555, 0x5555, 0x5555), "0x5555 each"),
    ],
)
def test_one_value_of_a_png_is_transparent_where_it_is_hit_exactly(depth, color, values, hits):
    value = {1: 0, 2: 1, 4: 5, 8: 0x55, 16: 0x5555}[depth]
    samples = np.full((4, 6, 3 if color else 1), value)
    samples[:, 3:] = (1 << depth) - 1 if depth == 1 else 2
    found = _decoded(_png(samples, depth, color, _hidden(*values)))
    eight = samples >> 8 if depth == 16 else samples * 255 // ((1 << depth) - 1)
    right = eight + np.zeros(3, int)
    if hits:
        right[:, :3] = 255
    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize(
    "chunk", [_chunk(b"tRNS", b"\0"), _chunk(b"tRNS", bytes(6)), _hidden(9)[:-4] + b"oops", _chunk(b"tRNS", b"")]
)
def test_a_broken_transparent_colour_is_none_as_in_browsers(chunk):
    samples = np.full((4, 6, 1), 9)
    np.testing.assert_array_equal(_decoded(_png(samples, 8, 0, chunk)), 9)


# GIF


def _lzw(indices: np.ndarray, bits: int) -> bytes:
    """GIF's code without compression: the table is cleared before it grows."""
    clear, out = 1 << bits, []
    for place, index in enumerate(indices.reshape(-1).tolist()):
        if place % (clear - 2) == 0:
            out.append(clear)
        out.append(index)
    value = sum(code << (bits + 1) * place for place, code in enumerate([*out, clear + 1]))
    data = value.to_bytes(((len(out) + 1) * (bits + 1) + 7) // 8, "little")
    blocks = [data[at : at + 255] for at in range(0, len(data), 255)]
    return bytes([bits]) + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def _gif(
    indices: np.ndarray,
    palette: np.ndarray,
    canvas: tuple[int, int],
    at: tuple[int, int] = (0, 0),
    clear: int | None = None,
    disposal: int = 0,
    local: bool = False,
    interlaced: bool = False,
    background: int = 0,
) -> bytes:
    """A GIF of one frame of indices [H, W] into a palette [2 ** n, 3]."""
    bits = len(palette).bit_length() - 1
    table, flags = palette.astype(np.uint8).tobytes(), 0x80 | bits - 1
    data = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0 if local else flags, background, 0) + (b"" if local else table)
    data += b"\x21\xfe\x05hello\0" + b"\x21\xf9\x04" + bytes([disposal << 2 | (clear is not None), 9, 0, clear or 0, 0])
    height, width = indices.shape
    if interlaced:
        indices = np.concatenate([indices[start::step] for start, step in ((0, 8), (4, 8), (2, 4), (1, 2))])
    data += b"\x2c" + struct.pack("<HHHHB", *at, width, height, (flags if local else 0) | 0x40 * interlaced)
    return data + (table if local else b"") + _lzw(indices, max(bits, 2))


_GIF_PALETTE = _RANDOM.integers(0, 256, (16, 3))
_INDICES = _RANDOM.integers(0, 16, (9, 11))


def _gif_pixels(canvas: tuple[int, int], at: tuple[int, int], clear: int | None) -> np.ndarray:
    right = np.full((canvas[1], canvas[0], 3), 255)
    colors = _GIF_PALETTE[_INDICES].copy()
    if clear is not None:
        colors[clear == _INDICES] = 255
    right[at[1] : at[1] + 9, at[0] : at[0] + 11] = colors
    return right


@pytest.mark.parametrize(
    ("canvas", "at"), [((11, 9), (0, 0)), ((20, 14), (0, 0)), ((20, 14), (9, 5)), ((11, 14), (0, 2)), ((40, 9), (7, 0))]
)
@pytest.mark.parametrize("clear", [None, 0, 3])
@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
@pytest.mark.parametrize(("local", "interlaced", "background"), [(False, False, 0), (True, True, 7), (False, True, 3)])
def test_gif(canvas, at, clear, disposal, local, interlaced, background):
    data = _gif(_INDICES, _GIF_PALETTE, canvas, at, clear, disposal, local, interlaced, background)
    second = _gif(15 - _INDICES, _GIF_PALETTE, canvas, at)[13 + 48 :]
    for whole in (data + b";", data + second + b";"):
        np.testing.assert_array_equal(_decoded(whole), _gif_pixels(canvas, at, clear))
    # Where no colour is transparent libvips drops the alpha of what the frame does not cover; browsers show the page.
    if clear is not None or canvas == (11, 9):
        np.testing.assert_array_equal(_vips(data + b";"), _gif_pixels(canvas, at, clear))


def test_a_frame_that_is_larger_than_the_canvas_makes_it_larger():
    data = _gif(_INDICES, _GIF_PALETTE, (5, 4), (2, 1)) + b";"
    np.testing.assert_array_equal(_decoded(data), _gif_pixels((13, 10), (2, 1), None))


# BMP; libvips has none


def _bmp(
    samples: np.ndarray, bits: int, palette: np.ndarray | None = None, masks: tuple[int, ...] = (), header: int = 40
) -> bytes:
    """Rows of samples [H, W] of so many bits, from the top; from the bottom is the usual order."""
    height, width = samples.shape
    if bits >= 8:
        rows = samples.astype("<u4").view(np.uint8).reshape(height, width, 4)[..., : bits // 8].reshape(height, -1)
    else:
        planes = (samples[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = np.packbits(planes.reshape(height, -1), axis=-1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    colors = b"" if palette is None else np.pad(palette[:, ::-1], ((0, 0), (0, 1))).astype(np.uint8).tobytes()
    used = 0 if palette is None else len(palette)
    fields = struct.pack("<iiHHIIiiII", width, height, 1, bits, 3 if masks else 0, rows.size, 0, 0, used, 0)
    stated = b"".join(struct.pack("<I", mask) for mask in masks)
    dib = struct.pack("<I", header) + fields + stated
    dib = dib.ljust(header, b"\0") + colors
    head = b"BM" + struct.pack("<IHHI", 14 + len(dib) + rows.size, 0, 0, 14 + len(dib))
    return head + dib + rows[::-1].tobytes()


def _top_down(data: bytes) -> bytes:
    """The same picture with the rows from the top."""
    (start,) = struct.unpack_from("<I", data, 10)
    (height,) = struct.unpack_from("<i", data, 22)
    rows = np.frombuffer(data[start:], np.uint8).reshape(height, -1)
    return data[:22] + struct.pack("<i", -height) + data[26:start] + rows[::-1].tobytes()


def _bmp_cases() -> dict[str, tuple[bytes, np.ndarray]]:
    cases = {}
    for bits in (1, 4, 8):
        samples = _RANDOM.integers(0, 1 << bits, (_HEIGHT, _WIDTH))
        palette = _RANDOM.integers(0, 256, (1 << bits, 3))
        cases[f"palette of {bits} bits"] = _bmp(samples, bits, palette), palette[samples]
        ramp = np.repeat(np.arange(1 << bits)[:, None] * (255 // ((1 << bits) - 1)), 3, 1)
        cases[f"grey of {bits} bits"] = _bmp(samples, bits, ramp), ramp[samples]
    red, green, blue = np.moveaxis(_scene(), -1, 0)
    colors = np.stack([red, green, blue], -1)
    alpha = _scene(4)[..., 3]
    cases["24 bits"] = _bmp(red << 16 | green << 8 | blue, 24), colors
    for value, name in ((0, "0"), (255, "255")):
        four = value << 24 | red << 16 | green << 8 | blue
        cases[f"32 bits, unused byte {name}"] = _bmp(four, 32), colors
        for header in (108, 124):
            masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
            cases[f"alpha {name}, header of {header}"] = _bmp(four, 32, masks=masks, header=header), colors
    four = alpha << 24 | red << 16 | green << 8 | blue
    cases["alpha"] = _bmp(four, 32, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000), header=124), _on_white(colors, alpha)
    masks = (0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    four = alpha << 24 | blue << 16 | green << 8 | red
    cases["alpha, red first"] = _bmp(four, 32, masks=masks, header=56), _on_white(colors, alpha)
    cases["red first, no alpha"] = _bmp(four, 32, masks=(0xFF, 0xFF00, 0xFF0000, 0), header=56), colors
    cases["masks after the header"] = _bmp(red << 16 | green << 8 | blue, 32, masks=(0xFF0000, 0xFF00, 0xFF)), colors
    five = np.stack([red >> 3, green >> 3, blue >> 3], -1)
    packed = five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2]
    cases["16 bits"] = _bmp(packed, 16), five * 255 / 31
    cases["16 bits, 555"] = _bmp(packed, 16, masks=(0x7C00, 0x3E0, 0x1F)), five * 255 / 31
    packed = five[..., 0] << 11 | (green >> 2) << 5 | five[..., 2]
    right = np.stack([five[..., 0] * 255 / 31, (green >> 2) * 255 / 63, five[..., 2] * 255 / 31], -1)
    one = (alpha > 99).astype(int)
    whole = one << 15 | five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2]
    masks = (0x7C00, 0x3E0, 0x1F, 0x8000)
    cases["16 bits, alpha"] = _bmp(whole, 16, masks=masks, header=124), _on_white(five * 255 / 31, one * 255)
    cases["16 bits, no alpha written"] = _bmp(whole & 0x7FFF, 16, masks=masks, header=124), five * 255 / 31
    four = (alpha >> 4) << 12 | (red >> 4) << 8 | (green >> 4) << 4 | blue >> 4
    masks = (0xF00, 0xF0, 0xF, 0xF000)
    cases["16 bits, 4444"] = _bmp(four, 16, masks=masks, header=56), _on_white(colors // 16 * 17, alpha // 16 * 17)
    ten = red << 22 | green << 12 | blue << 2
    masks = (0x3FF00000, 0xFFC00, 0x3FF)
    cases["32 bits, 10 each"] = _bmp(ten, 32, masks=masks), colors * 4 * 255 / 1023
    cases["16 bits, 565"] = _bmp(packed, 16, masks=(0xF800, 0x7E0, 0x1F)), right
    return cases


@pytest.mark.parametrize("name", _bmp_cases())
@pytest.mark.parametrize("turned", [False, True])
def test_bmp(name, turned):
    data, right = _bmp_cases()[name]
    assert np.abs(_decoded(_top_down(data) if turned else data) - right).max() <= 1


# JPEG and WebP, which lose


def _lossy_cases() -> dict[str, bytes]:
    scene = _scene().repeat(3, 0).repeat(3, 1)
    rgb, grey = _image(scene), _image(scene[..., 0])
    rgba = _image(np.dstack([scene, scene[..., 1]]))
    cases = {}
    for progressive, subsampling in itertools.product((False, True), (0, 1, 2)):
        name = f"jpeg {'progressive ' * progressive}{subsampling}"
        cases[name] = _saved(rgb, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
    cases["jpeg grey"] = _saved(grey, "JPEG", quality=90)
    cases["jpeg stored as rgb"] = _saved(rgb, "JPEG", quality=90, keep_rgb=True)
    cases["jpeg restarts"] = _saved(rgb, "JPEG", quality=90, restart_marker_blocks=2)
    cases["webp"] = _saved(rgb, "WEBP", quality=90)
    cases["webp alpha"] = _saved(rgba, "WEBP", quality=90)
    cases["webp lossless"] = _saved(rgb, "WEBP", lossless=True)
    cases["webp lossless alpha"] = _saved(rgba, "WEBP", lossless=True, exact=True)
    cases["webp grey"] = _saved(grey.convert("RGB"), "WEBP", lossless=True)
    return cases


@pytest.mark.parametrize("name", _lossy_cases())
def test_jpeg_and_webp(name):
    data = _lossy_cases()[name]
    # The chroma of half resolution is smoothed in one of two ways.
    smoothed = name.startswith("webp") and "lossless" not in name
    assert np.abs(_decoded(data) - _vips(data)).max() <= (2 if smoothed else 1)


@pytest.mark.parametrize("at", [(0, 0), (6, 4)])
@pytest.mark.parametrize("alpha", [False, True])
def test_of_an_animated_webp_the_first_frame_is_shown_at_its_place(at, alpha):
    colors = _scene(4)
    still = _saved(_image(colors if alpha else colors[..., :3]), "WEBP", lossless=True, exact=True)
    start = still.index(b"VP8L")
    sides = (_WIDTH + 9, _HEIGHT + 5, at[0] // 2, at[1] // 2, _WIDTH - 1, _HEIGHT - 1)
    stated = [struct.pack("<I", side)[:3] for side in sides]
    frame = b"".join(stated[2:]) + bytes(4) + still[start:]
    chunks = [(b"VP8X", bytes([0x12, 0, 0, 0]) + stated[0] + stated[1]), (b"ANIM", bytes(6)), *[(b"ANMF", frame)] * 2]
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(data)) + data for kind, data in chunks)
    right = np.full((_HEIGHT + 6, _WIDTH + 10, 3), 255.0)
    shown = _on_white(colors[..., :3], colors[..., 3]) if alpha else colors[..., :3]
    right[at[1] : at[1] + _HEIGHT, at[0] : at[0] + _WIDTH] = shown
    data = b"RIFF" + struct.pack("<I", len(body)) + body
    assert np.abs(_decoded(data) - right).max() <= 1
    assert np.abs(_vips(data) - right).max() <= 1


@pytest.mark.parametrize("inks", list(itertools.product((0, 255), repeat=4))[:-1])
def test_cmyk_without_a_profile_is_mixed_plainly(inks):
    """By hand, as browsers do: libvips converts by a profile of printing inks, which are no plain colours."""
    data = _saved(Image.new("CMYK", (16, 16), inks), "JPEG", quality=95)
    right = (255 - np.array(inks[:3])) * (255 - inks[3]) / 255
    assert np.abs(_decoded(data) - right).max() <= 2


# The eight orientations


def _exif(value: int, kind: int = 3, order: str = "<") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    content = {3: f"{order}Hxx", 4: f"{order}I", 6: "bxxx", 8: f"{order}hxx", 9: f"{order}i", 13: f"{order}I"}[kind]
    entry = struct.pack(f"{order}HHI", 0x112, kind, 1) + struct.pack(content, value)
    return b"Exif\0\0" + mark + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


_XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def _right(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")).astype(int)


@pytest.mark.parametrize("value", range(0, 10))
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_orientation(value, order, form):
    image = _image(_scene())
    kinds = (3, 4, 6, 8, 9, 13)
    found = [_decoded(_saved(image, form, lossless=True, exif=_exif(value, kind, order))) for kind in kinds]
    data = _saved(image, form, lossless=True, exif=_exif(value, 3, order))
    for pixels in found:
        np.testing.assert_array_equal(pixels, _right(data))
    # libvips leaves the EXIF of a PNG alone.
    if form != "PNG":
        assert np.abs(found[0] - _vips(data)).max() <= 1


@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_stands_in_xmp_or_in_a_text_where_there_is_no_exif(value):
    image, packet = _image(_scene()), _XMP % value
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", packet.decode(), zip=value % 2 == 0)
    raw = PngImagePlugin.PngInfo()
    exif = _exif(value).hex()
    raw.add_text("Raw profile type exif", f"\nexif\n{len(exif) // 2:8}\n{exif}\n", zip=value % 2 == 0)
    cases = [
        _saved(image, "JPEG", xmp=packet),
        _saved(image, "WEBP", lossless=True, xmp=packet),
        _saved(image, "PNG", pnginfo=texts),
        _saved(image, "PNG", pnginfo=raw),
    ]
    for data in cases:
        np.testing.assert_array_equal(_decoded(data), _right(data))
    stated = _saved(image, "JPEG", xmp=packet, exif=_exif(1))
    assert _decoded(stated).shape == (_HEIGHT, _WIDTH, 3)


def test_orientation_behind_an_empty_block_of_exif_counts():
    data = _saved(_image(_scene()), "JPEG", exif=_exif(6))
    empty = b"Exif\0\0II*\0" + struct.pack("<IHI", 8, 0, 0)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(empty) + 2) + empty + data[2:]
    assert _decoded(data).shape == (_WIDTH, _HEIGHT, 3)


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        (1, b"\x06\0\0\0", 1),
        (2, b"6\0\0\0", 1),
        (3, b"\x06\0\x03\0", 6),
        (4, b"\x06\0\0\0", 6),
        (4, b"\x06\0\x01\0", 1),
        (6, b"\x06\0\0\0", 6),
        (7, b"\x06\0\0\0", 1),
        (8, b"\x06\0\0\0", 6),
        (9, b"\x06\0\0\0", 6),
        (9, b"\xfa\xff\xff\xff", 1),
        (11, struct.pack("<f", 6), 6),
        (13, b"\x06\0\0\0", 6),
        (99, b"\x06\0\0\0", 1),
    ],
)
def test_types_of_orientation_count_as_in_exif_transpose(kind, content, expected):
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 0x112, kind, 1) + content + bytes(4)
    assert orientation.find([exif]) == expected
    image = Image.new("RGB", (2, 3))
    image.info["exif"] = exif
    assert ImageOps.exif_transpose(image).size == ((3, 2) if expected == 6 else (2, 3))
