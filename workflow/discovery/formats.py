"""The formats that are recognised in a folder, one entry each in `KNOWN`, and the sources that they make of it."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable

from configs.base import Source
from pipelines import sources, storage
from pipelines.errors import UserError
from pipelines.images.suffixes import is_image
from pipelines.progress import counted
from pipelines.sources import patterns
from workflow.discovery import facts, folder, lists, splits
from workflow.discovery.folder import Folder
from workflow.discovery.found import Find, Found, by_split, is_beside, not_read, pattern, quoted

_FOLDERS = "class folders"
_PROBED = 50
_MOST_LEVELS = 4
_SHOWN = 3
# Words of the names of folders that are no classes, such as `images_001`.
_NO_CLASSES = {
    "images",
    "imgs",
    "img",
    "image",
    "masks",
    "mask",
    "annotations",
    "labels",
    "jpegimages",
    "part",
    "batch",
}
_LABELS = ("class", "category", "species", "fine_label", "labels")
# Suffixes of texts beside images.
_TEXTS = ("txt", "caption")
_LIKE_LISTS = r"\.(txt|json|csv|tsv|jsonl|ndjson)(\.gz)?$"


def _containers(name: str, format: str, like: str) -> Find:
    """Returns a finder of files that hold samples, whose names end as `like` says."""

    def find(inside: Folder) -> Found | None:
        names = [file for file in inside.files if re.search(like, file) and not is_beside(file, inside)]
        if not names:
            return None
        files, others = by_split(names)
        # A folder with one tar may get more.
        least = 1 if len(files) == 1 and not inside.is_named else 2
        made = {
            split: _labelled(Source(format=format, path=pattern(inside.path, some, list(inside.files), least)))
            for split, some in files.items()
        }
        return Found(name, made, notes=tuple(not_read(others)))

    return find


def _labelled(source: Source) -> Source:
    """Returns files of samples with the field of their labels, where they have one by another name than its reader's.

    Raises:
        UserError: if their first samples cannot be read.
    """
    if facts.first(source).label is None:
        for name in _LABELS:
            named = dataclasses.replace(source, fields=(f"label={name}",))
            with contextlib.suppress(UserError):
                if facts.first(named).label is not None:
                    return named
    return source


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
    """Finds folders of images; each is a class.

    Raises:
        UserError: if they are splits, or each of them has splits inside.
    """
    with_images, deeper = _holding(inside)
    if len(with_images) + len(deeper) < 2:
        return None
    holding = {*with_images, *deeper}
    of_splits = splits.of_folders(sorted(holding))
    if "train" in of_splits.values() and holding == of_splits.keys():
        raise UserError(
            f"{quoted(inside.folders)} are splits, not classes, and nothing says the classes of their images"
        )
    if all(_NO_CLASSES.issuperset(re.findall("[^\\W\\d_]+", name.lower()) or [name]) for name in holding):
        raise UserError(f"{quoted(inside.folders)} are not named like classes; give each class a folder")
    inner = {splits.of_folder(below) for below in deeper.values()}
    if not with_images and "train" in inner | {splits.of_folder(name) for name in inside.inner(min(deeper)).folders}:
        raise UserError(
            f"the folders of the classes, such as {min(deeper)!r}, have a split inside; put it above the classes, as "
            "in train/CLASS/*.jpg"
        )
    others = (name for name in inside.folders if name not in holding)
    notes = _folders_not_read(inside, (name for name in others if _is_of_lists(inside.inner(name))))
    if inside.images:
        notes.append(f"{inside.images:,} images are in no class folder; they have no class")
    if not with_images and (nested := [name for name in sorted(deeper) if len(inside.inner(name).folders) > 1]):
        notes.append(
            f"the classes are the folders of the first level, but {nested[0]!r} has images only in folders such as "
            f"{deeper[nested[0]]!r}; if those are the classes, set class_level=2, or 0 for the folder of the image"
        )
    fields = _texts_beside([inside.inner(name) for name in with_images])
    source = Source(format="image_folder", path=inside.path, fields=fields)
    return Found(_FOLDERS, {"train": source}, notes=tuple(notes))


def _texts_beside(folders: list[Folder]) -> tuple[str, ...]:
    """Returns the field of a source of images with texts beside them, `x.txt` of `x.jpg`; nothing if few have words."""
    stems = [{os.path.splitext(name)[0] for name in one.files if is_image(name)} for one in folders]
    for kind in _TEXTS:
        texts = [
            storage.join(one.path, name)
            for one, theirs in zip(folders, stems, strict=True)
            for name in sorted({f"{stem}.{kind}" for stem in theirs}.intersection(one.files))
        ]
        words = sum(map(_has_words, texts[:_PROBED]))
        if 2 * len(texts) > sum(map(len, stems)) and 2 * words > min(len(texts), _PROBED):
            return (f"caption={kind}",)
    return ()


def _has_words(uri: str) -> bool:
    with storage.open_read(uri) as file:
        return bool(re.search(rb"[^\W\d_]{2}|[\x80-\xff]{2}", file.read(1 << 10)))


def _holding(inside: Folder) -> tuple[list[str], dict[str, str]]:
    """Returns the folders in a folder that have images, and those with images one level below, with the first there."""
    with_images, deeper = [], {}
    for name in inside.folders[:_PROBED]:
        one = inside.inner(name)
        if one.images:
            with_images.append(name)
        elif found := next((below for below in one.folders[:2] if one.inner(below).images), ""):
            deeper[name] = found
    return with_images, deeper


def _folders_not_read(inside: Folder, names: Iterable[str]) -> list[str]:
    """Returns notes on folders that are not read, and on their files that may divide the images that are."""
    every = list(names)
    of_splits = [
        f"{name}/{file}"
        for name in every[:_PROBED]
        for file in inside.inner(name).files
        if re.search(_LIKE_LISTS, file, re.IGNORECASE) and splits.of_file(file)[0]
    ]
    said = f"{quoted(of_splits[:_SHOWN])} may divide these images; to keep that, write lists of `path label`"
    return [*not_read(every, "the folder "), *([said] if of_splits else [])]


def _is_of_lists(inside: Folder) -> bool:
    """Tells whether a folder has files that may say something of images, and no images."""
    return not inside.images and any(re.search(_LIKE_LISTS, file, re.IGNORECASE) for file in inside.files)


_LISTS: tuple[tuple[str, Find], ...] = (
    ("lists of lines `path label` (.txt)", lists.finder("lists of `path label`", r"\.txt$", lists.image_list_of)),
    ("COCO (.json)", lists.finder("COCO", r"\.json$", lists.coco_of)),
    ("tables (.csv, .tsv, .jsonl)", lists.finder("table", r"\.(csv|tsv|jsonl|ndjson)(\.gz)?$", lists.table_of)),
    ("tables in .txt", lists.finder("table", r"\.txt$", lists.table_of, is_sure=False)),
)
# In the order in which they are tried; of a folder that is several, the first is taken, and the others are said.
KNOWN: tuple[tuple[str, Find], ...] = (
    ("tars of img2dataset (.tar)", _containers("img2dataset tars", "img2dataset", r"\.(tar|tgz|tar\.gz)$")),
    ("Arrow of datasets (.arrow)", _containers("Arrow of datasets", "arrow", r"\.arrow$")),
    ("vectors (.npy, .npz)", _vectors),
    *_LISTS,
    ("Parquet with images", _containers("Parquet with images", "img2dataset_parquet", r"\.parquet$")),
    ("Parquet with paths or URLs", lists.finder("table in Parquet", r"\.parquet$", lists.table_of)),
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
        inside = dataclasses.replace(whole, files=(name,), is_named=True)
        found, why = _first(inside, KNOWN[:-1])
        found = found and dataclasses.replace(found, class_names=lists.class_names(whole))
    else:
        found, why = _in_folder(folder.look(path.rstrip("/") or "/"), labelled)
    if found is None:
        raise UserError(_seen(path, why))
    return found


def _in_folder(inside: Folder, labelled: bool, level: int = 0) -> tuple[Found | None, list[str]]:
    """Returns what a folder is, and what was seen that is something else: its files come before its folders."""
    files, why = _first(inside, KNOWN[:-1])
    lacks = _lacks(files, labelled) if files else ""
    is_list = files is not None and labelled and files.splits["train"].format in sources.LISTS
    if files and not lacks and not (is_list and len(files.splits) == 1):
        return files, why
    folders, more = _in_folders(inside, labelled, level)
    if files and not lacks:
        if not (folders and folders.name == _FOLDERS):
            return files, why
        named, held = (sum(facts.read(one).rows for one in found.splits.values()) for found in (files, folders))
        said = f"{named:,} rows where the class folders have {counted(held, 'image')}"
        if named >= held:
            return dataclasses.replace(
                files, notes=(*files.notes, f"also looks like class folders; it has {said}")
            ), why
        lacks = f"with {said}; to read it, name its file as --images"
    if not folders and inside.images and not labelled:
        fields = _texts_beside([inside])
        name = "images with texts beside them" if fields else "images without captions"
        folders = Found(name, {"train": Source(format="image_folder", path=inside.path, fields=fields)})
    if files and not folders:
        return files, why
    if files:
        why = [f"not read: the {files.name}, {lacks}", *why]
    return folders and dataclasses.replace(folders, notes=(*folders.notes, *why)), [*why, *more]


def _lacks(found: Found, labelled: bool) -> str:
    """Returns what a list lacks that cannot be done without; nothing if it lacks nothing."""
    if not found.has_images:
        return "whose images are not there"
    return "" if not labelled or facts.has_labels(found.splits["train"]) else "which has no labels"


def _in_folders(inside: Folder, labelled: bool, level: int) -> tuple[Found | None, list[str]]:
    """Returns what the folders of a folder are: splits, classes, images beside their lists, or one that has it all."""
    # Pairs have captions beside their folders, if anywhere; labelled images may have classes in them.
    if found := (labelled and _of_splits(inside, labelled, level)) or _beside_images(inside, labelled):
        return found, []
    found, why = _first(inside, KNOWN[-1:])
    if found := found or (None if labelled else _of_splits(inside, labelled, level)):
        return found, why
    with_images, deeper = _holding(inside)
    holding = [*with_images, *deeper]
    if with_images and labelled:
        ask = "give each class a folder, or write a table with path and label"
        said = f"of its folders {with_images[0]!r} alone has images; {ask}"
        return None, [*why, said] if len(holding) == 1 else why
    usual = [name for name in inside.folders if name.lower() in ("data", "images")] or list(inside.folders)
    alone = holding if len(holding) == 1 else usual
    if len(alone) != 1 or level == _MOST_LEVELS:
        return None, why
    found, more = _in_folder(inside.inner(alone[0]), labelled, level + 1)
    others = _folders_not_read(inside, (name for name in inside.folders if name != alone[0]))
    return found and dataclasses.replace(found, notes=(*found.notes, *others)), [*why, *more]


def _of_splits(inside: Folder, labelled: bool, level: int) -> Found | None:
    """Returns what folders of splits are."""
    of_splits = {split: name for name, split in reversed(splits.of_folders(inside.folders).items())}
    if "train" not in of_splits:
        return None
    parts = {split: _in_folder(inside.inner(name), labelled, level + 1)[0] for split, name in of_splits.items()}
    if not (train := parts["train"]):
        return None
    made = {split: part.splits["train"] for split, part in parts.items() if part}
    lost = [f"the folder {of_splits[split]!r} is not understood" for split, part in parts.items() if not part]
    others = not_read((name for name in inside.folders if name not in of_splits.values()), "the folder ")
    return dataclasses.replace(train, splits=made, notes=(*train.notes, *lost, *others))


def _beside_images(inside: Folder, labelled: bool) -> Found | None:
    """Returns what lists in a folder beside those of the images are, such as COCO's `annotations`."""
    for name in inside.folders[:_PROBED]:
        if _is_of_lists(one := inside.inner(name)):
            found, _ = _first(one, _LISTS)
            if found and found.has_images and (not labelled or facts.has_labels(found.splits["train"])):
                return found
    return None


def _first(inside: Folder, known: Iterable[tuple[str, Find]]) -> tuple[Found | None, list[str]]:
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
    is_file = storage.local_path(path) is not None and os.path.isfile(path)
    counts, stopped = folder.suffixes(path)
    first = folder.look(path)
    if not (counts or is_file or first.links):
        return f"{path}: holds nothing that can be read; name a folder or a file that exists"
    names = quoted((*first.folders, *first.files)[:5])
    most = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common(8))
    said = f" ({'; '.join(why)[:600]})" if why else ""
    known = "; ".join(name for name, _ in KNOWN)
    seen = "" if is_file or not counts else f"; it has {most}{' and more' if stopped else ''}, first {names}"
    links = f"; {quoted(first.links)} are links, which are not followed: name what they lead to" if first.links else ""
    return (
        f"{path}: is not understood{said}{seen}{links}; known are {known}; bring it into one of these, or write the "
        "config by hand (docs/sources.md)"
    )
