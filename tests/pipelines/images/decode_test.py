import io
import struct
import zlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from pipelines.images.decode import DecodeError, ImagePreprocess, Picture, decode, prepare

_LIMIT = 10_000


def _encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _gradient(width=40, height=30) -> Image.Image:
    x, y = np.meshgrid(np.arange(width) * 5, np.arange(height) * 7)
    return Image.fromarray(np.stack([x, y, x // 2 + y // 2], -1).astype(np.uint8))


def _decoded(data: bytes) -> Image.Image:
    return decode(data, _LIMIT).image


def _picture(image: Image.Image) -> Picture:
    return Picture(image, image.width, image.height, (0, 0, *image.size))


def _close(image: Image.Image, expected: Image.Image, tolerance: float) -> bool:
    difference = np.abs(np.asarray(image, float) - np.asarray(expected, float))
    return image.mode == "RGB" and image.size == expected.size and difference.mean() < tolerance


def test_lossless_pixels_are_kept():
    assert _close(_decoded(_encode(_gradient(), "PNG")), _gradient(), 1e-9)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_pixels_are_near(kind):
    assert _close(_decoded(_encode(_gradient(), kind, quality=95)), _gradient(), 4)


def test_cmyk_grey_and_palette_become_rgb():
    grey = _gradient().convert("L")
    assert _close(_decoded(_encode(grey, "PNG")), grey.convert("RGB"), 1e-9)
    assert _close(_decoded(_encode(_gradient().convert("CMYK"), "JPEG", quality=95)), _gradient(), 6)
    palette = _gradient().convert("P", palette=Image.Palette.ADAPTIVE)
    assert _close(_decoded(_encode(palette, "PNG")), palette.convert("RGB"), 1e-9)


def test_16_bit_grey_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    image = _decoded(_encode(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(np.asarray(image)[..., 0], ramp >> 8)


def test_transparency_is_laid_on_white():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(_decoded(_encode(image, "PNG"))).min() == 255


def test_exif_rotation_is_undone():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = _decoded(_encode(_gradient(), "JPEG", quality=95, exif=exif))
    assert _close(image, _gradient().transpose(Image.Transpose.ROTATE_270), 4)


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = _encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(_decoded(data))[0, 0].tolist() == [255, 0, 0]


def _png_bomb() -> bytes:
    """A few hundred bytes that claim 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "EmptyImage"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "CannotDecode"),
        (b"<!doctype html><p>404", "CannotDecode"),
        (_png_bomb(), "TooManyPixels"),
        (_encode(_gradient(), "JPEG")[:-200], "CannotDecode"),
        (_encode(_gradient(), "PNG")[:-60], "CannotDecode"),
        (_encode(_gradient(101, 100), "PNG"), "TooManyPixels"),
    ],
)
def test_unusable_bytes_say_why(data, reason):
    with pytest.raises(DecodeError) as error:
        decode(data, _LIMIT)
    assert error.value.reason == reason


@hypothesis.given(
    st.integers(0, 10_000),
    st.binary(min_size=1, max_size=8),
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF", "PPM"]),
)
@hypothesis.settings(deadline=None, max_examples=300)
def test_damaged_bytes_decode_or_raise_decode_error(place, noise, kind):
    data = bytearray(_encode(_gradient(), kind))
    place %= len(data)
    data[place : place + len(noise)] = noise
    try:
        image = _decoded(bytes(data))
    except DecodeError:
        return
    assert image.mode == "RGB" and image.width * image.height <= _LIMIT


def test_prepare_crops_the_centre():
    image = Image.new("RGB", (100, 50), "black")
    image.paste("white", (40, 15, 60, 35))
    array = prepare(_picture(image), ImagePreprocess(size=20, crop_fraction=0.4, resize="bicubic"))
    assert array.shape == (20, 20, 3) and array.dtype == np.uint8
    np.testing.assert_array_equal(array, 255)


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (7, 200)])
def test_prepare_equals_resizing_then_cropping(size):
    """The one-step crop against the usual two steps, which round the crop to whole pixels."""
    image = _gradient(*size)
    array = prepare(_picture(image), ImagePreprocess(size=28, crop_fraction=0.875, resize="bilinear"))
    scale = 32 / min(size)
    resized = image.resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - 28) // 2, (resized.height - 28) // 2
    expected = np.asarray(resized.crop((left, top, left + 28, top + 28)), float)
    assert np.abs(array - expected).mean() < 2.5


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (7, 200), (33, 32), (31, 97), (475, 303), (187, 187), (64, 81)])
@pytest.mark.parametrize(("side", "crop"), [(28, 28), (32, 28), (37, 28)])
def test_a_rounded_centre_is_that_of_two_steps(size, side, crop):
    """In one step as in the usual two, of whole pixels: the shorter side, then the longer one and the crop rounded."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    found = prepare(_picture(image), ImagePreprocess(crop, crop / side, "bicubic", "center_rounded"))
    resized = image.resize([side * length // min(size) for length in size], Image.Resampling.BICUBIC)
    left, top = (resized.width - crop) // 2, (resized.height - crop) // 2
    expected = np.asarray(resized.crop((left, top, left + crop, top + crop)))
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shorter", [55, 95, 97, 107, 187])
def test_prepare_keeps_the_whole_shorter_side_of_any_length(shorter):
    """Their quotients by 224 round to a side that is a little longer."""
    for size in ((shorter, 200), (200, shorter), (shorter, shorter)):
        assert prepare(_picture(Image.new("RGB", size)), ImagePreprocess(224)).shape == (224, 224, 3)


def test_old_descriptions_mean_what_they_meant():
    assert ImagePreprocess(size=224) == ImagePreprocess(224, 1.0, "bicubic", "center", None)
    ImagePreprocess(**{"size": 224, "crop_fraction": 0.875, "resize": "bicubic"}).check()


def test_squash_keeps_all_four_sides():
    image = Image.new("RGB", (90, 30), "black")
    for corner in ((0, 0, 30, 10), (60, 0, 90, 10), (0, 20, 30, 30), (60, 20, 90, 30)):
        image.paste("white", corner)
    array = prepare(_picture(image), ImagePreprocess(3, resize="area", crop="squash"))
    np.testing.assert_array_equal(array[..., 0], [[255, 0, 255], [0, 0, 0], [255, 0, 255]])


def test_area_is_the_mean_of_the_pixels_covered():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    array = prepare(_picture(Image.fromarray(pixels)), ImagePreprocess(8, resize="area", crop="squash"))
    means = pixels.reshape(8, 4, 8, 6, 3).mean((1, 3))
    assert np.abs(array - means).max() <= 1


def _lanczos(samples: np.ndarray, size: int) -> np.ndarray:
    """Resizes the first axis by the windowed sinc of 3 lobes, widened by the scale; float64."""
    scale = len(samples) / size
    distance = ((np.arange(size)[:, None] + 0.5) * scale - np.arange(len(samples)) - 0.5) / scale
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    return np.tensordot(weights / weights.sum(1, keepdims=True), samples, 1)


def test_lanczos_is_the_windowed_sinc():
    pixels = np.random.default_rng(0).integers(60, 190, (40, 40, 3), np.uint8)
    array = prepare(_picture(Image.fromarray(pixels)), ImagePreprocess(16, resize="lanczos"))
    expected = _lanczos(_lanczos(pixels.astype(float), 16).swapaxes(0, 1), 16).swapaxes(0, 1)
    assert np.abs(array - expected).max() < 1.6


def test_value_range_scales_to_float32():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    scaled = ImagePreprocess(16, value_range=(-1, 1)).scale(pixels)
    assert scaled.dtype == np.float32 and scaled.shape == pixels.shape
    expected = (pixels.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)
    np.testing.assert_array_max_ulp(scaled, expected, 1)
    unit = ImagePreprocess(16, value_range=[0.0, 1.0])
    assert unit.value_range == (0.0, 1.0)
    np.testing.assert_array_max_ulp(unit.scale(pixels), pixels / np.float32(255), 1)
    assert ImagePreprocess(16).scale(pixels) is pixels


def test_mean_std_and_layout_are_those_of_each_channel():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    expected = (pixels / 255 - mean) / std
    last = ImagePreprocess(16, value_range=[0, 1], mean=mean, std=std)
    last.check()
    np.testing.assert_allclose(last.scale(pixels), expected, rtol=1e-6, atol=1e-6)
    first = ImagePreprocess(16, value_range=[0, 1], mean=mean, std=std, layout="channels_first").scale(pixels)
    assert first.dtype == np.float32 and first.flags.c_contiguous
    np.testing.assert_array_equal(first, last.scale(pixels).transpose(0, 3, 1, 2))
    raw = ImagePreprocess(16, layout="channels_first").scale(pixels)
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw, pixels.transpose(0, 3, 1, 2))
    centred = ImagePreprocess(16, value_range=[0, 255], mean=[1, 2, 3]).scale(pixels)
    np.testing.assert_array_equal(centred, pixels - np.float32([1, 2, 3]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 0}, "'size' must be 1 to 4096"),
        ({"size": True}, "'size' must be 1 to 4096"),
        ({"size": "224"}, "'size' must be 1 to 4096"),
        ({"crop_fraction": 0}, "'crop_fraction' must be more than 0"),
        ({"crop_fraction": float("nan")}, "'crop_fraction' must be more than 0"),
        ({"crop_fraction": 1e-9}, "'size' over 'crop_fraction' must be at most"),
        ({"resize": "nearest"}, "'resize' must be one of bicubic, bilinear, lanczos, area"),
        ({"resize": ["area"]}, "'resize' must be one of bicubic"),
        ({"crop": "pad"}, "'crop' must be one of center, center_rounded, squash"),
        ({"crop": "squash", "crop_fraction": 0.875}, "'crop_fraction' must be 1 where 'crop' is squash"),
        ({"value_range": [1, -1]}, r"'value_range' must be null or two numbers, \[low, high\]"),
        ({"value_range": [0, 1, 2]}, "'value_range' must be null"),
        ({"value_range": [False, True]}, "'value_range' must be null"),
        ({"value_range": [0, float("inf")]}, "'value_range' must be null"),
        ({"value_range": "01"}, "'value_range' must be null"),
        ({"value_range": 255}, "'value_range' must be null"),
        ({"mean": [0.5, 0.5, 0.5]}, "'mean' is of values in 'value_range'; set that"),
        ({"std": [0.5, 0.5], "value_range": [0, 1]}, "'std' must be null or three numbers"),
        ({"std": [0.5, 0.5, 0], "value_range": [0, 1]}, "'std' must be three numbers above 0"),
        ({"layout": "NCHW"}, "'layout' must be one of channels_last, channels_first"),
    ],
)
def test_wrong_fields_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        ImagePreprocess(**{"size": 224, **change}).check()
