"""What a source says of its classes, and the rows of a list with the numbers of its classes.

A training set numbers the names that have an image in the order of their Unicode characters, from 0, so that capitals
come first, as in torchvision's `ImageFolder`. Names that a source itself gives to its numbers (`declared`: those of a
ClassLabel, or COCO's categories in the order of their ids) keep these numbers. Numbers without names stay as they are.
"""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from configs.base import Embed, Source
from pipelines import class_names
from pipelines.errors import UserError
from pipelines.progress import counted
from pipelines.sources import labels, parts
from pipelines.sources.labels import Labels, LabelSpace, UnknownClass
from pipelines.sources.listing import Row
from pipelines.sources.sample import Filtered, InputShard, Reject, Sample

# Rows of a file of samples that are read to see whether its labels are names.
_PEEKED_ROWS = 32


@dataclasses.dataclass(frozen=True)
class Naming:
    """The names of a source's classes.

    Attributes:
        names: all of them, in the source's own order; of a memory in files of samples none.
        counts: returns the rows of each name.
        declared: whether the labels are numbers, to which the source gives these names in their order.
        has_labels: whether any row has a label.
        notes: what the person should know of how the names were found.
        passed_over: folders that are no classes, by name.
    """

    names: tuple[str, ...]
    counts: Callable[[], Counter[str]] = Counter
    declared: bool = False
    has_labels: bool = True
    notes: tuple[str, ...] = ()
    passed_over: Counter[str] = dataclasses.field(default_factory=Counter)


def of_rows(source: Source, rows: Callable[[], Iterator[Row]]) -> Naming | None:
    """Returns the names in the labels of a list; None if its first label is a number, or it has none.

    Raises:
        UserError: if names and numbers are mixed.
    """
    first = next(rows(), None)
    if first is None or "label" not in first.fields:
        # There is no column of labels; the rest need not be read.
        return None
    return _of_labels(source.path, (row.fields.get("label") for row in rows()))


def of_shards(
    path: str, shards: list[InputShard], values: Callable[[InputShard], Iterator[Any]], all_rows: bool
) -> Naming | None:
    """Returns the names in the labels of files of samples; None as of `of_rows`, which looks at all labels.

    Args:
        path: of the source.
        shards: of the source.
        values: yields the label of each row of a shard.
        all_rows: whether all labels are read and counted, if they are names; otherwise only a few are.
    """
    first = next((label for label in itertools.islice(_chain(values, shards), _PEEKED_ROWS) if label), None)
    if not labels.is_name(first):
        return None
    return _of_labels(path, _chain(values, shards)) if all_rows else Naming(())


def _chain(values: Callable[[InputShard], Iterator[Any]], shards: Iterable[InputShard]) -> Iterator[Any]:
    return itertools.chain.from_iterable(map(values, shards))


def _of_labels(path: str, found: Iterator[Any]) -> Naming | None:
    # What is neither a name nor a number makes its row a reject, and says nothing of the others.
    found = (label for label in found if label != "" and isinstance(label, str | int) and not isinstance(label, bool))
    first = next(found, "")
    if not isinstance(first, str) or not labels.is_name(first):
        return None
    counts: Counter[str] = Counter()
    for label in itertools.chain([first], found):
        if not labels.is_name(label):
            raise labels.mixed(path, first, label)
        counts[label] += 1
    merged: Counter[str] = Counter()
    for name, count in counts.items():
        merged[labels.normal(name)] += count
    return Naming(tuple(sorted(merged)), lambda: merged)


@dataclasses.dataclass(frozen=True)
class _Seen(Labels):
    """Stands for the labels of a shard, and keeps what it is asked for."""

    space: LabelSpace = LabelSpace(())
    asked: list[Any] = dataclasses.field(default_factory=list)

    def number(self, label: Any) -> None:
        self.asked.append(label)


def read_labels(
    read: Callable[[InputShard, Embed], Iterator[Sample | Reject | Filtered]], shard: InputShard, embed: Embed
) -> Iterator[Any]:
    """Yields the label of each row of a shard as the source has it, by the format's own reader."""
    seen = _Seen()
    for _ in read(dataclasses.replace(shard, labels=seen), embed):
        yield seen.asked.pop() if seen.asked else None
        seen.asked.clear()


def class_label(schema: pa.Schema, columns: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of a Hugging Face ClassLabel, in the metadata of a Parquet file; nothing without one.

    Args:
        schema: of the file.
        columns: that may have the labels, in the order of preference.
    """
    column = next((name for name in columns if name in schema.names), "")
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else []
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    is_usable = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(map(labels.normal, names)) if is_usable else ()


def count_declared(
    names: tuple[str, ...], shards: Iterable[InputShard], values: Callable[[InputShard], Iterator[Any]]
) -> Counter[str]:
    """Returns the rows of each class that a source declares."""
    numbers = (label for label in _chain(values, shards) if isinstance(label, int) and 0 <= label < len(names))
    counts = Counter(numbers)
    return Counter({names[number]: count for number, count in counts.items()})


def same_in_all(files: Iterable[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    """Returns the names that all files of a source declare; a `UserError` if they differ.

    Args:
        files: path and names of each.
    """
    first: tuple[str, tuple[str, ...]] | None = None
    for uri, names in files:
        first = first or (uri, names)
        if names != first[1]:
            raise UserError(f"{uri}: its labels have other names than those of {first[0]}; give both the same classes")
    return first[1] if first else ()


def space(naming: Naming, source: Source, rows: Callable[[], Iterator[Row]] | None) -> LabelSpace:
    """Returns the label space that a training set defines.

    Args:
        naming: of the source.
        source: with whole paths.
        rows: yields all rows of a list; None for files of samples.
    """
    if naming.declared:
        return LabelSpace(naming.names, naming.names)
    counts = naming.counts()
    used = tuple(name for name in naming.names if counts[name])
    if rows is None or not (source.classes or source.part):
        return LabelSpace(used, used)
    alone = Labels(LabelSpace(used, used))
    taken = {row.fields.get("label") for row in parts.chosen(source, lambda: _ranked(rows, alone, list(used)))}
    return LabelSpace(tuple(name for rank, name in enumerate(used) if rank in taken), used)


def _ranked(rows: Callable[[], Iterator[Row]], found: Labels, order: list[str]) -> Iterator[Row]:
    """Yields rows whose label is the place of their class in `order`, to which names that it lacks are appended."""
    ranks = {name: rank for rank, name in enumerate(order)}
    for row in rows():
        label = row.fields.get("label")
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(found.declared):
            label = found.declared[label]
        if label is not None and not isinstance(label, str):
            yield Row(row.member, {}, row.is_url, f"label is {str(label)[:80]!r}, not the name of a class")
            continue
        if label is None or not label.strip():
            yield row
            continue
        name = labels.normal(label)
        if name not in ranks:
            ranks[name] = len(order)
            order.append(name)
        yield dataclasses.replace(row, fields={**row.fields, "label": ranks[name]})


def numbered(source: Source, rows: Callable[[], Iterator[Row]], found: Labels | None) -> Iterator[Row]:
    """Yields the rows of a list that its `classes` and `part` choose, labelled by the numbers of the label space.

    Args:
        source: with whole paths.
        rows: yields all rows at each call, labelled as the source has it.
        found: how its labels become numbers; None if they are numbers already. A memory's names that the label space
            lacks stay names.

    Raises:
        UserError: if a split has classes that the training set does not have, and as `parts.chosen`.
    """
    if found is None or (found.declared and found.declared == found.space.names):
        yield from parts.chosen(source, rows)
        return
    order = list(found.own if found.is_memory else found.space.all_names or found.space.names)
    places = {name: place for place, name in enumerate(found.own)}
    captions = class_names.read(source.class_names) if source.class_names else []
    unknown: Counter[str] = Counter()
    for row in parts.chosen(source, lambda: _ranked(rows, found, order)):
        rank = row.fields.get("label")
        if not isinstance(rank, int):
            yield row
            continue
        name = order[rank]
        fields = {**row.fields, "label": _number(found, name, unknown)}
        if captions and not fields.get("caption"):
            fields["caption"] = _caption(source, captions, places[name], name)
        yield dataclasses.replace(row, fields=fields)
    if unknown:
        raise UserError(labels.describe_unknown(source.path, unknown, found.space.names))


def _number(found: Labels, name: str, unknown: Counter[str]) -> int | str:
    try:
        number = found.number(name)
    except UnknownClass:
        unknown[name] += 1
        number = None
    return name if number is None else number


def _caption(source: Source, captions: list[str], place: int, name: str) -> str:
    if place >= len(captions):
        raise UserError(f"{source.class_names}: names {counted(len(captions), 'class')}, {name} is number {place}")
    return captions[place]
