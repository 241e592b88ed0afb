"""iNaturalist 2021: `train.json`, `train_mini.json`, `val.json`, in the style of COCO; images below `image_root`.

The label is the category's place among the ids, which is the id itself where these are 0, 1, 2, ..; the caption is
`common name (Scientific name)`, or the latter alone. The metadata are the image's own fields (date, place, rights
holder), the name of its licence, and the category's names. The files are read more than once, as streams, because
images come first in them and categories last.
"""

import array
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from configs.base import Source
from pipelines.errors import UserError
from pipelines.sources.labels import normal
from pipelines.sources.listing import Row
from pipelines.sources.naming import Naming, same_in_all
from pipelines.sources.sample import MAX_LABEL
from pipelines.sources.text import files, read_json_arrays

_CATEGORY_NAMES = ("name", "common_name", "supercategory")
_NOT_METADATA = {"id", "file_name", "width", "height", "license"}


def rows(source: Source) -> Iterator[Row]:
    """Yields a row for each image, in their order in the file.

    Raises:
        UserError: if an entry is not as published; it is named by file, array and place.
    """
    for uri in files(source):
        tables, seen = _Tables(uri), False
        for name, index, entry in read_json_arrays(uri):
            if name == "images":
                seen = True
                yield _row(entry, f"{uri}, entry {index} of 'images'", tables)
            elif seen:
                # The arrays after it have been read.
                break


def naming(source: Source) -> Naming | None:
    """Returns the scientific names of the categories, in the order of their ids; None if one has no name.

    Raises:
        UserError: as `rows`, or if two files have different categories.
    """
    tables = [(uri, _Tables(uri)) for uri in files(source)]
    found = same_in_all((uri, table.names) for uri, table in tables)
    if not found:
        return None
    numbers = sum((table.counts for _, table in tables), Counter[int]())
    counts = Counter({found[number]: count for number, count in numbers.items()})
    return Naming(found, lambda: counts, declared=True)


class _Tables:
    """The categories of a file's images, and the names of categories and licences."""

    def __init__(self, uri: str) -> None:
        self.categories: list[dict[str, Any]] = []
        numbers: dict[int, dict[str, Any]] = {}
        self.licenses: dict[Any, Any] = {}
        images, labels = array.array("q"), array.array("q")
        for name, index, entry in read_json_arrays(uri):
            where = f"{uri}, entry {index} of {name!r}"
            if name == "categories":
                if (number := _number(entry, "id", where)) in numbers:
                    raise UserError(f"{where}: has the id {number} of an earlier category")
                numbers[number] = {key: entry.get(key) for key in _CATEGORY_NAMES}
            elif name == "annotations":
                images.append(_number(entry, "image_id", where))
                labels.append(_number(entry, "category_id", where))
            elif name == "licenses":
                self.licenses[str(entry.get("id"))] = entry.get("name")
        if not images:
            raise UserError(f"{uri}: has no 'annotations'; images without labels cannot be read from it")
        unsorted = np.asarray(images)
        order = np.argsort(unsorted, kind="stable")
        self._images, self._labels = unsorted[order], np.asarray(labels)[order]
        twice = self._images[1:][np.diff(self._images) == 0]
        if len(twice):
            raise UserError(f"{uri}: image {twice[0]} has more than one entry in 'annotations'")
        known = np.array(sorted(numbers), np.int64)
        self.categories = [numbers[number] for number in sorted(numbers)]
        unknown = self._labels[~np.isin(self._labels, known)]
        if len(unknown):
            raise UserError(f"{uri}: 'annotations' has category_id {unknown[0]}, which 'categories' lacks")
        self._labels = np.searchsorted(known, self._labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, the first of label 0; nothing if one has none."""
        found = [category["name"] or category["common_name"] for category in self.categories]
        return tuple(map(normal, found)) if all(isinstance(name, str) for name in found) else ()

    @property
    def counts(self) -> Counter[int]:
        """Images of each label."""
        return Counter(self._labels.tolist())

    def label(self, image: int, where: str) -> int:
        place = int(np.searchsorted(self._images, image))
        if place == len(self._images) or self._images[place] != image:
            raise UserError(f"{where}: has no entry in 'annotations'")
        return int(self._labels[place])


def _number(entry: dict[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_LABEL:
        raise UserError(f"{where}: {key!r} must be a whole number from 0, found {str(value)[:80]}")
    return value


def _row(entry: dict[str, Any], where: str, tables: _Tables) -> Row:
    path = entry.get("file_name")
    if not isinstance(path, str):
        raise UserError(f"{where}: 'file_name' must be a path, found {str(path)[:80]}")
    label = tables.label(_number(entry, "id", where), where)
    names = tables.categories[label]
    known = {key: value for key, value in entry.items() if key not in _NOT_METADATA and not _is_nan(value)}
    license_name = tables.licenses.get(str(entry.get("license")))
    return Row(path, {**known, **names, "license": license_name, "label": label, "caption": _caption(names)})


def _is_nan(value: Any) -> bool:
    """Tells whether a value is not finite, as unknown places are in these files."""
    return isinstance(value, float) and not math.isfinite(value)


def _caption(names: dict[str, Any]) -> str | None:
    common, name = names["common_name"], names["name"]
    return f"{common} ({name})" if common and name and common != name else name or common
