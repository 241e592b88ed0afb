"""Positions of a Vision Transformer for another grid, by bicubic interpolation as PyTorch's `interpolate` does it."""

import math

import numpy as np

# Of the cubic kernel; PyTorch has another one where it smooths before it reduces.
_SHARP, _SMOOTH = -0.75, -0.5


def resize(positions: np.ndarray, grid: int, antialias: bool) -> np.ndarray:
    """Returns the positions of another grid.

    Args:
        positions: float32 `[1 + N, C]`, the class token's and those of a square of patches.
        grid: patches along each side of the new square.
        antialias: whether a smaller grid is smoothed first.
    """
    patches = positions[1:]
    side = math.isqrt(len(patches))
    if side == grid:
        return positions
    weights = _weights(side, grid, antialias)
    square = patches.reshape(side, side, -1).astype(np.float64)
    resized = np.einsum("ai,bj,ijc->abc", weights, weights, square, optimize=True)
    return np.concatenate([positions[:1], resized.reshape(grid * grid, -1).astype(np.float32)])


def _weights(old: int, new: int, antialias: bool) -> np.ndarray:
    """Returns the weight of each old place for each new one, float64 `[new, old]`."""
    scale = old / new
    stretch = max(scale, 1.0) if antialias else 1.0
    found = np.zeros((new, old))
    for place in range(new):
        center = (place + 0.5) * scale - 0.5
        first, last = math.floor(center - 2 * stretch) + 1, math.ceil(center + 2 * stretch) - 1
        steps = np.arange(first, last + 1)
        values = _cubic(np.abs(steps - center) / stretch, _SMOOTH if antialias else _SHARP)
        if antialias:
            # What is outside does not count.
            inside = (steps >= 0) & (steps < old)
            steps, values = steps[inside], values[inside]
            values = values / values.sum()
        # Otherwise the border is repeated.
        np.add.at(found[place], np.clip(steps, 0, old - 1), values)
    return found


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))
