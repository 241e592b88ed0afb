"""A picture that the caller has opened with Pillow is what its file is."""

import io

import numpy as np
import pytest
from PIL import Image

from configs.base import Embed
from model.recognition import pictures
from pipelines.images.decode import ImagePreprocess


def _grey16() -> Image.Image:
    return Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))


def _transparent(mode: str) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


@pytest.mark.parametrize("form", ["PNG", "BMP"])
@pytest.mark.parametrize(
    "image",
    [_grey16(), _transparent("RGBA"), _transparent("LA"), _transparent("P"), _transparent("L"), _transparent("RGB")],
    ids=lambda image: image.mode,
)
def test_is_read_as_its_file_is(form, image):
    file, preprocess = io.BytesIO(), ImagePreprocess(size=16, crop_fraction=1.0)
    try:
        image.save(file, form)
    except OSError:
        pytest.skip(f"{form} has no {image.mode}")
    from_bytes = pictures.read(file.getvalue(), "x", preprocess, Embed())
    with Image.open(file) as opened:
        from_pillow = pictures.read(opened, "x", preprocess, Embed())
    np.testing.assert_array_equal(from_pillow.pixels, from_bytes.pixels)


def test_a_16_bit_grey_keeps_its_shades():
    found = pictures.read(_grey16(), "x", ImagePreprocess(size=16, crop_fraction=1.0), Embed())
    np.testing.assert_array_equal(found.pixels[..., 0], np.arange(256).reshape(16, 16))
