"""One label space for the memory and all splits: which source decides it, and what the others may have.

The training set decides, so that a split without one of its classes, or with a stray folder, shifts no label. The names
are part of the identity of every folder whose labels were names (`stage.json`). `pipelines.sources.naming` says how a
source's names are found and numbered.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from configs.base import Source
from pipelines import class_names, manifest, sources, storage
from pipelines.embedding.request import MEMORY, Request
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.progress import counted
from pipelines.sources import labels
from pipelines.sources.labels import Labels, LabelSpace
from pipelines.sources.naming import Naming

_TRAIN = "train"
_MOST_NAMED = 5


@dataclasses.dataclass
class Classes:
    """The label space of a request.

    Attributes:
        space: of the training set; None if its labels are numbers.
        labels: how the labels of each source become numbers, by its name; those that have numbers are missing.
        notes: what the person should know of the classes of each source.
        passed_over: folders of each source that are no classes, by their names.
        known: labels of the training set; empty as long as they are unknown.
    """

    space: LabelSpace | None
    labels: dict[str, Labels]
    notes: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    passed_over: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    known: set[int] = dataclasses.field(default_factory=set)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes; nothing if there are none."""
        return self.space.names if self.space else ()

    def of_planning(self, name: str) -> Labels | None:
        """Returns how a source's labels become numbers where its shards are planned; None if they are numbers."""
        return self.labels.get(name)

    def of_reading(self, name: str, source: Source) -> Labels | None:
        """Returns how labels become numbers where a shard is read: those of lists are numbers when they are planned."""
        found = self.labels.get(name)
        if found and source.format not in sources.CONTAINERS:
            return dataclasses.replace(found, declared=(), own=()) if found.is_memory else None
        return found

    def identity(self, name: str) -> dict[str, Any]:
        """Returns what the identity of a folder says of its classes; nothing if its labels were numbers."""
        return {manifest.CLASSES: list(self.names)} if name in self.labels else {}

    def check_numbers(self, name: str, source: Source, counts: Counter[Any]) -> None:
        """Raises a `UserError` for labels of a listed split that no training image has; learns those of the latter.

        Args:
            name: of the split.
            source: of its rows, with whole paths.
            counts: rows of each label.
        """
        counts.pop(None, None)
        if name == MEMORY or any(isinstance(label, str) for label in counts):
            return
        if name == _TRAIN:
            self.known = set(counts)
        elif self.known and (unknown := {label: counts[label] for label in sorted(counts.keys() - self.known)}):
            raise UserError(labels.describe_unknown(f"{source.path} ({name})", unknown, ()))


def agree(request: Request) -> Classes:
    """Returns the label space of a request, before anything is written.

    The training set decides; without one the splits embedded before, then the first of val, test and memory that has
    names. If the training set has numbers, the config's file of class names says what they are called.

    Raises:
        UserError: if a split has a class that the space lacks, if two names differ in case only, or a source is wrong.
    """
    surveyed = {name: _find_names(name, request) for name in request.sources}
    found = {name: naming if naming and naming.has_labels else None for name, naming in surveyed.items()}
    space, is_of_file = _space(request, found)
    classes = Classes(space, {})
    for name, naming in found.items():
        if survey := surveyed[name]:
            classes.notes[name], classes.passed_over[name] = survey.notes, survey.passed_over
        where = f"{sources.resolve(request.sources[name], request.places.data).path} ({name})"
        if naming is None:
            if name != MEMORY and space and not is_of_file:
                _check_order(where, space)
            continue
        if name != MEMORY:
            _check_names(where, naming, space)
        classes.labels[name] = Labels(
            space or LabelSpace(()), naming.names if naming.declared else (), naming.names, is_memory=name == MEMORY
        )
    return classes


def _find_names(name: str, request: Request) -> Naming | None:
    source = request.sources[name]
    found = sources.find_names(source, request.places.data, request.embed, is_memory=name == MEMORY)
    if found and not found.declared and name != MEMORY:
        path = sources.resolve(source, request.places.data).path
        labels.refuse_case(f"{path} ({name})", +found.counts())
    return found


def _space(request: Request, found: Mapping[str, Naming | None]) -> tuple[LabelSpace | None, bool]:
    """Returns the label space, if there are names, and whether it is that of the config's file of class names."""
    deciding = [_TRAIN] if _TRAIN in found else [*(name for name in found if name != MEMORY), MEMORY]
    if _TRAIN not in found and (stored := _stored(request)) is not None:
        return (LabelSpace(stored), False) if stored else (_of_file(request), True)
    for name in deciding:
        if naming := found[name]:
            return sources.label_space(naming, request.sources[name], request.places.data), False
    return _of_file(request), True


def _stored(request: Request) -> tuple[str, ...] | None:
    """Returns the names of the training set that was embedded before, which may be none; None without such a set."""
    path = storage.join(request.folder(_TRAIN), manifest.STAGE_FILE)
    if not storage.exists(path):
        return None
    return tuple(manifest.read_identity(request.folder(_TRAIN)).get(manifest.CLASSES, ()))


def _of_file(request: Request) -> LabelSpace | None:
    places = request.places
    if not places.class_names:
        return None
    return LabelSpace(tuple(map(labels.normal, class_names.read(storage.join(places.data, places.class_names)))))


def _check_names(where: str, naming: Naming, space: LabelSpace | None) -> None:
    if space is None:
        shown = ", ".join(map(repr, naming.names[:_MOST_NAMED]))
        raise UserError(
            f"{where}: its labels are names, such as {shown}, but those of the training set are numbers; set "
            "--config.class_names to a file with the name of each number, the first for 0, or use numbers"
        )
    known = set(space.all_names or space.names)
    if known.issuperset(naming.names):
        return
    counts = naming.counts()
    if unknown := {name: counts[name] for name in naming.names if counts[name] and name not in known}:
        raise UserError(labels.describe_unknown(where, unknown, space.names))


def _check_order(where: str, space: LabelSpace) -> None:
    """Raises a `UserError` if names that are numbers themselves have other numbers, which a label might mean."""
    for number, name in enumerate(space.names):
        if name.isdecimal() and int(name) != number:
            raise UserError(
                f"{where}: its labels are numbers, but the training set's class {name!r} has the number {number}, "
                f"because names are numbered in their order as texts; give both sets the same form, or write {name!r} "
                f"with as many digits as the longest name"
            )


def check_stored(folder: str, names: Sequence[str]) -> None:
    """Raises a `UserError` that says which classes are new or gone if a folder was embedded with others.

    Args:
        folder: of a split or the memory, whose labels were or are names.
        names: of the classes now; nothing if its labels are numbers.
    """
    path = storage.join(folder, manifest.STAGE_FILE)
    if not storage.exists(path) or (stored := manifest.read_identity(folder).get(manifest.CLASSES, [])) == list(names):
        return
    new, gone = [name for name in names if name not in stored], [name for name in stored if name not in names]
    said = "; ".join(f"{_some(listed)} {word}" for listed, word in ((new, "new"), (gone, "gone")) if listed)
    raise UserError(
        f"{folder}: was embedded with {len(stored):,} named classes, now the training set has {len(names):,}"
        f"{f' ({said})' if said else ', in another order'}, so labels would change; set another "
        "--config.workdir, or remove the queries/ folder and any memory/ whose labels are names"
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_MOST_NAMED])) + (", .." if len(names) > _MOST_NAMED else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"


def check_class_names(request: Request, classes: Classes, names: Sequence[str]) -> str:
    """Compares the config's class names with those of the training set; returns what to say of it, or nothing.

    Raises:
        UserError: if there are fewer than classes, or one of them stands at the place of another.
    """
    if not names or not classes.labels.get(_TRAIN):
        return ""
    space, path = classes.names, request.places.class_names
    if len(names) < len(space):
        raise UserError(
            f"--config.class_names={path}: names {counted(len(names), 'class')}, the training set has {len(space):,}; "
            "give each a line, in their order, or leave it empty to take the training set's own names"
        )
    own = classes.labels[_TRAIN].own
    if len(names) == len(own) and own[: len(space)] != space:
        without = next(name for name in own if name not in space)
        raise UserError(
            f"--config.class_names={path}: names {counted(len(names), 'class')}, but {without!r} has no training image "
            "and therefore no number; remove its line and its folder, or leave class_names empty"
        )
    places: dict[str, set[int]] = {}
    for place, name in enumerate(map(labels.normal, names)):
        places.setdefault(name, set()).add(place)
    for number, name in enumerate(space):
        if name in places and number not in places[name]:
            raise UserError(
                f"--config.class_names={path}: has {name!r} in line {min(places[name]) + 1}, but it is number "
                f"{number:,} of the training set's classes, which would be line {number + 1}; leave it empty to take "
                "the training set's own names, or write them in this order"
            )
    return "" if len(names) == len(space) else f"{path} names {len(names):,}, the training set has {len(space):,}"


def counts_of(folder: str) -> Counter[int | None]:
    """Returns the embedded rows of each label of a finished split; None counts those without one."""
    embedded, counts = Embeddings(folder), Counter[int | None]()
    for shard in embedded.shard_rows:
        for entry in pc.value_counts(embedded.read(shard, ["label"])["label"].combine_chunks()).to_pylist():
            counts[entry["values"]] += entry["counts"]
    return counts


def lines(folders: Mapping[str, str], classes: Classes, unknown: int) -> dict[str, str]:
    """Returns the summary's lines on classes.

    Args:
        folders: of the finished splits, by name.
        classes: the label space.
        unknown: rows of the memory whose class the label space lacks.
    """
    counts = {name: counts_of(folder) for name, folder in folders.items()}
    unlabelled = {name: count.pop(None, 0) for name, count in counts.items()}
    found = {}
    if any(counts.values()):
        sizes = (counts.get(_TRAIN) or next(filter(None, counts.values()))).values()
        each_split = " / ".join(f"{len(count):,}" for count in counts.values())
        each = (f"{min(sizes):,} to " if max(sizes) > min(sizes) else "") + f"{counted(max(sizes), 'image')} each"
        more = "".join(
            f", {counted(count, 'image')} of {name} without a label" for name, count in unlabelled.items() if count
        )
        found["classes"] = f"{each_split} ({' / '.join(counts)}), {each}{more}"
    if counts.get(_TRAIN) and (missing := [n for i, n in enumerate(classes.names) if i not in counts[_TRAIN]]):
        found["without images"] = f"{counted(len(missing), 'class')} of train: {', '.join(missing[:_MOST_NAMED])}"
    numbers = {name: {label for label in count if label is not None} for name, count in counts.items()}
    if numbers.get(_TRAIN) and _TRAIN not in classes.labels:
        if wrong := class_names.gap(numbers[_TRAIN], set().union(*numbers.values()), classes.names):
            found["labels"] = f"web-memory train will refuse them: {wrong}"
    if notes := [f"{name}: {note}" for name, those in classes.notes.items() for note in those]:
        found["class folders"] = "; ".join(notes)
    if unknown:
        found["unknown classes"] = f"{counted(unknown, 'row')} of the memory, without a label"
    return found
