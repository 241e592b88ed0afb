"""Lists and tables that name images: which of a folder's files are some, by which columns, and where the images are."""

import contextlib
import dataclasses
import functools
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from configs.base import Source
from configs.schema.data import FORMATS, SPLITS
from pipelines import sources, storage
from pipelines.errors import UserError
from pipelines.images.suffixes import is_image
from pipelines.sources import patterns
from pipelines.sources.images import below, leaves_root
from pipelines.sources.listing import Row
from pipelines.sources.lists import image_list, table
from pipelines.sources.sample import field_names
from workflow.discovery import facts, folder, splits
from workflow.discovery.folder import Folder
from workflow.discovery.found import Find, Found, by_split, is_beside, not_read, pattern, quoted

_COCO = "coco" if "coco" in FORMATS else "inat2021"
_NAME_FILES = ("classnames.txt", "class_names.txt", "classes.txt")
# Columns that are tried where a table has none of the names that its reader knows, in any case.
_COLUMNS = {
    "path": (
        *("path", "file", "file_name", "filename", "filepath", "image_path", "image", "img", "img_path", "image_id"),
        *("image_name", "img_name", "name", "id_code", "id"),
    ),
    "label": (
        *("label", "class", "class_name", "category", "species", "target", "label_name", "labels", "breed"),
        *("classid", "class_id", "category_id", "label_id"),
    ),
    "caption": ("caption", "text", "title", "description", "alt", "alt_text"),
}
# Columns that may name other things than images, so that these must be there.
_NO_PATHS = ("name", "id_code", "id")
# Columns of yes and no, with the splits of both.
_FLAGS = {
    **dict.fromkeys(("is_train", "is_training", "is_training_image"), ("train", "test")),
    **dict.fromkeys(("is_test", "is_testing"), ("test", "train")),
    **dict.fromkeys(("is_val", "is_valid", "is_validation"), ("val", "train")),
}
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")
_IMAGES = ("images", "imgs", "img", "image", "photos", "jpegimages")
_PROBED_ROWS = 20
_SPREAD_ROWS = 100
_PROBED_FOLDERS = 50
_MOST_TRIED, _MOST_WRONG = 50, 3


def class_names(inside: Folder) -> str:
    """Returns the file of a folder that has the names of classes; empty if there is none."""
    return next((storage.join(inside.path, name) for name in _NAME_FILES if name in inside.files), "")


def finder(name: str, like: str, guess: Callable[[Source], Source], is_sure: bool = True) -> Find:
    """Returns a finder of lists.

    Args:
        name: of the format, for people.
        like: how the names of such files end.
        guess: makes a source of a path that can be read; a `UserError` says why it cannot be.
        is_sure: whether such a file is expected to be a list; if not, others are passed over without a word, and the
            images must be there.
    """

    def find(inside: Folder) -> Found | None:
        readable, wrong = _readable(inside, like, guess)
        if not readable:
            if wrong and is_sure:
                raise UserError("; ".join(wrong))
            return None
        readable = _with_captions(readable)
        chosen, notes = _one_each(*by_split(readable))
        guessed = {split: readable[file] for split, file in chosen.items()}
        made, has_images = {}, True
        if len(guessed) == 1:
            if _divides_nothing(guessed["train"]) and not inside.is_named:
                raise UserError(f"not read: {quoted(readable)} (paths alone, which do not say a train and a test set)")
            guessed, more = _by_column(guessed["train"])
            notes += more
        for split, source in guessed.items():
            made[split], is_there, note = _rooted(inside, source, split)
            has_images &= is_there
            notes += [note] if note and note not in notes else []
        if not (has_images or is_sure):
            return None
        notes += not_read(_unlisted(inside, made), "the folder ")
        return Found(name, made, class_names(inside), (*notes, *(wrong if is_sure else ())), has_images)

    return find


def _divides_nothing(source: Source) -> bool:
    """Tells whether the only list of a folder says less than the folders of its images: their paths alone."""
    return source.format == "image_list" and image_list.is_of_paths(patterns.files(source.path)[0].uri)


def _unlisted(inside: Folder, made: dict[str, Source]) -> Iterator[str]:
    """Yields the folders beside some lists that are named like a split and have images that none of them reads."""
    here = inside.path.rstrip("/")
    roots = {source.image_root.rstrip("/") for source in made.values()}
    if here in roots or any(here.startswith(f"{root}/") for root in roots):
        return
    for name in inside.folders[:_PROBED_FOLDERS]:
        if splits.of_folder(name) and f"{here}/{name}" not in roots and inside.inner(name).images:
            yield name


def _readable(inside: Folder, like: str, guess: Callable[[Source], Source]) -> tuple[dict[str, Source], list[str]]:
    """Returns the source of each file of a folder that can be read as a list, and what to say of the others."""
    images = {os.path.splitext(name)[0] for name in inside.files if is_image(name)}
    named = [file for file in inside.files if file not in _NAME_FILES and re.search(like, file, re.IGNORECASE)]
    # A text of one image is no list.
    texts = {f"{stem}{suffix}" for stem in images for suffix in (".txt", ".json")}
    alone = [file for file in named if file not in texts and not is_beside(file, inside)]
    some = [file for file in alone if not file.endswith("_stats.json")]
    some.sort(key=lambda file: not splits.of_file(file)[0])
    found, wrong = {}, []
    for file in some[:_MOST_TRIED]:
        try:
            found[file] = guess(Source(path=pattern(inside.path, [file], []), image_root=inside.path))
        except UserError as error:
            wrong.append(f"not read: {file!r} ({error})"[:300])
    left = len(wrong[_MOST_WRONG:]) + len(some[_MOST_TRIED:])
    return found, wrong[:_MOST_WRONG] + ([f"not read: {left:,} more such as these"] if left else [])


def _one_each(files: dict[str, list[str]], others: list[str]) -> tuple[dict[str, str], list[str]]:
    """Returns one file for each split, that whose name ends with the split, and what to say of the rest."""
    chosen, rest = {}, list(others)
    for split, names in files.items():
        ranked = sorted(names, key=_rank)
        chosen[split], rest = ranked[0], rest + ranked[1:]
    return chosen, not_read(rest)


def _rank(name: str) -> tuple[Any, ...]:
    """Returns what puts the files of a split in order: its word at the end, then COCO's instances, then short names."""
    return not splits.of_file(name)[1], not name.startswith("instances"), len(name), name


def _with_captions(readable: dict[str, Source]) -> dict[str, Source]:
    """Returns lists by their names; COCO's instances have the captions of the same images that are beside them."""
    found = dict(readable)
    for file, source in readable.items():
        other = file.replace("instances", "captions", 1)
        if source.format == _COCO and other != file and other in found:
            found[file] = dataclasses.replace(source, metadata=patterns.files(found.pop(other).path)[0].uri)
    return found


def image_list_of(source: Source) -> Source:
    """Returns a list of lines `path label`; a `UserError` if it is none."""
    source = dataclasses.replace(source, format="image_list")
    _members(source)
    return source


def coco_of(source: Source) -> Source:
    """Returns JSON of COCO; a `UserError` if it is none."""
    source = dataclasses.replace(source, format=_COCO)
    facts.first(source)
    return source


def table_of(source: Source) -> Source:
    """Returns a table with the columns of our fields; those that its reader does not find are tried by other names."""
    source = dataclasses.replace(source, format="table")
    names = table.columns(patterns.files(source.path)[0].uri)
    header = {name.strip().lower(): name for name in reversed(names)}
    columns: tuple[str, ...] = ()
    try:
        facts.first(source)
    except UserError as error:
        path = next((header[name] for name in _COLUMNS["path"] if name in header), None)
        if path is None or not ("column" in str(error) or "field" in str(error)):
            raise
        columns = (f"path={path}",)
    for field in ("label", "caption"):
        row = facts.first(dataclasses.replace(source, fields=columns))
        if (row.label if field == "label" else row.caption) is None:
            tried = [(*columns, f"{field}={header[name]}") for name in _COLUMNS[field] if name in header]
            columns = next((more for more in tried if _has_rows(dataclasses.replace(source, fields=more))), columns)
    return dataclasses.replace(source, fields=columns)


def _has_rows(source: Source) -> bool:
    try:
        facts.first(source)
    except UserError:
        return False
    return True


def _by_column(source: Source) -> tuple[dict[str, Source], list[str]]:
    """Returns the source of each split that a column of a list names, all of it as train if none does; and notes."""
    values: dict[str, Counter[str]] = {}
    folders: set[str] = set()
    total = 0
    for row in itertools.islice(_listed(source), facts.MOST_ROWS):
        total += 1
        folders.add(splits.of_folder(row.member.replace("\\", "/").partition("/")[0]))
        for column, value in row.fields.items():
            if column.strip().lower() in (*facts.SPLIT_COLUMNS, *_FLAGS):
                values.setdefault(column, Counter())[str(value).strip()] += 1
    notes = []
    for column, found in values.items():
        named: dict[str, list[str]] = {}
        for value in found:
            named.setdefault("" if "|" in value else _split_of(column, value), []).append(value)
        others, shown = named.pop("", []), ", ".join(map(repr, list(found)[:_MOST_WRONG]))
        if "train" in named and (len(named) > 1 or not others):
            where = {split: (f"{column}={'|'.join(sorted(named[split]))}",) for split in SPLITS if split in named}
            left = total - sum(found[value] for split in named.values() for value in split)
            said = f"rows of no split, by the column {column!r}: {left:,} of {total:,}, which are not read"
            return {split: dataclasses.replace(source, where=where[split]) for split in where}, [said] if left else []
        if len(found) <= _PROBED_ROWS:
            notes.append(f"the column {column!r} has {shown}, which say no splits; it is not used")
    mixed = "train" in folders and "" not in folders and len(folders) > 1
    note = f"{source.path} has no column of splits, but its images are in folders of {' and '.join(sorted(folders))}"
    return {"train": source}, [*notes, *([f"{note}: name the split of each in a column 'split'"] if mixed else [])]


def _split_of(column: str, value: str) -> str:
    """Returns the split that a value of a column says; empty if it says none."""
    if flag := _FLAGS.get(column.strip().lower()):
        return flag[0] if value.lower() in _YES else flag[1] if value.lower() in _NO else ""
    return splits.of_folder(value)


def _members(source: Source) -> list[str]:
    """Returns the paths of the first images of a list, as it writes them; a `UserError` if there are none."""
    found = [row.member for row in itertools.islice(_listed(source), _PROBED_ROWS) if not row.problem]
    if not found:
        raise UserError(f"{source.path}: is empty")
    return found


def _listed(source: Source) -> Iterator[Row]:
    """Yields the rows of a list whose images are not looked for, since their folder is not known yet."""
    if source.format == "image_list":
        for file in patterns.files(source.path):
            yield from (row for _, row in image_list.parse(file.uri, "", names=True))
    else:
        yield from sources.LISTS[source.format](sources.resolve(source, ""))


def _rooted(inside: Folder, source: Source, split: str) -> tuple[Source, bool, str]:
    """Returns a list with the folder of its images, whether they are there, and a note on what is to be looked at.

    It is the folder of the list, one in it, or one beside it, that has the first images; of several that of the split.
    """
    members = _members(source)
    if any("://" in member for member in members):
        return source, True, ""
    here = inside.path.rstrip("/")
    if all(member.startswith("/") for member in members):
        return _of_whole_paths(source, members, here)
    above = here.rpartition("/")[0]
    around = [here, *(f"{here}/{name}" for name in inside.folders[:_PROBED_FOLDERS])]
    if above:
        beside = [f"{above}/{name}" for name in folder.look(above).folders[:_PROBED_FOLDERS]]
        around += [above, *(path for path in beside if path != here)]
    end = ""
    if source.format == "table" and not any(map(is_image, members)):
        source = _with_suffix(source, members, around)
        members = _members(source)
    elif source.format == "image_list" and not any(map(is_image, members)):
        # The reader adds it.
        end = next((end for root in around if (end := image_list.suffix(root, below(root)(members[0])))), "")
    some = [f"{member}{end}" for member in _spread(source)]
    there = {root: set(filter(functools.partial(_is_there, root), map(below(root), some))) for root in around}
    most = max(map(len, there.values()))
    fits = [root for root in around if len(there[root]) == most]
    fits = [root for root in fits if root.startswith(f"{here}/")] or fits if here not in fits else [here]
    if not most:
        if (column := _path_column(source)).lower() in _NO_PATHS:
            raise UserError(f"{source.path}: {members[0]!r}, the first {column!r} of it, is no image below {here!r}")
        note = f"{members[0]!r}, the first image of {source.path}, is not below {here!r}: set image_root to the folder"
        return dataclasses.replace(source, image_root=here), False, f"{note} of the images"
    own = [root for root in fits if splits.of_folder(storage.name(root)) == split]
    usual = [root for root in fits if storage.name(root).lower() in _IMAGES]
    root = (own or usual or fits)[0]
    beside = [] if root == here else [other for other in around if other.rpartition("/")[0] == root.rpartition("/")[0]]
    near = [*beside, *(other for other in around if other.startswith(f"{root}/"))]
    lacking = [other for other in near if there[other] - there[root]]
    note = "" if own else _other_roots(source, root, lacking, [other for other in fits if other != root])
    return dataclasses.replace(source, image_root=root), True, note


def _other_roots(source: Source, root: str, lacking: list[str], same: list[str]) -> str:
    """Returns a note on other folders, which have images of a list that its root lacks, or those that it has."""
    if lacking:
        return (
            f"images of {source.path} are in several folders; those of {root!r} are read, and not those of "
            f"{lacking[0]!r}: bring all into one folder"
        )
    return f"images of {source.path} are taken from {root!r}, but {same[0]!r} has the same names" if same else ""


def _spread(source: Source) -> list[str]:
    """Returns the paths of some images, from all over a list, up to a line that is none, which `facts.read` refuses."""
    every = []
    with contextlib.suppress(UserError):
        for row in itertools.islice(_listed(source), facts.MOST_ROWS):
            every += [] if row.problem else [row.member]
    return every[:: max(1, len(every) // _SPREAD_ROWS)]


def _path_column(source: Source) -> str:
    """Returns the column of a table's paths, or the text that is made of columns; empty for other formats."""
    if source.format != "table":
        return ""
    names, present = field_names(source, table.FIELDS)["path"], table.columns(patterns.files(source.path)[0].uri)
    return next((name for name in names if name in present), names[0])


def _with_suffix(source: Source, members: list[str], around: Iterable[str]) -> Source:
    """Returns a table whose paths lack the suffix of their images with it, as `path={id}.jpg`, if they are there."""
    column, (head, _, stem) = _path_column(source), members[0].rpartition("/")
    for root in () if leaves_root(members[0]) else around:
        for file in folder.look(storage.join(root, head) if head else root).files:
            if is_image(file) and os.path.splitext(file)[0] == stem:
                others = [field for field in source.fields if not field.startswith("path=")]
                path = f"path={{{column}}}{os.path.splitext(file)[1]}"
                return dataclasses.replace(source, fields=(path, *others))
    return source


def _of_whole_paths(source: Source, members: list[str], here: str) -> tuple[Source, bool, str]:
    """Returns a list of paths from the root, with the folder that all of them are in."""
    place = below(here)
    if not any(place(member).startswith("/") for member in members):
        return dataclasses.replace(source, image_root=here), any(map(storage.exists, members)), ""
    rows = itertools.islice(sources.listed(dataclasses.replace(source, image_root="/")), facts.MOST_ROWS)
    root = os.path.commonpath(["/" + os.path.dirname(row.member) for row in rows if not row.problem])
    return dataclasses.replace(source, image_root=root), any(map(storage.exists, members)), ""


def _is_there(root: str, member: str) -> bool:
    try:
        return not leaves_root(member) and storage.found(storage.join(root, member)) is not None
    except (OSError, ValueError, UserError):
        return False
