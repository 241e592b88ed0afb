"""Training, validation and test set: which names say so, what is cut where they are missing, and groups of classes."""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

from configs.schema.data import SPLITS

_WORDS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# What may stand beside such a word in the name of a folder: `train2017`, `test_set`, `images_val`.
_BESIDE = ("set", "data", "dataset", "split", "images", "image", "imgs", "img", "photos", "pictures", "folder")
# Shares that are tried for each split that is cut out.
_SHARES = (0.1, 0.15, 0.2, 0.24)
_ENOUGH, _LEAST = 0.9, 5


def of_folder(name: str) -> str:
    """Returns the split that a folder's name is, such as `val` for `Validation` and `val2017`; empty if it is none."""
    named = {_split(word) for word in _words(name) if word not in _BESIDE and not word.isdigit()}
    return named.pop() if len(named) == 1 else ""


def of_folders(names: Iterable[str]) -> dict[str, str]:
    """Returns the splits of those folders that are some, by name: `train` and `val`, or `cars_train` and `cars_test`.

    Names with other words beside that of the split are taken only if they share these and name several splits.
    """
    every = list(names)
    plain = {name: split for name in every if (split := of_folder(name))}
    if "train" in plain.values():
        return plain
    alike: dict[tuple[str, ...], dict[str, str]] = {}
    for name in every:
        words = [word for word in _words(name) if word not in _BESIDE and not word.isdigit()]
        found = {split for word in words if (split := _split(word))}
        if len(found) == 1:
            alike.setdefault(tuple(word for word in words if not _split(word)), {})[name] = found.pop()
    return next((one for one in alike.values() if "train" in one.values() and len({*one.values()}) > 1), {})


def of_file(name: str) -> tuple[str, bool]:
    """Returns the split that a file's name has a word for, if any, and whether that word ends the name.

    `ImageNet_LT_train.txt` and `instances_train2017.json` are of train, and end with it; `train_noisy.txt` does not.
    What is of train and val is of train.
    """
    words = _words(name.partition(".")[0])
    found = [split for word in words if (split := _split(word))]
    if {"train", "val"} == {*found}:
        return "train", _split(words[-1]) != ""
    return (found[-1], _split(words[-1]) == found[-1]) if found else ("", False)


def _words(name: str) -> list[str]:
    """Returns the words of a name, also those of `TrainImages`, in lower case, without the digits at their ends."""
    words = (word.lower() for word in re.split(r"[\W_]+|(?<=[a-z0-9])(?=[A-Z])", name))
    return [word.rstrip("0123456789") or word for word in words if word]


def _split(word: str) -> str:
    return next((split for split, words in _WORDS.items() if word in words), "")


@dataclasses.dataclass(frozen=True)
class Cut:
    """Parts of each class for the splits that are cut out of one source.

    Attributes:
        parts: of each split, from and to as shares, as `Source.part` has them.
        whole: classes with images in every split, among those that are large enough to choose by.
        untested: classes without an image in the splits that are cut out.
    """

    parts: dict[str, tuple[float, float]]
    whole: int
    untested: int


def rows_of(count: int, part: Sequence[float]) -> int:
    """Returns how many of a class's images a part has (`pipelines.sources.parts`)."""
    begin, end = (math.floor(share * count + 0.5) for share in part)
    return end - begin


def cut(counts: Iterable[int], missing: Sequence[str]) -> Cut:
    """Returns the parts of train and of the missing splits: the smallest shares at which nearly all classes are in all.

    Classes of fewer than five images count only if there are no others. No class is left without a training image.

    Args:
        counts: images of each class.
        missing: splits that are cut out of the training set, not empty.
    """
    sizes = [count for count in counts if count]
    # Smaller classes would take too many images from the others.
    wanted = [size for size in sizes if size >= _LEAST] or sizes
    best: Cut | None = None
    for share in _SHARES:
        bounds = [round(place * share, 2) for place in range(len(missing) + 1)]
        parts = dict(zip(missing, zip(bounds, bounds[1:], strict=False), strict=True))
        parts["train"] = (bounds[-1], 1.0)
        if any(rows_of(size, parts["train"]) == 0 for size in sizes):
            continue
        whole = sum(all(rows_of(size, part) for part in parts.values()) for size in wanted)
        untested = sum(not all(rows_of(size, parts[split]) for split in missing) for size in sizes)
        if best is None or whole > best.whole:
            best = Cut(parts, whole, untested)
        if whole >= _ENOUGH * len(wanted):
            break
    assert best is not None, "the smallest share leaves every class a training image"
    return dataclasses.replace(best, parts={split: best.parts[split] for split in SPLITS if split in best.parts})
