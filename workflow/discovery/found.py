"""What a folder is found to be, and how its files are shared out over the splits."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable

from configs.base import Source
from pipelines.errors import UserError
from pipelines.sources import patterns
from workflow.discovery import splits
from workflow.discovery.folder import Folder

MOST_NAMED = 8


@dataclasses.dataclass(frozen=True)
class Found:
    """Sources of one format.

    Attributes:
        name: of the format, for people.
        splits: the source of each split, with whole paths; the one of `train` alone may be all there is.
        class_names: file with the names of the classes, if there is one.
        notes: what was ambiguous, and what was chosen.
        has_images: whether images that a list names were found.
    """

    name: str
    splits: dict[str, Source]
    class_names: str = ""
    notes: tuple[str, ...] = ()
    has_images: bool = True


Find = Callable[[Folder], Found | None]


def by_split(files: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the files of each split, and those of none. Those of none are of train if no others are.

    Raises:
        UserError: if there are files of val and of test, and none that could be of train.
    """
    named: dict[str, list[str]] = {}
    for file in files:
        named.setdefault(splits.of_file(file)[0], []).append(file)
    others = named.pop("", [])
    if "train" in named:
        return named, others
    if others:
        return {"train": others, **named}, []
    if len(named) > 1:
        raise UserError(f"{quoted(sum(named.values(), []))}: none of these is of train")
    return {"train": sum(named.values(), [])}, []


def pattern(path: str, names: list[str], everything: list[str], least: int = 2) -> str:
    """Returns a pattern for some of the files of a folder: by what their names share, or each by its name.

    Args:
        path: of the folder.
        names: of the files.
        everything: names of all its files.
        least: how many files make a pattern; of fewer, each is named.
    """
    place = patterns.quote(path.rstrip("/")) + "/"
    end = os.path.splitext(names[0])[1]
    # What one name shares with itself is all of it.
    for begin in ("", os.path.commonprefix(names))[: len(names)]:
        fits = [name for name in everything if name.startswith(begin) and name.endswith(end)]
        if len(names) >= least and end and sorted(fits) == sorted(names):
            return f"{place}{patterns.quote(begin)}*{patterns.quote(end)}"
    return ",".join(place + patterns.quote(name) for name in names)


def quoted(names: Iterable[str]) -> str:
    """Returns some names for people, the first of many."""
    return ", ".join(map(repr, itertools.islice(names, MOST_NAMED)))


def not_read(names: Iterable[str], kind: str = "") -> list[str]:
    """Returns notes on some files or folders that are not read, and one on how many more there are."""
    every = list(names)
    said = [f"not read: {kind}{name!r}" for name in every[:MOST_NAMED]]
    return said + ([f"not read: {len(every) - MOST_NAMED:,} more such as these"] if len(every) > MOST_NAMED else [])


def is_beside(file: str, inside: Folder) -> bool:
    """Tells whether a table belongs to a tar, a folder or vectors, with which it is read."""
    stem, suffix = os.path.splitext(file)
    return suffix == ".parquet" and (
        any(f"{stem}{tar}" in inside.files for tar in (".tar", ".tgz", ".tar.gz"))
        or stem in inside.folders
        or f"{stem.replace('metadata', 'img_emb')}.npy" in inside.files
    )
