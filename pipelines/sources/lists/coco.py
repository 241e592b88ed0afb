"""COCO: JSON with `images` and `annotations`, the captions of an image or its categories; images below `image_root`.

An image may have several captions (`source.caption_number`); `source.metadata` may be a second file of the same images,
with the other kind of annotations. An image whose annotations are all of one category has it as its label, by the
category's place among the ids; one of several categories has none, and their names are in its metadata. The files are
read as streams, and the captions of one file are kept.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from configs.base import Source
from pipelines.errors import UserError
from pipelines.progress import counted
from pipelines.sources.labels import normal
from pipelines.sources.listing import Row
from pipelines.sources.naming import Naming, same_in_all
from pipelines.sources.sample import MAX_LABEL
from pipelines.sources.text import files, read_json_arrays

_MAX_CAPTION_BYTES = 1 << 30
# What a caption takes beside its text.
_CAPTION_BYTES = 100
_NOT_METADATA = {"id", "file_name", "width", "height", "license", "coco_url", "url"}


def rows(source: Source) -> Iterator[Row]:
    """Yields a row for each image, in their order in the file.

    Raises:
        UserError: if an entry is not as published; it is named by file, array and place.
    """
    for uri in files(source):
        annotations = _Annotations([uri, *([source.metadata] if source.metadata else [])])
        for name, index, entry in read_json_arrays(uri):
            if name == "images":
                yield _row(entry, f"{uri}, entry {index} of 'images'", annotations)


def naming(source: Source) -> Naming | None:
    """Returns the names of the categories, in the order of their ids; None if there are none.

    Raises:
        UserError: as `rows`, or if two files have different categories.
    """
    second = [source.metadata] if source.metadata else []
    tables = [(uri, _Annotations([uri, *second])) for uri in files(source)]
    names = same_in_all((uri, table.names) for uri, table in tables)
    if not names:
        return None
    counts = sum((table.counts for _, table in tables), Counter[str]())
    several = sum(table.several for _, table in tables)
    notes = (f"{counted(several, 'image')} of several categories, without a label",) if several else ()
    return Naming(names, lambda: counts, declared=True, has_labels=bool(counts), notes=notes)


class _Annotations:
    """What the files say of images.

    Attributes:
        captions: of each image, by its id.
        categories: that the annotations of each image are of.
        licenses: their names.
        names: of the categories, in the order of their ids.
    """

    def __init__(self, uris: list[str]) -> None:
        self.captions: dict[int, list[str]] = defaultdict(list)
        self.categories: dict[int, tuple[int, ...]] = {}
        self.licenses: dict[Any, Any] = {}
        self._names: dict[int, str] = {}
        self._size_bytes = 0
        for uri in uris:
            for name, index, entry in read_json_arrays(uri):
                where = f"{uri}, entry {index} of {name!r}"
                if name == "annotations":
                    self._annotate(entry, where)
                elif name == "categories":
                    self._name(entry, where)
                elif name == "licenses":
                    self.licenses[str(entry.get("id"))] = entry.get("name")
        if not self.captions and not self.categories:
            raise UserError(f"{uris[0]}: has no 'annotations' with a caption or a category_id")
        used = {number for numbers in self.categories.values() for number in numbers}
        if unknown := sorted(used - self._names.keys()):
            raise UserError(f"{uris[-1]}: 'annotations' has category_id {unknown[0]}, which 'categories' lacks")
        self._places = {number: place for place, number in enumerate(sorted(self._names))}
        self.names = tuple(self._names[number] for number in self._places)

    def _annotate(self, entry: dict[str, Any], where: str) -> None:
        image, caption = _number(entry, "image_id", where), entry.get("caption")
        if isinstance(caption, str):
            self._size_bytes += 4 * len(caption) + _CAPTION_BYTES
            if self._size_bytes > _MAX_CAPTION_BYTES:
                raise UserError(f"{where}: the captions take more than {_MAX_CAPTION_BYTES:,} bytes; split the file")
            self.captions[image].append(caption)
        elif "category_id" in entry:
            number, known = _number(entry, "category_id", where), self.categories.get(image, ())
            if number not in known:
                self.categories[image] = (*known, number)
        else:
            raise UserError(f"{where}: has neither a caption nor a category_id")

    def _name(self, entry: dict[str, Any], where: str) -> None:
        number, name = _number(entry, "id", where), entry.get("name")
        if not isinstance(name, str):
            raise UserError(f"{where}: 'name' must be a text, found {str(name)[:80]}")
        if self._names.setdefault(number, normal(name)) != normal(name):
            raise UserError(f"{where}: has the id {number} of an earlier category")

    @property
    def counts(self) -> Counter[str]:
        """Images of each category that is the only one of its images."""
        return Counter(self._names[numbers[0]] for numbers in self.categories.values() if len(numbers) == 1)

    @property
    def several(self) -> int:
        """Images of several categories."""
        return sum(len(numbers) > 1 for numbers in self.categories.values())

    def of_image(self, image: int) -> dict[str, Any]:
        """Returns caption, label and categories of an image, as far as they are known."""
        numbers = self.categories.get(image, ())
        fields: dict[str, Any] = {"caption": self.captions[image]} if image in self.captions else {}
        fields |= {"label": self._places[numbers[0]]} if len(numbers) == 1 else {}
        return fields | ({"categories": [self._names[number] for number in numbers]} if numbers else {})


def _number(entry: dict[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= (1 << 63) - 1:
        raise UserError(f"{where}: {key!r} must be a whole number from 0, found {str(value)[:80]}")
    if key == "category_id" and value > MAX_LABEL:
        raise UserError(f"{where}: {key!r} must be at most {MAX_LABEL:,}, found {value}")
    return value


def _row(entry: dict[str, Any], where: str, annotations: _Annotations) -> Row:
    path = entry.get("file_name")
    if not isinstance(path, str):
        raise UserError(f"{where}: 'file_name' must be a path, found {str(path)[:80]}")
    known = {key: value for key, value in entry.items() if key not in _NOT_METADATA}
    known |= {"license": annotations.licenses.get(str(entry.get("license"))), "url": entry.get("coco_url")}
    return Row(path, {**known, **annotations.of_image(_number(entry, "id", where))})
