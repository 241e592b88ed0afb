"""Pictures that show a turn, a shift or a swapped channel, and how they are decoded, here and by libvips."""

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.images.decode import decode

WIDTH, HEIGHT = 23, 17


def scene(channels: int = 3, levels: int = 256) -> np.ndarray:
    """Smooth bands without symmetry [H, W, channels]."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / [[[HEIGHT]], [[WIDTH]]]
    bands = [x, y, (np.sin(5 * x) * np.cos(4 * y) + 1) / 2, (x + 2 * y) / 3]
    if channels == 2:
        bands = [bands[2], bands[3]]
    return np.floor(np.stack(bands[:channels], -1) * levels).astype(np.int64)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, 1_000_000).image).astype(int)


def on_white(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours [H, W, 3] and alpha [H, W], 0 to 255, on white."""
    share = alpha[..., None] / 255
    return colors * share + 255 * (1 - share)


def alike(found: np.ndarray, right: np.ndarray, most: int = 1) -> bool:
    return found.shape == right.shape and np.abs(found - right.astype(float)).max() <= most


def vips(data: bytes) -> np.ndarray:
    """The pixels that libvips shows, on white, upright."""
    pyvips = pytest.importorskip("pyvips", exc_type=ImportError)
    image = pyvips.Image.new_from_buffer(data, "", access="random").autorot()
    pixels = image.numpy().astype(float)
    pixels = pixels // 256 if image.format == "ushort" else pixels
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    alpha = pixels[..., -1] if pixels.shape[-1] in (2, 4) else np.full(pixels.shape[:2], 255)
    colors = pixels[..., :3] if pixels.shape[-1] > 2 else pixels[..., :1] + np.zeros(3)
    return on_white(colors, alpha)
