"""Three pictures drawn by code and three texts, which are alike and unlike in known ways."""

import numpy as np
from PIL import Image

from pipelines.images import decode
from pipelines.images.decode import ImagePreprocess

_SIDE = 256
TEXTS = {
    "a red ball": "a photo of a red ball on the grass",
    "a red balloon": "a red balloon floats above a green meadow",
    "a tax form": "the deadline for the tax return of a company",
}


def pictures(preprocess: ImagePreprocess) -> dict[str, np.ndarray]:
    """Returns the pictures by what they show, prepared as uint8 `[size, size, 3]`."""
    down, across = np.mgrid[:_SIDE, :_SIDE] / _SIDE
    green = np.broadcast_to(np.array([90, 170, 70]), (_SIDE, _SIDE, 3))
    red, blue, white = np.array([210, 40, 40]), np.array([30, 60, 160]), np.array([245, 245, 245])
    disc = np.hypot(down - 0.5, across - 0.5) < 0.3
    oval = np.hypot(1.6 * (down - 0.45), across - 0.55) < 0.35
    stripes = np.floor(8 * across) % 2 == 0
    drawn = {
        "a red disc on green": np.where(disc[..., None], red, green),
        "a red oval on green": np.where(oval[..., None], red, green),
        "blue and white stripes": np.where(stripes[..., None], blue, white),
    }
    found = {}
    for name, pixels in drawn.items():
        image = Image.fromarray(pixels.astype(np.uint8))
        found[name] = decode.prepare(decode.Picture(image, _SIDE, _SIDE, (0, 0, _SIDE, _SIDE)), preprocess)
    return found
