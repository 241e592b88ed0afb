"""Makes the demo corpus: real image-text pairs and a labelled long-tailed dataset, out of emoji of several vendors.

Makes sure that the output is whole, repeatable and cached. Classes, splits and captions are up to `classes`, the styles
to `styles`, pixels to `render`, the layout of shards to `img2dataset_writer`, tarballs to `npm_packages`.

Layout of the output folder:

    pairs/00000.tar, 00000.parquet, 00000_stats.json, ..   the memory, as img2dataset writes LAION
    labelled/images/{train,val,test}/{class}/{codepoints}.jpg
    labelled/EmojiLT_{train,val,test}.txt                   lines `relative/path label`, as ImageNet-LT's
    labelled/new/{name}.jpg                                 a few images of no list, to be predicted
    labelled/classnames.txt                                 line c is `class<TAB>name` of label c
    corpus.json                                             parameters, counts, licences, checksums; written last
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from configs.base import Corpus
from configs.schema.data import SPLITS
from pipelines.demo import classes, img2dataset_writer, npm_packages, render, styles
from pipelines.demo.classes import MIN_CLASS_EMOJI, LabelledImage
from pipelines.demo.img2dataset_writer import Pair
from pipelines.demo.styles import STYLES, Drawing, Emoji
from pipelines.errors import UserError

LIST_NAMES = {split: f"EmojiLT_{split}.txt" for split in SPLITS}
MARKER = "corpus.json"

_FORMAT = 2
_OWN_ENTRIES = {"pairs", "labelled", MARKER}

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class CorpusSummary:
    """Counts of a finished corpus.

    Attributes:
        pairs: image-text pairs of the memory.
        pairs_per_style: pairs of each style.
        shards: of the memory.
        classes: labels of the dataset.
        images_train: labelled images of the training set.
        images_val: labelled images of the validation set.
        images_test: labelled images of the test set.
        train_per_class: training images of each label, in the order of labels.
        test_per_class: test images of each label, in the order of labels.
    """

    pairs: int
    pairs_per_style: Mapping[str, int]
    shards: int
    classes: int
    images_train: int
    images_val: int
    images_test: int
    train_per_class: Sequence[int]
    test_per_class: Sequence[int]


def build(
    out: pathlib.Path, wanted: Corpus, *, seed: int, cache_dir: pathlib.Path, on_progress: Progress
) -> CorpusSummary:
    """Makes the corpus, or returns at once if it is there already.

    Another corpus in `out` is replaced once the new one is whole. If a build is interrupted, `out` stays as it was; the
    next build starts over with the cached packages and writes the same bytes.

    Args:
        out: folder of the corpus, which nothing else may use.
        wanted: what the corpus is made of; its fields must be checked already.
        seed: decides captions, order, splits and the cut.
        cache_dir: where packages are kept between runs, in `npm/`.
        on_progress: called with a step (`fetch`, `render`), the number of its parts that are done, and the number of
            all its parts.

    Returns:
        The counts of the corpus.

    Raises:
        UserError: if `max_emoji` is too small, `out` has other files, or a package cannot be fetched.
    """
    if 0 < wanted.max_emoji < 2 * MIN_CLASS_EMOJI:
        raise UserError(
            f"--config.corpus.max_emoji={wanted.max_emoji}: must be 0 for all, or at least {2 * MIN_CLASS_EMOJI} for "
            "two classes"
        )
    out = out.resolve()
    if summary := read_finished(out, wanted, seed):
        return summary
    _refuse_foreign(out)
    work = out.with_name(f".{out.name}.building")
    summary = read_finished(work, wanted, seed)
    if not summary:
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        summary = _build(work, cache_dir / "npm", wanted, seed, on_progress)
    replaced = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if out.exists():
        out.rename(replaced)
    work.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)
    return summary


def _refuse_foreign(out: pathlib.Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder for the corpus")
    if foreign := sorted({path.name for path in out.iterdir()} - _OWN_ENTRIES):
        raise UserError(f"{out}: holds {foreign[0]}, which is not part of a corpus; name another folder or empty it")
    if any(out.iterdir()) and not (out / MARKER).exists():
        raise UserError(f"{out}: is not empty and has no {MARKER}, so it was not made here; name another folder")


def _packages(wanted: Corpus) -> list[npm_packages.Package]:
    chosen = (*wanted.memory_styles, wanted.query_style)
    packages = {styles.OPENMOJI.name: styles.OPENMOJI} | {
        STYLES[style].package.name: STYLES[style].package for style in chosen
    }
    return list(packages.values())


def _identity(wanted: Corpus, seed: int) -> dict[str, Any]:
    """Returns everything that decides the bytes of a corpus, as JSON values."""
    identity = {
        "format": _FORMAT,
        "parameters": {**dataclasses.asdict(wanted), "seed": seed},
        "packages": [dataclasses.asdict(package) for package in _packages(wanted)],
        "changes": "drawings were rendered to JPEG on a plain background",
    }
    return dict(json.loads(json.dumps(identity)))


def read_finished(folder: pathlib.Path, wanted: Corpus, seed: int) -> CorpusSummary | None:
    """Returns the summary of a folder if it holds all files of exactly this corpus, by name and size."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        if any(marker.get(name) != value for name, value in _identity(wanted, seed).items()):
            return None
        if any((folder / path).stat().st_size != file["bytes"] for path, file in marker["files"].items()):
            return None
        return CorpusSummary(**marker["summary"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _build(work: pathlib.Path, cache: pathlib.Path, wanted: Corpus, seed: int, on_progress: Progress) -> CorpusSummary:
    tarballs = _fetch(_packages(wanted), cache, on_progress)
    catalogue = styles.read_catalogue(tarballs[styles.OPENMOJI.name])
    drawings = {
        style: styles.read_drawings(STYLES[style], tarballs[STYLES[style].package.name], catalogue)
        for style in (*wanted.memory_styles, wanted.query_style)
    }
    queries = drawings[wanted.query_style]
    members = classes.choose_classes(catalogue, queries, wanted.max_emoji, seed)
    if wanted.max_emoji:
        chosen = {emoji.codepoints for group in members.values() for emoji in group}
        catalogue = tuple(emoji for emoji in catalogue if emoji.codepoints in chosen)
    labelled = classes.label_images(members, queries, seed)
    memory = _memory(catalogue, drawings, wanted.memory_styles, seed)

    tasks = [(drawings[style][emoji.codepoints], STYLES[style].background) for style, emoji in memory]
    tasks += [(image.drawing, STYLES[wanted.query_style].background) for image in labelled]
    rendered = render.render_all(tasks, wanted.image_size, lambda done: on_progress("render", done, len(tasks)))
    with contextlib.closing(rendered) as images:
        _write_memory(work / "pairs", memory, drawings, images, wanted, seed)
        _write_labelled(work / "labelled", members, labelled, images)
    summary = _summarise(memory, labelled, wanted)
    _write_marker(work, summary, _identity(wanted, seed))
    return summary


def _fetch(
    packages: Sequence[npm_packages.Package], cache: pathlib.Path, on_progress: Progress
) -> dict[str, pathlib.Path]:
    """Returns the tarball of each package, by the package's name."""
    tarballs: dict[str, pathlib.Path] = {}
    on_progress("fetch", 0, len(packages))
    for package in packages:
        tarballs[package.name] = npm_packages.fetch(package, cache)
        on_progress("fetch", len(tarballs), len(packages))
    return tarballs


def _memory(
    catalogue: Sequence[Emoji], drawings: Mapping[str, Mapping[str, Drawing]], memory_styles: Sequence[str], seed: int
) -> list[tuple[str, Emoji]]:
    """Returns the styles and emoji that become pairs, shuffled."""
    memory = [(style, emoji) for style in memory_styles for emoji in catalogue if emoji.codepoints in drawings[style]]
    return sorted(memory, key=lambda entry: classes.rank(seed, "order", entry[0], entry[1].codepoints))


def _write_memory(
    folder: pathlib.Path,
    memory: Sequence[tuple[str, Emoji]],
    drawings: Mapping[str, Mapping[str, Drawing]],
    images: Iterator[bytes],
    wanted: Corpus,
    seed: int,
) -> None:
    folder.mkdir()
    for shard, begin in enumerate(range(0, len(memory), wanted.pairs_per_shard)):
        pairs = []
        for style, emoji in memory[begin : begin + wanted.pairs_per_shard]:
            package = STYLES[style].package
            pairs.append(
                Pair(
                    image=next(images),
                    width=wanted.image_size,
                    height=wanted.image_size,
                    caption=classes.caption(style, emoji, seed),
                    url=package.purl(drawings[style][emoji.codepoints].path),
                    license=package.license,
                )
            )
        img2dataset_writer.write_shard(folder, shard, pairs, wanted.pairs_per_shard)


def _write_labelled(
    folder: pathlib.Path, names: Iterable[str], labelled: Sequence[LabelledImage], images: Iterator[bytes]
) -> None:
    lines: dict[str, list[str]] = {split: [] for split in LIST_NAMES}
    for image in labelled:
        path = folder / image.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(next(images))
        if image.split in lines:
            lines[image.split].append(f"{image.path.removeprefix('images/')} {image.label}\n")
    for split, list_name in LIST_NAMES.items():
        (folder / list_name).write_text("".join(lines[split]))
    (folder / "classnames.txt").write_text("".join(f"{name}\t{name.replace('-', ' ')}\n" for name in names))


def _summarise(memory: Sequence[tuple[str, Emoji]], labelled: Sequence[LabelledImage], wanted: Corpus) -> CorpusSummary:
    pairs = collections.Counter(style for style, _ in memory)
    images = collections.Counter((image.split, image.label) for image in labelled)
    labels = range(1 + max(image.label for image in labelled))
    per_class = {split: [images[split, label] for label in labels] for split in LIST_NAMES}
    return CorpusSummary(
        pairs=len(memory),
        pairs_per_style={style: pairs[style] for style in wanted.memory_styles},
        shards=math.ceil(len(memory) / wanted.pairs_per_shard),
        classes=len(labels),
        images_train=sum(per_class["train"]),
        images_val=sum(per_class["val"]),
        images_test=sum(per_class["test"]),
        train_per_class=per_class["train"],
        test_per_class=per_class["test"],
    )


def _write_marker(folder: pathlib.Path, summary: CorpusSummary, identity: Mapping[str, Any]) -> None:
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    listing = "".join(f"{file['sha256']}  {name}\n" for name, file in files.items())
    marker = {
        **identity,
        "summary": dataclasses.asdict(summary),
        "outputs_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "files": files,
    }
    half = folder / f"{MARKER}.half"
    half.write_text(json.dumps(marker, indent=1))
    half.rename(folder / MARKER)
