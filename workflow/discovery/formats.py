"""The formats that are recognised in a folder, one entry each in `KNOWN`, and the sources that they make of it."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterable

from configs.base import Source
from configs.schema.data import FORMATS
from pipelines import sources, storage
from pipelines.errors import UserError
from pipelines.sources import patterns
from pipelines.sources.lists import image_list
from workflow.discovery import facts, folder, splits
from workflow.discovery.folder import Folder

_COCO = "coco" if "coco" in FORMATS else "inat2021"
_NAME_FILES = ("classnames.txt", "class_names.txt", "classes.txt")
# Columns that are tried where a table has none of the names that its reader knows.
_PATHS = ("filepath", "image", "img", "img_path", "filename", "image_id", "name")
_LABELS = ("class", "class_name", "category", "species", "target", "label_name")
_CAPTIONS = ("title", "description", "alt", "alt_text")
_ARRAYS = r"(img_emb.*|\bX(_\w+)?|\w*(features|embeddings|vectors)\w*)\.npy$|\.npz$"
_MOST_FILES = 8
_PROBED = 50
_MOST_LEVELS = 4


@dataclasses.dataclass(frozen=True)
class Found:
    """Sources of one format.

    Attributes:
        name: of the format, for people.
        splits: the source of each split, with whole paths; the one of `train` alone may be all there is.
        class_names: file with the names of the classes, if there is one.
        notes: what was ambiguous, and what was chosen.
    """

    name: str
    splits: dict[str, Source]
    class_names: str = ""
    notes: tuple[str, ...] = ()


_Find = Callable[[Folder], Found | None]


def _by_split(files: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Returns the files of each split, and those of none; without any split all are of train."""
    named: dict[str, list[str]] = {}
    for file in files:
        named.setdefault(splits.of_file(file)[0], []).append(file)
    others = named.pop("", [])
    return (named, others) if "train" in named else ({"train": [*others, *sum(named.values(), [])]}, [])


def _one_each(files: dict[str, list[str]], others: list[str]) -> tuple[dict[str, str], list[str]]:
    """Returns one file for each split, that whose name ends with the split, and what to say of the rest."""
    chosen, rest = {}, list(others)
    for split, names in files.items():
        ranked = sorted(names, key=lambda name: (not splits.of_file(name)[1], len(name), name))
        chosen[split], rest = ranked[0], rest + ranked[1:]
    return chosen, [f"not read: {name!r}" for name in rest[:_MOST_FILES]]


def _pattern(path: str, names: list[str], everything: list[str], least: int = 2) -> str:
    """Returns a pattern for some of the files of a folder: by what their names share, or each by its name.

    Args:
        path: of the folder.
        names: of the files.
        everything: names of all its files.
        least: how many files make a pattern; of fewer, each is named.
    """
    place = patterns.quote(path.rstrip("/")) + "/"
    end = os.path.splitext(names[0])[1]
    for begin in ("", os.path.commonprefix(names)):
        fits = [name for name in everything if name.startswith(begin) and name.endswith(end)]
        if len(names) >= least and end and sorted(fits) == sorted(names):
            return f"{place}{patterns.quote(begin)}*{patterns.quote(end)}"
    return ",".join(place + patterns.quote(name) for name in names)


def _containers(name: str, format: str, like: str) -> _Find:
    """Returns a finder of files that hold samples, whose names end as `like` says."""

    def find(inside: Folder) -> Found | None:
        names = [file for file in inside.files if re.search(like, file) and not _is_beside(file, inside)]
        if not names:
            return None
        files, others = _by_split(names)
        # A folder with one tar may get more.
        least = 1 if len(files) == 1 and not inside.is_named else 2
        made = {
            split: Source(format=format, path=_pattern(inside.path, some, list(inside.files), least))
            for split, some in files.items()
        }
        for source in made.values():
            facts.first(source)
        return Found(name, made, notes=tuple(f"not read: {other!r}" for other in others[:_MOST_FILES]))

    return find


def _is_beside(file: str, inside: Folder) -> bool:
    """Tells whether a table belongs to a tar or to vectors, with which it is read."""
    stem, suffix = os.path.splitext(file)
    return suffix == ".parquet" and (
        any(f"{stem}{tar}" in inside.files for tar in (".tar", ".tgz", ".tar.gz"))
        or f"{stem.replace('metadata', 'img_emb')}.npy" in inside.files
    )


def _first_member(source: Source) -> str:
    """Returns the path of the first image of a list, wherever that is."""
    if source.format != "image_list":
        return facts.first(source).member
    for file in patterns.files(source.path):
        for _, row in image_list.parse(file.uri, source.image_root, names=True):
            return row.member
    raise UserError(f"{source.path}: is empty")


def _root(inside: Folder, source: Source) -> tuple[Source, tuple[str, ...]]:
    """Returns a list with the folder that its first image is in: that of the list, one in it, or one beside it."""
    member = _first_member(dataclasses.replace(source, image_root=inside.path))
    if "://" in member:
        return source, ()
    here = inside.path.rstrip("/")
    above = here.rpartition("/")[0]
    around = [here, *(f"{here}/{name}" for name in inside.folders[:_PROBED])]
    around += [above, *(f"{above}/{name}" for name in folder.look(above).folders[:_PROBED])] if above else []
    fits = [root for root in around if storage.exists(storage.join(root, member))]
    if fits:
        several = (f"{member!r} is also below {fits[1]!r}",) if len(fits) > 1 else ()
        return dataclasses.replace(source, image_root=fits[0]), several
    note = f"{member!r}, the first image of the list, is not below {here!r}: set image_root to the folder of the images"
    return dataclasses.replace(source, image_root=here), (note,)


def _class_names(inside: Folder) -> str:
    return next((storage.join(inside.path, name) for name in _NAME_FILES if name in inside.files), "")


def _lists(name: str, like: str, guess: Callable[[Source], Source]) -> _Find:
    """Returns a finder of lists, whose names end as `like` says; `guess` makes a source of a path that can be read."""

    def find(inside: Folder) -> Found | None:
        names, wrong = [], []
        for file in inside.files:
            is_other = file in _NAME_FILES or file.endswith("_stats.json") or _is_beside(file, inside)
            if is_other or not re.search(like, file, re.IGNORECASE):
                continue
            try:
                guess(Source(path=_pattern(inside.path, [file], []), image_root=inside.path))
            except UserError as error:
                wrong.append(f"not read: {file!r} ({error})"[:300])
                continue
            names.append(file)
        if not names:
            if wrong:
                raise UserError(wrong[0])
            return None
        chosen, notes = _one_each(*_by_split(names))
        made = {}
        for split, file in chosen.items():
            guessed = guess(Source(path=_pattern(inside.path, [file], []), image_root=inside.path))
            made[split], more = _root(inside, guessed)
            notes += [note for note in more if note not in notes]
        return Found(name, made, _class_names(inside), (*notes, *wrong))

    return find


def _as(format: str) -> Callable[[Source], Source]:
    def guess(source: Source) -> Source:
        source = dataclasses.replace(source, format=format)
        _first_member(source)
        return source

    return guess


def _table(source: Source) -> Source:
    """Returns a table with the columns of our fields; those that its reader does not find are tried by other names."""
    source = dataclasses.replace(source, format="table")
    columns: tuple[str, ...] = ()
    tried: list[tuple[str, ...]] = [(), *((f"path={name}",) for name in _PATHS)]
    for columns in tried:
        try:
            facts.first(dataclasses.replace(source, fields=columns))
            break
        except UserError as error:
            if "column" not in str(error) and "field" not in str(error):
                raise
            if columns == tried[-1]:
                facts.first(source)
    for field, names in (("label", _LABELS), ("caption", _CAPTIONS)):
        row = facts.first(dataclasses.replace(source, fields=columns))
        if (row.label if field == "label" else row.caption) is None:
            columns += next((more for name in names if _reads(source, more := (f"{field}={name}",), columns)), ())
    return dataclasses.replace(source, fields=columns)


def _reads(source: Source, more: tuple[str, ...], columns: tuple[str, ...]) -> bool:
    try:
        facts.first(dataclasses.replace(source, fields=(*columns, *more)))
    except UserError:
        return False
    return True


def _vectors(inside: Folder) -> Found | None:
    """Finds arrays: those of clip-retrieval, in folders or in one, `X.npy` with `y.npy`, and `.npz`."""
    if "img_emb" in inside.folders:
        found: Found | None = Found("vectors", {"train": Source(format="vectors", path=patterns.quote(inside.path))})
    else:
        found = _containers(
            "vectors", "vectors", r"(img_emb.*|\bX(_\w+)?|\w*(features|embeddings|vectors)\w*)\.npy$|\.npz$"
        )(inside)
    if found is None:
        return None
    known = sources.brought_dims(sources.resolve(found.splits["train"], ""))
    if len(known) == 1 and not facts.first(found.splits["train"]).caption:
        # Without texts the vectors are the values, too.
        name = next((name for name in ("img_emb", "X", "x", "features", "embeddings") if _has(found, name)), "")
        if name:
            made = {
                split: dataclasses.replace(source, fields=(f"value_image={name}",))
                for split, source in found.splits.items()
            }
            found = dataclasses.replace(found, splits=made)
    return found


def _has(found: Found, array: str) -> bool:
    source = dataclasses.replace(found.splits["train"], fields=(f"value_image={array}",))
    try:
        return "value_image" in sources.brought_dims(sources.resolve(source, ""))
    except UserError:
        return False


def _class_folders(inside: Folder) -> Found | None:
    """Finds folders of images; each is a class."""
    probed = [inside.inner(name) for name in inside.folders[:_PROBED]]
    direct = [one for one in probed if one.images]
    deeper = [(one, name) for one in probed if not one.images for name in one.folders[:2] if one.inner(name).images]
    if not direct and not deeper:
        return None
    if len(inside.folders) < 2 and not direct:
        return None
    notes = []
    if inside.images:
        notes.append(f"{inside.images:,} images are in no class folder; they have no class")
    if deeper and not direct:
        one, name = deeper[0]
        notes.append(
            f"the classes are the folders of the first level, but {storage.name(one.path)!r} has images only in "
            f"folders such as {name!r}; if those are the classes, set class_level=2, or 0 for the folder of the image"
        )
    return Found("class folders", {"train": Source(format="image_folder", path=inside.path)}, notes=tuple(notes))


# In the order in which they are tried; of a folder that is several, the first is taken, and the others are said.
KNOWN: tuple[tuple[str, _Find], ...] = (
    ("tars of img2dataset (.tar)", _containers("img2dataset tars", "img2dataset", r"\.(tar|tgz|tar\.gz)$")),
    ("Arrow of datasets (.arrow)", _containers("Arrow of datasets", "arrow", r"\.arrow$")),
    ("vectors (.npy, .npz)", _vectors),
    ("lists of lines `path label` (.txt)", _lists("lists of `path label`", r"\.txt$", _as("image_list"))),
    ("COCO (.json)", _lists("COCO", r"\.json$", _as(_COCO))),
    ("tables (.csv, .tsv, .jsonl)", _lists("table", r"\.(csv|tsv|jsonl|ndjson)(\.gz)?$", _table)),
    ("Parquet with images", _containers("Parquet with images", "img2dataset_parquet", r"\.parquet$")),
    ("Parquet with paths or URLs", _lists("table in Parquet", r"\.parquet$", _table)),
    ("TFRecords (.tfrecord)", _containers("TFRecords", "tfrecord", r"\.tfrecords?(-|\.|$)")),
    ("class folders (CLASS/*.jpg)", _class_folders),
)


def recognise(path: str, labelled: bool) -> Found:
    """Returns what a folder or a file is.

    Args:
        path: of it, from the root.
        labelled: whether its rows must have labels: then class folders come before a list without any.

    Raises:
        UserError: says what was seen, and which formats are known.
    """
    if storage.local_path(path) is not None and os.path.isfile(path):
        parent, _, name = path.rpartition("/")
        whole = folder.look(parent or "/")
        inside = Folder(whole.path, (name,), whole.folders, is_named=True)
        found, why = _first(inside, KNOWN[:-1])
        found = found and dataclasses.replace(found, class_names=_class_names(whole))
    else:
        found, why = _in_folder(folder.look(path.rstrip("/") or "/"), labelled)
    if found is None:
        raise UserError(_seen(path, why))
    return found


def _in_folder(inside: Folder, labelled: bool, level: int = 0) -> tuple[Found | None, list[str]]:
    found, why = _first(inside, KNOWN[:-1])
    folders, more = _first(inside, KNOWN[-1:])
    if found and folders and labelled and facts.first(found.splits["train"]).label is None:
        why.append(f"not read: the {found.name}, which has no labels")
    elif found:
        also = ("also looks like class folders",) if folders else ()
        return dataclasses.replace(found, notes=(*found.notes, *also)), why
    of_splits = {split: name for name in inside.folders if (split := splits.of_folder(name))}
    if "train" in of_splits:
        parts = {split: _in_folder(inside.inner(name), labelled, level + 1)[0] for split, name in of_splits.items()}
        if train := parts["train"]:
            made = {split: part.splits["train"] for split, part in parts.items() if part}
            lost = [f"the folder {of_splits[split]!r} is not understood" for split, part in parts.items() if not part]
            others = [name for name in inside.folders if name not in of_splits.values()]
            notes = [*train.notes, *lost, *(f"not read: the folder {name!r}" for name in others[:_MOST_FILES])]
            return dataclasses.replace(train, splits=made, notes=tuple(notes)), why
    if folders:
        return dataclasses.replace(folders, notes=(*folders.notes, *why)), why
    alone = [name for name in inside.folders if name in ("data", "images")] or list(inside.folders)
    if len(alone) == 1 and level < _MOST_LEVELS:
        return _in_folder(inside.inner(alone[0]), labelled, level + 1)
    return None, [*why, *more]


def _first(inside: Folder, known: Iterable[tuple[str, _Find]]) -> tuple[Found | None, list[str]]:
    """Returns what the first of the finders makes of a folder, and what the others say."""
    found, why = None, []
    for name, find in known:
        try:
            other = find(inside)
        except UserError as error:
            why.append(str(error))
            continue
        if found and other and other.name != found.name:
            found = dataclasses.replace(found, notes=(*found.notes, f"also looks like {name}"))
        found = found or other
    return found, why


def _seen(path: str, why: list[str]) -> str:
    """Returns the sentence for what is not understood."""
    counts, stopped = folder.suffixes(path)
    if not counts:
        return f"{path}: holds nothing that can be read; name a folder or a file that exists"
    first = folder.look(path)
    names = ", ".join(repr(name) for name in (*first.folders, *first.files)[:5])
    most = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common(8))
    said = f" ({'; '.join(why)[:600]})" if why else ""
    known = "; ".join(name for name, _ in KNOWN)
    return (
        f"{path}: is not understood{said}; it has {most}{' and more' if stopped else ''}, first {names}; known are "
        f"{known}; bring it into one of these, or write the config by hand (docs/sources.md)"
    )
