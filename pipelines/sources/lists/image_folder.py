"""A folder of images with a folder for each class, as `torchvision.datasets.ImageFolder` reads it.

`root/cat/x.jpg` and `root/cat/deeper/y.jpg` are of class `cat`; with `class_level=2` the latter is of `cat/deeper`, and
with `class_level=0` an image is of the class of the folder that it is in. The class's name is the caption, so that such
a folder is a memory with texts, unless the source has `class_names`; it is also in the metadata, as `class`. Images in
the root itself have neither label nor caption. With `fields=caption=txt` the caption of `x.jpg` is the text of `x.txt`
beside it, where there is one, and no other. `naming` says how names are numbered. A table of Hugging Face beside the
images replaces what folders say (`folder_metadata`).
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from configs.base import Source
from pipelines import storage
from pipelines.errors import UserError
from pipelines.images.suffixes import is_image
from pipelines.progress import counted
from pipelines.sources import labels
from pipelines.sources.listing import Row
from pipelines.sources.lists import folder_metadata, table
from pipelines.sources.naming import Naming
from pipelines.sources.sample import MAX_TEXT_BYTES, count_passed_over

# Folders that systems and programs leave beside the user's own, in lower case; hidden ones are system folders, too.
_SYSTEM = re.compile(
    r"\..*|@eadir|@tmp|@recycle|@recently-snapshot|#recycle|#snapshot|__macosx|__pycache__|\$recycle\.bin|recycler"
    r"|system volume information|lost\+found|found\.\d+|network trash folder|temporary items"
)
_MOST_NAMED = 5


def is_system_folder(name: str) -> bool:
    """Tells whether a folder is not the user's own: `@eaDir`, `__MACOSX`, `.thumbnails` and their like."""
    return bool(_SYSTEM.fullmatch(name.lower()))


def rows(source: Source) -> Iterator[Row]:
    """Yields a row for each image: those of the root, then folder by folder, in the order of their names.

    The label is the class's name. Files without the suffix of an image, names that begin with a dot (`passed_over`),
    and system folders are skipped. A folder that is a link is not entered; it is yielded itself, so that it becomes a
    reject.

    Raises:
        UserError: if an image is in no folder of the level that the source says, and as `folder_metadata.find`.
    """
    if described := folder_metadata.find(source):
        yield from folder_metadata.rows(described)
        return
    if not source.fields:
        yield from _by_folder(source)
        return
    suffix, found = _text_suffix(source), False
    for row in _by_folder(source):
        row = _with_text(source, suffix, row)
        found |= bool(row.problem or row.fields["caption"])
        yield row
    if not found:
        raise UserError(
            f"{source.path}: no image has a {suffix} beside it, as fields={source.fields[0]} asks, and there is no "
            f"{' or '.join(folder_metadata.NAMES)}"
        )


def _by_folder(source: Source) -> Iterator[Row]:
    """Yields a row for each image, with what the folders say."""
    entries = _wanted(storage.entries(source.image_root))
    yield from (Row(entry.name) for entry in entries if entry.kind == "file" and is_image(entry.name))
    for top in (entry for entry in entries if entry.kind != "file"):
        known: dict[str, dict[str, Any]] = {}
        for path in [top.name] if top.kind == "link" else _images(source.image_root, top.name):
            folder = path.rpartition("/")[0] or path
            if folder not in known:
                known[folder] = _fields(source, folder)
            yield Row(path, known[folder])


def _text_suffix(source: Source) -> str:
    """Returns the suffix of the texts beside the images; empty if they are not read."""
    named = [re.fullmatch(r"caption=\.?(\w+)", field) for field in source.fields]
    if len(named) > 1 or not all(named):
        raise UserError(
            f"{source.path}: has no {' or '.join(folder_metadata.NAMES)}, so 'fields' can only say which files beside "
            "the images are their captions, as in caption=txt"
        )
    return "".join(f".{found[1].lower()}" for found in named if found)


def _with_text(source: Source, suffix: str, row: Row) -> Row:
    """Returns a row with the text of the file beside its image as its caption; without one if there is no such file."""
    uri = storage.join(source.image_root, os.path.splitext(row.member)[0] + suffix)
    try:
        with storage.open_read(uri) as file:
            content = file.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            return Row(row.member, problem=f"{uri}: is larger than {MAX_TEXT_BYTES:,} bytes")
        text = content.decode("utf-8-sig").strip()
    except storage.MissingFile:
        text = ""
    except (UserError, UnicodeDecodeError) as error:
        return Row(row.member, problem=f"{uri}: {error}")
    return Row(row.member, {**row.fields, "caption": text or None})


def _fields(source: Source, folder: str) -> dict[str, Any]:
    """Returns label, class and caption of the images in a folder."""
    parts = folder.split("/")
    if len(parts) < source.class_level:
        raise UserError(
            f"{source.path}: {folder} has images, but class_level={source.class_level} takes the folders of that level "
            "below the path for classes; with class_level=0 the class is the folder that an image is in"
        )
    name = "/".join(parts[: source.class_level or None])
    fields: dict[str, Any] = {"label": name, "class": name}
    if not source.class_names:
        fields["caption"] = name
    return fields


def naming(source: Source) -> Naming | None:
    """Returns the classes of a folder, in the order of their names, with the number of their images.

    Folders without images are among the names. The notes say which level was taken and what has no number. Of a table
    beside the images it returns what the table declares, None for nothing.
    """
    if described := folder_metadata.find(source):
        return table.naming(described)
    survey = _Survey(source)
    names = {labels.normal(entry.name) for entry in survey.tops} if source.class_level == 1 else set()
    return Naming(
        tuple(sorted({*survey.counts, *names})),
        lambda: survey.counts,
        has_labels=bool(survey.counts),
        notes=tuple(survey.notes(sorted(names - survey.counts.keys()))),
        passed_over=survey.system,
    )


class _Survey:
    """What one walk through a folder finds.

    Attributes:
        tops: folders of the first level.
        counts: images of each class.
        system: system folders by name, which are not entered.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.counts: Counter[str] = Counter()
        self.system: Counter[str] = Counter()
        # Images of each folder, by its path.
        self._images: Counter[str] = Counter()
        entries = self._entries("")
        self.tops = [entry for entry in entries if entry.kind == "folder"]
        for entry in entries:
            if entry.kind == "link":
                self.counts[labels.normal(_fields(source, entry.name)["label"])] += 1
            elif entry.kind == "folder":
                self._walk(entry.name)

    def _entries(self, folder: str) -> list[storage.Entry]:
        found = storage.entries(storage.join(self._source.image_root, folder))
        self.system.update(entry.name for entry in found if entry.kind == "folder" and is_system_folder(entry.name))
        return _wanted(found)

    def _walk(self, folder: str) -> None:
        entries = self._entries(folder)
        images = sum(entry.kind == "link" or (entry.kind == "file" and is_image(entry.name)) for entry in entries)
        if images:
            self._images[folder] = images
            self.counts[labels.normal(_fields(self._source, folder)["label"])] += images
        for entry in entries:
            if entry.kind == "folder":
                self._walk(f"{folder}/{entry.name}")

    def notes(self, empty: list[str]) -> Iterator[str]:
        """Yields what the person should know; `empty` are the class folders without images."""
        if empty:
            shown = ", ".join(empty[:_MOST_NAMED]) + (", .." if len(empty) > _MOST_NAMED else "")
            yield f"{counted(len(empty), 'class folder')} without an image, and so without a number: {shown}"
        if self._source.class_level == 1 and (nested := self._nested()):
            yield (
                f"the classes are the folders of the first level, but {len(nested):,} of these have no images of "
                f"their own, only in several folders below, such as {nested[0]}; if those are the classes, set "
                "class_level to their level, or to 0 for the folder that an image is in"
            )

    def _nested(self) -> list[str]:
        """Returns for each class whose images are all in two or more folders below its own one of these."""
        below: dict[str, list[str]] = {}
        for folder in self._images:
            below.setdefault(folder.partition("/")[0], []).append(folder)
        return [
            folders[0]
            for top, folders in below.items()
            if top not in folders and len({folder.split("/")[1] for folder in folders}) > 1
        ]


def passed_over(source: Source) -> Counter[str]:
    """Returns the number of files that are no rows, by suffix: those that are no images, and hidden ones.

    System folders are counted as such (`naming`), not their files. If a table describes the images, those that it does
    not name are counted, too.
    """
    counts: Counter[str] = Counter()
    folders = [source.image_root]
    while folders:
        folder = folders.pop()
        for entry in storage.entries(folder):
            if entry.kind == "folder" and not is_system_folder(entry.name):
                folders.append(storage.join(folder, entry.name))
            elif entry.kind == "file" and (entry.name.startswith(".") or not is_image(entry.name)):
                count_passed_over(counts, entry.name)
    if described := folder_metadata.find(source):
        counts.subtract([f".{storage.name(described.path).rpartition('.')[2]}"])
        entries = _wanted(storage.entries(source.image_root))
        tops = (entry.name for entry in entries if entry.kind == "file" and is_image(entry.name))
        below = (path for entry in entries if entry.kind == "folder" for path in _images(source.image_root, entry.name))
        for path in folder_metadata.undescribed(described, itertools.chain(tops, below)):
            count_passed_over(counts, path)
    elif source.fields:
        counts.pop(_text_suffix(source), None)
    return +counts


def _wanted(entries: list[storage.Entry]) -> list[storage.Entry]:
    """Returns what a folder holds, without hidden files and system folders."""
    return [
        entry
        for entry in entries
        if not entry.name.startswith(".") and (entry.kind == "file" or not is_system_folder(entry.name))
    ]


def _images(root: str, folder: str) -> Iterator[str]:
    for entry in _wanted(storage.entries(storage.join(root, folder))):
        path = f"{folder}/{entry.name}"
        if entry.kind == "folder":
            yield from _images(root, path)
        elif entry.kind == "link" or is_image(entry.name):
            yield path
