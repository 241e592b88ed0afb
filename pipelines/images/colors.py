"""Decoded pixels of any mode to RGB on white, as browsers show them.

Works on a few rows at a time, so that beside the decoded image and the result there is little in memory.
"""

import io

import numpy as np
from PIL import Image, ImageChops

from pipelines.images.formats.bare import Bare

_STRIP_PIXELS = 1 << 18
# Pillow stretches greys of fewer than 8 bits: a value in the file times this is the value in the image.
_SCALES = {1: 255, 2: 85, 4: 17, 8: 1}


def to_rgb(image: Image.Image, encoded: Bare) -> Image.Image:
    """Returns a decoded image as RGB, on white where it is transparent or does not cover its canvas.

    Args:
        image: that `encoded` was decoded to, in any mode.
        encoded: which colour is transparent, and where the image is on the canvas.
    """
    if _has_no_alpha(image):
        image = image.convert("RGB")
    is_plain = not (encoded.canvas or encoded.hidden or image.has_transparency_data)
    if is_plain and not image.mode.startswith("I"):
        # `convert` copies even if there is nothing to convert.
        return image if image.mode == "RGB" else image.convert("RGB")
    low = _low_bytes(encoded) if encoded.hidden and len(encoded.hidden) == 3 and encoded.depth == 16 else None
    out = Image.new("RGB", encoded.canvas or image.size, "white")
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        strip = _on_white(image.crop(box), encoded, low.crop(box) if low else None)
        out.paste(strip, (encoded.left, encoded.top + top))
    return out


def _has_no_alpha(image: Image.Image) -> bool:
    """Tells whether a BMP claims an alpha channel that was never written: screen grabs leave all of it 0."""
    return image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def _low_bytes(encoded: Bare) -> Image.Image:
    """Returns the low bytes of a PNG of 16-bit colours, of which Pillow decodes only the high ones."""
    with Image.open(io.BytesIO(encoded.data), formats=("PNG",)) as image:
        # What is the low byte of these samples is the high one of samples with the other order of bytes.
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        image.load()
    return image


def _on_white(strip: Image.Image, encoded: Bare, low: Image.Image | None) -> Image.Image:
    hits = _hits(strip, encoded, low) if encoded.hidden else None
    if strip.mode.startswith("I"):
        # Pillow clips 16-bit greys at 255 instead of scaling them.
        strip = Image.fromarray((np.asarray(strip).astype(np.uint32) >> 8).astype(np.uint8))
        strip = ImageChops.invert(strip) if encoded.inverted else strip
    if encoded.premultiplied:
        *colors, alpha = strip.convert("RGBA").split()
        return Image.merge("RGB", [ImageChops.add(color, ImageChops.invert(alpha)) for color in colors])
    if strip.has_transparency_data:
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip.convert("RGBA"))
    strip = strip.convert("RGB")
    if hits is not None:
        strip.paste("white", mask=Image.fromarray(hits))
    return strip


def _hits(strip: Image.Image, encoded: Bare, low: Image.Image | None) -> np.ndarray:
    """Returns which pixels have exactly the colour that is transparent, bool `[H, W]`."""
    color = np.array(encoded.hidden)
    if len(color) == 1:
        values = np.asarray(strip if encoded.depth == 16 else strip.convert("L"))
        return values == color[0] * _SCALES.get(encoded.depth, 1)
    if low is None:
        return (np.asarray(strip) == color).all(axis=-1)
    return (np.asarray(strip) == color >> 8).all(axis=-1) & (np.asarray(low) == color & 255).all(axis=-1)
