"""Rows of a class beyond so many, by the names in their captions: what balances a memory, as MetaCLIP does.

A class keeps the rows with the smallest of its numbers that the seed draws (`drawing`). A row that names several
classes stays if one of them keeps it, so that of a class that others name along, more may stay.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from pipelines import drawing
from pipelines.mentions import Names

# A class, and the number of one of its rows.
_DRAW = np.dtype([("label", "<i4"), ("number", "<u8")])


def merge(parts: Iterable[bytes], most: int) -> bytes:
    """Returns what each class keeps, packed, of what it kept of parts, in any order; at most `most` of each."""
    draws = np.frombuffer(b"".join(parts), _DRAW)
    return draws[drawing.least(draws["label"], draws["number"], most)].tobytes()


class Surplus:
    """Finds the rows that no class keeps. Rows that name no class are none of them."""

    def __init__(self, names: Sequence[str], most: int, seed: int) -> None:
        """Prepares the choice of at most `most` rows of each of C classes."""
        self._names, self._most, self._seed = Names(names), most, seed

    def kept(self, ids: np.ndarray, captions: Sequence[str | None]) -> bytes:
        """Returns what each class would keep of some rows, packed; arguments as of `surplus`."""
        numbers, rows, labels = self._matches(ids, captions)
        draws = np.empty(len(rows), _DRAW)
        draws["label"], draws["number"] = labels, numbers[rows]
        return merge([draws.tobytes()], self._most)

    def bounds(self, kept: bytes) -> np.ndarray:
        """Returns the largest number that each class keeps, uint64 `[C]`, given what it keeps of all rows."""
        draws = np.frombuffer(kept, _DRAW)
        largest = np.zeros(self._names.classes, np.uint64)
        np.maximum.at(largest, draws["label"], draws["number"])
        return largest

    def surplus(self, ids: np.ndarray, captions: Sequence[str | None], bounds: np.ndarray) -> np.ndarray:
        """Tells which rows name a class and are kept by none, bool `[n]`.

        Args:
            ids: int64 `[n]`.
            captions: of the n rows.
            bounds: of all classes.
        """
        numbers, rows, labels = self._matches(ids, captions)
        named, stays = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
        named[rows] = True
        stays[rows[numbers[rows] <= bounds[labels]]] = True
        return np.asarray(named & ~stays)

    def _matches(self, ids: np.ndarray, captions: Sequence[str | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the numbers of the rows, and for each match the place of its row and the class, int64 `[m]`."""
        classes = [self._names.classes_of(self._names.find(caption)) if caption else [] for caption in captions]
        rows = np.repeat(np.arange(len(ids)), [len(found) for found in classes])
        labels = np.array([label for found in classes for label in found], np.int64)
        return drawing.drawn(ids, self._seed), rows, labels
