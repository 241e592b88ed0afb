"""A folder as it is seen before anything is known of it: bounded, so that a huge one is not listed to its end."""

import dataclasses
import itertools
import os
from collections import Counter

from pipelines import storage
from pipelines.images.suffixes import is_image
from pipelines.sources.lists.image_folder import is_system_folder
from pipelines.sources.sample import count_passed_over

MOST_ENTRIES = 200_000


@dataclasses.dataclass(frozen=True)
class Folder:
    """What a folder holds, without hidden files and system folders; at most `MOST_ENTRIES`.

    Attributes:
        path: of the folder.
        files: names of its files, sorted.
        folders: names of its folders, sorted.
        is_named: whether one file of it was named, and is the only one in `files`.
    """

    path: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    is_named: bool = False
    _inner: dict[str, "Folder"] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def images(self) -> int:
        """Number of its files with the suffix of an image."""
        return sum(map(is_image, self.files))

    def inner(self, name: str) -> "Folder":
        """Looks at a folder in it, once."""
        if name not in self._inner:
            self._inner[name] = look(storage.join(self.path, name))
        return self._inner[name]


def look(path: str) -> Folder:
    """Looks at a folder; one that does not exist is empty."""
    local = storage.local_path(path)
    if local is not None and os.path.isdir(local):
        with os.scandir(local) as entries:
            some = list(itertools.islice(entries, MOST_ENTRIES))
        kinds = {entry.name: entry.is_dir(follow_symlinks=False) for entry in some if entry.is_file() or entry.is_dir()}
    else:
        kinds = {entry.name: entry.kind == "folder" for entry in storage.entries(path) if entry.kind != "link"}
    shown = sorted(name for name in kinds if not name.startswith("."))
    folders = tuple(name for name in shown if kinds[name] and not is_system_folder(name))
    return Folder(path, tuple(name for name in shown if not kinds[name]), folders)


def suffixes(path: str) -> tuple[Counter[str], bool]:
    """Returns the files below a folder by suffix, and whether it stopped after `MOST_ENTRIES` of them."""
    counts: Counter[str] = Counter()
    waiting = [path]
    while waiting:
        folder = look(waiting.pop())
        for name in folder.files:
            count_passed_over(counts, name)
        if counts.total() >= MOST_ENTRIES or len(waiting) > MOST_ENTRIES:
            return counts, True
        waiting += [storage.join(folder.path, name) for name in folder.folders]
    return counts, False
