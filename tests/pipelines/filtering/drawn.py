"""Pictures with details of all sizes, as photographs have, drawn from a seed; and edits as the web makes them."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from pipelines.images import decode, thumbnail


def picture(seed: int, width: int = 160, height: int = 120, layout: int | None = None) -> Image.Image:
    """Returns noise of several scales; pictures of the same `layout` share the two coarsest: look-alikes."""
    own, shared = np.random.default_rng(seed), np.random.default_rng(seed if layout is None else layout)
    grey = np.zeros((height, width, 3))
    for place, cells in enumerate((3, 6, 12, 24, 48)):
        rng = shared if place < 2 else own
        noise = rng.integers(0, 256, (cells, cells, 3), np.uint8)
        grey += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)) / (1 + place)
    return Image.fromarray((255 * (grey - grey.min()) / np.ptp(grey)).astype(np.uint8))


def encoded(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def small(image: Image.Image, quality: int = 90) -> bytes:
    """Returns the thumbnail of a picture once it was encoded."""
    return thumbnail.make(decode.decode(encoded(image, quality), 10_000_000))


def _cut(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))


EDITS = {
    "encoded again": lambda image: image,
    "mirrored": ImageOps.mirror,
    "halved": lambda image: image.resize((image.width // 2, image.height // 2)),
    "enlarged": lambda image: image.resize((2 * image.width, 2 * image.height)),
    "squeezed": lambda image: image.resize((image.height, image.height)),
    "cut to 90 %": lambda image: _cut(image, 0.1, 0, 1, 0.9),
    "cut to 75 %": lambda image: _cut(image, 0.2, 0.1, 0.95, 0.85),
    "cut to 62 %": lambda image: _cut(image, 0.3, 0.2, 0.92, 0.82),
    "cut on one side": lambda image: _cut(image, 0, 0, 0.75, 1),
    "mirrored and cut": lambda image: _cut(ImageOps.mirror(image), 0.05, 0.1, 0.85, 0.9),
    "framed": lambda image: ImageOps.expand(image, image.width // 12, "white"),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.75),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "greyer": lambda image: ImageEnhance.Color(image).enhance(0.3),
}


def drawing(sides: int, color: str) -> Image.Image:
    """Returns a polygon on a white ground, as vendors of icons draw the same thing."""
    image = Image.new("RGB", (160, 160), "white")
    ImageDraw.Draw(image).regular_polygon((80, 80, 60), sides, fill=color, outline="black")
    return image
