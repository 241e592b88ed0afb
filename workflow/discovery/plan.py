"""From what was found to what is written: the splits, the memory, and what a person should know of both."""

import contextlib
import dataclasses
from collections import Counter
from typing import Any

from configs.base import Source
from configs.schema.data import SPLITS
from pipelines import class_names, sources
from pipelines.errors import UserError
from pipelines.progress import counted
from pipelines.sources import patterns
from pipelines.sources.lists import table
from pipelines.sources.sample import field_names
from workflow.discovery import facts, formats, splits
from workflow.discovery.config_file import ALL_VECTORS, PAIR_VECTORS, Draft
from workflow.discovery.facts import Facts
from workflow.discovery.found import Found, quoted

_MEMORY_ROWS = 2_000
# What stands before numbers that are made names; they say nothing of what a class is.
_NUMBERED = "class "


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `init` is about to write.

    Attributes:
        found: the labelled images.
        facts: of each split that is there.
        pairs: the memory; None if it is the training set.
        pairs_facts: of the memory.
        draft: of the config.
        names: of classes that are numbers, if a file has them.
    """

    found: Found
    facts: dict[str, Facts]
    pairs: Found | None
    pairs_facts: Facts
    draft: Draft
    names: tuple[str, ...] = ()


def make(name: str, images: str, pairs: str) -> Plan:
    """Looks at images and pairs.

    Raises:
        UserError: if one is not understood, has no labels, or needs to be cut and cannot be.
    """
    found = formats.recognise(images, labelled=True)
    seen = {split: facts.read(found.splits[split]) for split in SPLITS if split in found.splits}
    found = _from_zero(_labelled(found, seen), seen)
    train = found.splits["train"]
    if not seen["train"].counts:
        why = f" ({seen['train'].problem})" if seen["train"].problem else ""
        raise UserError(
            f"{images}: read as {found.name}, its rows have no labels{why}; give each class a folder, "
            f"or give a table a column 'label'{_columns(train)}"
        )
    if len(seen["train"].counts) < 2:
        raise UserError(f"{images}: read as {found.name}, it has one class alone; there must be two at least")
    whole, notes = _with_splits(found, seen)
    memory = formats.recognise(pairs, labelled=False) if pairs else None
    if memory:
        source, about = memory.splits["train"], [*memory.notes]
        about += [f"only train of the pairs is read, not {split}" for split in memory.splits if split != "train"]
    else:
        source, about = _own_memory(found, whole["train_set"][0], seen["train"])
    is_vectors = train.format == "vectors"
    if is_vectors and source.format != "vectors":
        raise UserError(f"{images}: is vectors and {pairs} is not, so no key can be compared; embed both or neither")
    of_memory = facts.read(source, _MEMORY_ROWS)
    brought = tuple(sources.brought_dims(sources.resolve(source, "")))
    to_do = [PAIR_VECTORS] if brought and not is_vectors else []
    # The names of a list's classes become captions later.
    texts = bool(of_memory.captions) or bool(source.class_names)
    if of_memory.rows and 0 < of_memory.captions < of_memory.rows:
        about.append(f"rows without a caption: {of_memory.rows - of_memory.captions:,} of the {of_memory.rows:,} read")
    named = _fits(found.class_names, seen["train"].counts)
    draft = Draft(
        name,
        {"memory": (source, tuple(about)), **whole},
        class_names=found.class_names if named else "",
        texts=texts,
        vectors=brought,
        vectors_note=(ALL_VECTORS if is_vectors else PAIR_VECTORS) if brought else "",
        notes=(
            _said(found, seen["train"]),
            *found.notes,
            *notes,
            *to_do,
        ),
    )
    names = tuple(class_names.read(found.class_names)) if named else ()
    return Plan(found, seen, memory, of_memory, draft, names)


def _columns(source: Source) -> str:
    """Returns the columns of a table, in words; nothing for other formats."""
    if source.format != "table":
        return ""
    return f" (its columns are {quoted(table.columns(patterns.files(source.path)[0].uri))})"


def _labelled(found: Found, seen: dict[str, Facts]) -> Found:
    """Returns what was found without rows that have no label, and without splits in another format and classes.

    The facts of such splits are removed.
    """
    made, notes = dict(found.splits), [*found.notes]
    for split, read in list(seen.items()):
        is_other = made[split].format != made["train"].format
        if split != "train" and read.rows and not read.counts:
            notes.append(f"not read: {made.pop(split).path}, as {split}: its rows have no labels")
            del seen[split]
        elif read.counts and is_other and not read.counts.keys() & seen["train"].counts.keys():
            shown = ", ".join(repr(label) for label in list(read.counts)[:2])
            notes.append(f"not read: {made.pop(split).path}: train has none of the classes of {split}, such as {shown}")
            del seen[split]
        elif read.counts and read.repeated:
            other = f", {read.contrary:,} of them with another label" if read.contrary else ""
            notes.append(f"rows of {split} that name an image again: {read.repeated:,} of {read.rows:,}{other}")
        if split in seen and read.counts and read.unlabelled and made[split].format in sources.LISTS:
            made[split] = dataclasses.replace(made[split], where=(*made[split].where, "label"))
            notes.append(f"rows of {split} without a label: {read.unlabelled:,} of {read.rows:,}, which are left out")
    return dataclasses.replace(found, splits=made, notes=tuple(notes))


def _from_zero(found: Found, seen: dict[str, Facts]) -> Found:
    """Returns what was found with labels that are numbers from 0 without gaps, where `embed` can make them such.

    The facts of what changes are read again. Numbers without gaps count from the first; of others, a table's become
    names.
    """
    train = seen["train"]
    numbers = sorted(label for label in train.counts if isinstance(label, int))
    others = set().union(*(read.counts for read in seen.values())) - set(numbers)
    if not numbers or len(numbers) < len(train.counts) or others or numbers == list(range(len(numbers))):
        return found
    first, made = numbers[0], dict(found.splits)
    if numbers == list(range(first, first + len(numbers))):
        made = {split: dataclasses.replace(source, first_label=first) for split, source in made.items()}
        note = f"labels count from {first}, so the first class has the number {first} there"
    elif made["train"].format == "table":
        for split, source in made.items():
            (column, *_) = field_names(source, table.FIELDS)["label"]
            fields = (field for field in source.fields if not field.startswith("label="))
            made[split] = dataclasses.replace(source, fields=(*fields, f"label={_NUMBERED}{{{column}}}"))
        note = f"labels are numbers with gaps, such as {numbers[0]} and {numbers[-1]}, and are made names"
    else:
        return found
    seen.update({split: facts.read(made[split]) for split in seen})
    return dataclasses.replace(found, splits=made, notes=(*found.notes, note))


def _said(found: Found, train: Facts) -> str:
    least, most = min(train.counts.values()), max(train.counts.values())
    images = f"{least:,} to {most:,} images" if least < most else counted(most, "image")
    more = " at least, since not all was read" if train.stopped else ""
    return f"{found.name[0].upper()}{found.name[1:]}: {len(train.counts):,} classes of {images}{more}."


def _with_splits(found: Found, seen: dict[str, Facts]) -> tuple[dict[str, tuple[Source, tuple[str, ...]]], list[str]]:
    """Returns the source of each split with its comments, and notes."""
    train, counts = found.splits["train"], list(seen["train"].counts.values())
    missing = [split for split in ("val", "test") if split not in found.splits]
    notes = [
        f"classes of {split} that train lacks: {len(lost):,}, such as {lost[0]!r}, which embed will refuse"
        for split in SPLITS
        if split in seen and (lost := sorted(seen[split].counts.keys() - seen["train"].counts.keys(), key=str))
    ]
    if not missing:
        return {f"{split}_set": (found.splits[split], ()) for split in SPLITS}, notes
    cut = splits.cut(counts, missing)
    few = f"; classes that are too small for that: {cut.untested:,} of {len(counts):,}" if cut.untested else ""
    shares = ", ".join(f"{end - begin:.0%} {split}" for split, (begin, end) in cut.parts.items())
    what = "each class is cut" if train.format in sources.LISTS else "its rows are drawn"
    notes.append(f"There is no {' and no '.join(missing)} set: {what} into {shares}{few}.")
    notes += [
        f"the column {column!r} says {' and '.join(map(repr, sorted(values)))} and is not used, so rows of the test "
        "set may be trained on: write each split to files of its own"
        for column, values in seen["train"].splits.items()
    ]
    made: dict[str, tuple[Source, tuple[str, ...]]] = {}
    for split in SPLITS:
        part = cut.parts.get(split)
        source = found.splits[split] if part is None else dataclasses.replace(train, part=part)
        made[f"{split}_set"] = (source, ())
    return made, notes


def _own_memory(found: Found, train: Source, seen: Facts) -> tuple[Source, list[str]]:
    """Returns the training set as its own memory, with the names of its classes as texts where they are known."""
    about = ["No pairs were given: the memory is the training set, so it adds nothing from the web (--pairs)."]
    if train.format in sources.LISTS and found.class_names and not seen.captions:
        if _fits(found.class_names, seen.counts):
            return dataclasses.replace(train, class_names=found.class_names), about
    if train.format == "table" and not seen.captions and all(isinstance(label, str) for label in seen.counts):
        (column, *_) = field_names(train, table.FIELDS)["label"]
        if column.startswith(_NUMBERED):
            return train, about
        named = dataclasses.replace(train, fields=(*train.fields, f"caption={column}"))
        # A table in Parquet may have numbers there, and the names beside them.
        with contextlib.suppress(UserError):
            return (named if facts.first(named).caption else train), about
    return train, about


def _fits(file: str, counts: Counter[Any]) -> bool:
    """Tells whether a file has a name for each class of numbers."""
    numbers = [label for label in counts if isinstance(label, int)]
    return bool(file) and len(numbers) == len(counts) and len(class_names.read(file)) > max(numbers)
