"""`metadata.csv`, `.jsonl` or `.parquet` beside images, as Hugging Face's imagefolder has it.

Each row has a `file_name`, relative to the folder that the file is in, and perhaps a caption, a label and other fields,
by the rules of tables. What the rows do not name is not read, and folders say nothing of classes, as there.
"""

import dataclasses
from collections.abc import Iterable, Iterator

from configs.base import Source
from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources.images import below
from pipelines.sources.listing import Row
from pipelines.sources.lists import table
from pipelines.sources.patterns import quote

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_COLUMN = "file_name"


def find(source: Source) -> Source | None:
    """Returns the table that describes the images of a folder; None if there is none.

    Raises:
        UserError: if it lacks the column of names, there are two, or the folders below have one each.
    """
    root = source.image_root
    entries = storage.entries(root)
    found = [entry.name for entry in entries if entry.kind == "file" and entry.name in NAMES]
    if not found:
        splits = [entry.name for entry in entries if entry.kind == "folder" and _is_split(f"{root}/{entry.name}")]
        if splits:
            shown = ", ".join(f"{name}/" for name in splits[:5])
            raise UserError(f"{root}: its images are described in {shown}; make one of these folders the path")
        return None
    if len(found) > 1:
        raise UserError(f"{root}: has {' and '.join(found)}; keep one of them, or rename what does not describe images")
    named = any(entry.startswith("path=") for entry in source.fields)
    if not named and not _describes_images(uri := storage.join(root, found[0])):
        raise UserError(
            f"{uri}: has no column {_COLUMN!r}; name that of file names by the source's fields=path=.., or rename the "
            "file if it does not describe the images"
        )
    fields = source.fields if named else (*source.fields, f"path={_COLUMN}")
    return dataclasses.replace(source, format="table", path=quote(storage.join(root, found[0])), fields=fields)


def _is_split(folder: str) -> bool:
    names = [entry.name for entry in storage.entries(folder) if entry.kind == "file" and entry.name in NAMES]
    return any(_describes_images(storage.join(folder, name)) for name in names)


def _describes_images(uri: str) -> bool:
    return _COLUMN in table.columns(uri)


def rows(described: Source) -> Iterator[Row]:
    """Yields the rows of the table that `find` returned; errors as `table.rows`."""
    place = below(described.image_root)
    for row in table.rows(described):
        yield dataclasses.replace(row, member=place(row.member))


def undescribed(described: Source, images: Iterable[str]) -> Iterator[str]:
    """Yields the paths of images that the table does not name."""
    named = {hash(row.member) for row in rows(described)}
    return (path for path in images if hash(path) not in named)
