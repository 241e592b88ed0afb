"""Choices at random that depend on a seed and on what is chosen from, never on workers or their order."""

import numpy as np

# Constants of SplitMix64 (Steele, Lea, Flood 2014), which maps different numbers to different, unlike ones.
_GOLDEN, _MIX1, _MIX2 = (np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def drawn(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Returns a number for each of some int64 `[n]`, uint64 `[n]`: as if drawn by the seed, and different for each."""
    return _mixed(_mixed(np.array([seed], np.uint64) + _GOLDEN) ^ numbers.astype(np.uint64))


def _mixed(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * _MIX1
    values = (values ^ (values >> np.uint64(27))) * _MIX2
    return np.asarray(values ^ (values >> np.uint64(31)))


def least(groups: np.ndarray, numbers: np.ndarray, most: int) -> np.ndarray:
    """Returns the places of the `most` smallest numbers of each group, int64, ascending by group, then by number.

    Args:
        groups: whole numbers `[n]`.
        numbers: `[n]`, different ones within a group.
        most: places of a group, at least 1.
    """
    order = np.lexsort((numbers, groups))
    ordered = groups[order]
    return order[np.arange(len(order)) - np.searchsorted(ordered, ordered) < most]
