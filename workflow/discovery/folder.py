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
        links: names of links to folders, which are not followed.
        is_named: whether one file of it was named, and is the only one in `files`.
    """

    path: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    links: tuple[str, ...] = ()
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
            kinds = {entry.name: _kind(entry) for entry in itertools.islice(entries, MOST_ENTRIES)}
    else:
        kinds = {entry.name: entry.kind for entry in storage.entries(path)}
    shown: dict[str, list[str]] = {"file": [], "folder": [], "link": []}
    for name in sorted(kinds):
        if kinds[name] and not name.startswith(".") and (kinds[name] == "file" or not is_system_folder(name)):
            shown[kinds[name]].append(name)
    return Folder(path, tuple(shown["file"]), tuple(shown["folder"]), tuple(shown["link"]))


def _kind(entry: "os.DirEntry[str]") -> str:
    """Returns what an entry is, as `storage.entries` says it; empty for pipes and their like."""
    if entry.is_dir():
        return "link" if entry.is_symlink() else "folder"
    return "file" if entry.is_file() else ""


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
