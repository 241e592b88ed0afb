"""Weights that are drawn by NumPy, the same here and where the reference outputs were made."""

import zlib

import numpy as np


def draw(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Returns arrays of the given shapes; scales of norms are near 1, other values near 0."""
    found = {}
    for name, shape in shapes.items():
        values = np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.15, shape)
        is_scale = name.endswith(".weight") and len(shape) == 1
        found[name] = np.asarray(values + is_scale, np.float32)
    return found


def images(count: int, size: int) -> np.ndarray:
    """Returns images of noise, uint8 `[count, size, size, 3]`."""
    return np.random.default_rng(size).integers(0, 256, (count, size, size, 3), np.uint8)
