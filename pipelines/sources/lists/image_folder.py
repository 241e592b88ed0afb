"""A folder of images with a folder for each class, as `torchvision.datasets.ImageFolder` reads it.

`root/cat/x.jpg` and `root/cat/deeper/y.jpg` are of class `cat`; labels number the class folders in the order of their
names, from 0. The class's name is the caption, so that such a folder is a memory with texts, unless the source has
`class_names`; it is also in the metadata, as `class`. Images in the root itself have neither label nor caption.
"""

from collections.abc import Iterator
from typing import Any

from configs.base import Source
from pipelines import storage
from pipelines.sources.listing import Row

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def rows(source: Source) -> Iterator[Row]:
    """Yields a row for each image: those of the root, then class by class, in the order of their names.

    Files without the suffix of an image, and names that begin with a dot, are skipped. A folder that is a link is not
    entered; it is yielded itself, so that it becomes a reject.
    """
    entries = [entry for entry in storage.entries(source.image_root) if not entry.name.startswith(".")]
    classes = [entry for entry in entries if entry.kind != "file"]
    yield from (Row(entry.name) for entry in entries if entry.kind == "file" and is_image(entry.name))
    for label, entry in enumerate(classes):
        fields: dict[str, Any] = {"label": label, "class": entry.name}
        if not source.class_names:
            fields["caption"] = entry.name
        paths = [entry.name] if entry.kind == "link" else _images(source.image_root, entry.name)
        yield from (Row(path, fields) for path in paths)


def is_image(name: str) -> bool:
    """Tells whether a file's suffix is that of an image."""
    return name.lower().endswith(SUFFIXES)


def _images(root: str, folder: str) -> Iterator[str]:
    for entry in storage.entries(storage.join(root, folder)):
        path = f"{folder}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.kind == "folder":
            yield from _images(root, path)
        elif entry.kind == "link" or is_image(entry.name):
            yield path
