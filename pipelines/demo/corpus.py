"""Makes the demo corpus: real image-text pairs and a labelled long-tailed dataset, out of emoji of several vendors.

Owns that the output is whole, repeatable and cached. Which emoji become what is left to `emoji_plan`, the styles
to `emoji_styles`, pixels to `emoji_render`, the shards' layout to `img2dataset_writer`, tarballs to `npm_packages`.

Layout of the output folder:

    pairs/00000.tar, 00000.parquet, 00000_stats.json, ..   the memory, as img2dataset writes LAION
    labelled/images/{train,val,test}/{class}/{codepoints}.jpg
    labelled/EmojiLT_{train,val,test}.txt                   lines `relative/path label`, as ImageNet-LT's
    labelled/classnames.txt                                 line c is `class<TAB>name` of label c
    corpus.json                                             written last: parameters, counts, licences, checksums
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

from pipelines.demo import img2dataset_writer, npm_packages, plan, render, styles
from pipelines.demo.img2dataset_writer import Pair
from pipelines.demo.plan import MIN_CLASS_EMOJI, SPLITS, LabelledImage
from pipelines.demo.styles import STYLES, Drawing, Emoji
from pipelines.errors import UserError

LIST_NAMES = {split: f"EmojiLT_{split}.txt" for split in SPLITS}
MARKER = "corpus.json"

_FORMAT = 1
_OWN_ENTRIES = {"pairs", "labelled", MARKER}

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class CorpusSummary:
    """Counts of a finished corpus.

    Attributes:
        pairs: image-text pairs of the memory.
        pairs_per_style: the same, by style.
        shards: of the memory.
        classes: labels of the dataset.
        images_train: labelled images to train on.
        images_val: labelled images to choose by.
        images_test: labelled images to report on.
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


@dataclasses.dataclass(frozen=True)
class _Parameters:
    memory_styles: tuple[str, ...]
    query_style: str
    image_size: int
    pairs_per_shard: int
    max_emoji: int
    seed: int


def build(
    out: pathlib.Path,
    *,
    cache_dir: pathlib.Path,
    memory_styles: Sequence[str],
    query_style: str,
    image_size: int,
    pairs_per_shard: int,
    max_emoji: int,
    seed: int,
    on_progress: Progress,
) -> CorpusSummary:
    """Makes the corpus, or returns at once if it is there already.

    Another corpus in `out` is replaced when the new one is finished. A build that is killed leaves `out` as it was;
    the next one starts over with the cached packages and comes to the same bytes.

    Args:
        out: the corpus; belongs to this function alone.
        cache_dir: where packages are kept between runs, in `npm/`.
        memory_styles: names in `STYLES` whose drawings become pairs.
        query_style: another name in `STYLES`, whose drawings become the labelled dataset.
        image_size: side of the square images in pixels.
        pairs_per_shard: size of a full shard.
        max_emoji: how many emoji to take, from about a tenth as many classes of all sizes; 0 takes all.
        seed: decides captions, order, splits and the cut.
        on_progress: called with a stage (`fetch`, `render`), how much of it is done, and of how much.

    Returns:
        The counts of the corpus.

    Raises:
        UserError: if an argument makes no sense, `out` holds something else, or a package cannot be had.
    """
    parameters = _Parameters(tuple(memory_styles), query_style, image_size, pairs_per_shard, max_emoji, seed)
    _check(parameters)
    out = out.resolve()
    if summary := _read_finished(out, parameters):
        return summary
    _refuse_foreign(out)
    work = out.with_name(f".{out.name}.building")
    summary = _read_finished(work, parameters)
    if not summary:
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        summary = _build(work, cache_dir / "npm", parameters, on_progress)
    replaced = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if out.exists():
        out.rename(replaced)
    work.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)
    return summary


def _check(parameters: _Parameters) -> None:
    known = ", ".join(STYLES)
    for style in (*parameters.memory_styles, parameters.query_style):
        if style not in STYLES:
            raise UserError(f"there is no emoji style {style!r}; the styles are {known}")
    if not parameters.memory_styles or len(set(parameters.memory_styles)) != len(parameters.memory_styles):
        raise UserError(f"memory_styles must name one or more different styles of {known}")
    if parameters.query_style in parameters.memory_styles:
        raise UserError(
            f"{parameters.query_style} is both the query style and a memory style, so every query would find itself; "
            "take it out of memory_styles"
        )
    if not 16 <= parameters.image_size <= 1024:
        raise UserError(f"image_size must be 16 to 1024 pixels, not {parameters.image_size}")
    if not 1 <= parameters.pairs_per_shard <= 100_000:
        raise UserError(f"pairs_per_shard must be 1 to 100,000, not {parameters.pairs_per_shard}")
    if parameters.max_emoji != 0 and parameters.max_emoji < 2 * MIN_CLASS_EMOJI:
        raise UserError(
            f"max_emoji must be 0 for all, or at least {2 * MIN_CLASS_EMOJI} for two classes, not "
            f"{parameters.max_emoji}"
        )


def _refuse_foreign(out: pathlib.Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out}: is a file; name a folder for the corpus")
    if foreign := sorted({path.name for path in out.iterdir()} - _OWN_ENTRIES):
        raise UserError(f"{out}: holds {foreign[0]}, which is no part of a corpus; name another folder or empty it")
    if any(out.iterdir()) and not (out / MARKER).exists():
        raise UserError(f"{out}: is not empty and has no {MARKER}, so it was not made here; name another folder")


def _packages(parameters: _Parameters) -> list[npm_packages.Package]:
    chosen = (*parameters.memory_styles, parameters.query_style)
    packages = {styles.OPENMOJI.name: styles.OPENMOJI} | {
        STYLES[style].package.name: STYLES[style].package for style in chosen
    }
    return list(packages.values())


def _identity(parameters: _Parameters) -> dict[str, Any]:
    """Returns everything that decides the bytes of a corpus, as JSON values."""
    identity = {
        "format": _FORMAT,
        "parameters": dataclasses.asdict(parameters),
        "packages": [dataclasses.asdict(package) for package in _packages(parameters)],
        "changes": "drawings were rendered to JPEG on a plain background",
    }
    return dict(json.loads(json.dumps(identity)))


def _read_finished(folder: pathlib.Path, parameters: _Parameters) -> CorpusSummary | None:
    """Returns the summary of a folder that holds all files of exactly this corpus, by name and size, or else None."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        if any(marker.get(name) != value for name, value in _identity(parameters).items()):
            return None
        if any((folder / path).stat().st_size != file["bytes"] for path, file in marker["files"].items()):
            return None
        return CorpusSummary(**marker["summary"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _build(work: pathlib.Path, cache: pathlib.Path, parameters: _Parameters, on_progress: Progress) -> CorpusSummary:
    packages = _packages(parameters)
    tarballs: dict[str, pathlib.Path] = {}
    on_progress("fetch", 0, len(packages))
    for package in packages:
        tarballs[package.name] = npm_packages.fetch(package, cache)
        on_progress("fetch", len(tarballs), len(packages))
    catalogue = styles.read_catalogue(tarballs[styles.OPENMOJI.name])
    drawings = {
        name: styles.read_drawings(STYLES[name], tarballs[STYLES[name].package.name], catalogue)
        for name in (*parameters.memory_styles, parameters.query_style)
    }
    classes = plan.choose_classes(catalogue, drawings[parameters.query_style], parameters.max_emoji, parameters.seed)
    if parameters.max_emoji:
        chosen = {emoji.codepoints for members in classes.values() for emoji in members}
        catalogue = tuple(emoji for emoji in catalogue if emoji.codepoints in chosen)
    labelled = plan.label_images(classes, drawings[parameters.query_style], parameters.seed)
    memory = [
        (name, emoji) for name in parameters.memory_styles for emoji in catalogue if emoji.codepoints in drawings[name]
    ]
    memory.sort(key=lambda entry: plan.rank(parameters.seed, "order", entry[0], entry[1].codepoints))

    tasks = [(drawings[name][emoji.codepoints], STYLES[name].background) for name, emoji in memory]
    tasks += [(image.drawing, STYLES[parameters.query_style].background) for image in labelled]
    rendered = render.render_all(tasks, parameters.image_size, lambda done: on_progress("render", done, len(tasks)))
    with contextlib.closing(rendered) as images:
        _write_memory(work / "pairs", memory, drawings, images, parameters)
        _write_labelled(work / "labelled", classes, labelled, images)
    summary = _summarise(memory, labelled, parameters)
    _write_marker(work, summary, parameters)
    return summary


def _write_memory(
    folder: pathlib.Path,
    memory: Sequence[tuple[str, Emoji]],
    drawings: Mapping[str, Mapping[str, Drawing]],
    images: Iterator[bytes],
    parameters: _Parameters,
) -> None:
    folder.mkdir()
    for shard, begin in enumerate(range(0, len(memory), parameters.pairs_per_shard)):
        pairs = []
        for name, emoji in memory[begin : begin + parameters.pairs_per_shard]:
            package = STYLES[name].package
            pairs.append(
                Pair(
                    image=next(images),
                    width=parameters.image_size,
                    height=parameters.image_size,
                    caption=plan.caption(name, emoji, parameters.seed),
                    url=package.purl(drawings[name][emoji.codepoints].path),
                    license=package.license,
                )
            )
        img2dataset_writer.write_shard(folder, shard, pairs, parameters.pairs_per_shard)


def _write_labelled(
    folder: pathlib.Path, classes: Iterable[str], labelled: Sequence[LabelledImage], images: Iterator[bytes]
) -> None:
    lines: dict[str, list[str]] = {split: [] for split in LIST_NAMES}
    for image in labelled:
        path = folder / "images" / image.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(next(images))
        lines[image.split].append(f"{image.path} {image.label}\n")
    for split, list_name in LIST_NAMES.items():
        (folder / list_name).write_text("".join(lines[split]))
    (folder / "classnames.txt").write_text("".join(f"{name}\t{name.replace('-', ' ')}\n" for name in classes))


def _summarise(
    memory: Sequence[tuple[str, Emoji]], labelled: Sequence[LabelledImage], parameters: _Parameters
) -> CorpusSummary:
    styles = collections.Counter(name for name, _ in memory)
    images = collections.Counter((image.split, image.label) for image in labelled)
    classes = 1 + max(image.label for image in labelled)
    per_class = {split: [images[split, label] for label in range(classes)] for split in LIST_NAMES}
    return CorpusSummary(
        pairs=len(memory),
        pairs_per_style={name: styles[name] for name in parameters.memory_styles},
        shards=math.ceil(len(memory) / parameters.pairs_per_shard),
        classes=classes,
        images_train=sum(per_class["train"]),
        images_val=sum(per_class["val"]),
        images_test=sum(per_class["test"]),
        train_per_class=per_class["train"],
        test_per_class=per_class["test"],
    )


def _write_marker(folder: pathlib.Path, summary: CorpusSummary, parameters: _Parameters) -> None:
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    listing = "".join(f"{file['sha256']}  {name}\n" for name, file in files.items())
    marker = {
        **_identity(parameters),
        "summary": dataclasses.asdict(summary),
        "outputs_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "files": files,
    }
    half = folder / f"{MARKER}.half"
    half.write_text(json.dumps(marker, indent=1))
    half.rename(folder / MARKER)
