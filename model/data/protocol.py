"""Whether the embedded lists are those of the published protocol that the config names.

An image that could not be read does not make a list wrong: lists are compared by the rows that they name, and rows
without a vector are counted apart.
"""

from collections.abc import Mapping

import numpy as np

from configs.base import Places, Protocol, Source, Train
from configs.schema.data import SPLITS
from configs.schema.training import SHOTS
from model.data import datasets
from model.data.datasets import Task
from model.measures import metrics
from pipelines import manifest, storage
from pipelines.errors import UserError
from pipelines.progress import counted

_REMEDY = "get the published list and run web-memory embed again"


def _rows(places: Places, split: str) -> tuple[int, int]:
    """Returns the number of rows that the lists of a split name, and the number of these without a vector."""
    folder = places.queries(split)
    _, whole = manifest.read_complete(folder, "pipelines.embed")
    names = {shard["name"] for shard in whole["shards"]}
    markers = [m for m in manifest.read_markers(folder, whole["config_hash"]).values() if m.name in names]
    return sum(m.rows_in for m in markers), sum(m.rows_in - m.rows_out for m in markers)


def lost_rows(places: Places) -> dict[str, str]:
    """Returns a sentence for each split that lost rows, for the summary of a stage."""
    lines = {}
    for split in SPLITS:
        listed, lost = _rows(places, split)
        if lost:
            folder = storage.join(places.queries(split), manifest.REJECTS)
            lines[split] = f"{lost:,} of {listed:,} images could not be used and do not count, see {folder}"
    return lines


def load(places: Places, expected: Protocol, sources: Mapping[str, Source], train: Train) -> Task:
    """Loads the task of a configuration and compares it with a protocol; arguments and errors as those of `check`."""
    task = datasets.load(places, train)
    check(places, expected, sources, train, task.class_counts)
    return task


def check(
    places: Places, expected: Protocol, sources: Mapping[str, Source], train: Train, class_counts: np.ndarray
) -> None:
    """Compares the embedded splits with a protocol.

    Args:
        places: of the embedded splits.
        expected: the protocol.
        sources: of the splits; errors name their lists.
        train: how classes are grouped.
        class_counts: training images of each class, `[C]`.

    Raises:
        UserError: if a list has too few or too many rows, or the training list other classes than published.
    """
    lists = {split: storage.join(places.data, source.path) for split, source in sources.items()}
    wanted = {"train": expected.train_rows, "val": expected.val_rows, "test": expected.test_rows}
    for split, rows in wanted.items():
        if rows:
            _check_rows(split, lists[split], _rows(places, split)[0], rows)
    if expected.train_val_rows:
        listed = sum(_rows(places, split)[0] for split in ("train", "val"))
        _check_rows("train_val", lists["train"], listed, expected.train_val_rows)
    if expected.classes or expected.classes_per_group or expected.images_per_class:
        _check_classes(expected, lists["train"], train, class_counts, _rows(places, "train")[1] > 0)


def _check_rows(split: str, name: str, listed: int, rows: int) -> None:
    if listed != rows:
        difference = f"{abs(rows - listed):,} {'fewer' if listed < rows else 'more'}"
        raise UserError(
            f"{name}: names {counted(listed, 'image')}, {difference} than the {rows:,} of the protocol; {_REMEDY}, "
            f"or set --config.protocol.{split}_rows={listed} to use it as it is"
        )


def _check_classes(expected: Protocol, name: str, train: Train, class_counts: np.ndarray, lost: bool) -> None:
    """Compares the classes of the training list; `lost` if it lost rows, which explains a missing class."""
    classes = len(class_counts)
    explained = lost and classes < expected.classes
    if expected.classes and classes != expected.classes and not explained:
        raise UserError(
            f"{name}: has {counted(classes, 'class')}, the protocol {expected.classes:,}; {_REMEDY}, or set "
            f"--config.protocol.classes={classes} to use it as it is"
        )
    sizes = (int(class_counts.min()), int(class_counts.max()))
    if expected.images_per_class and not lost and sizes != expected.images_per_class:
        raise UserError(
            f"{name}: has {_slashed(sizes)} images in its smallest and largest class, the protocol "
            f"{_slashed(expected.images_per_class)}; {_REMEDY}, or set --config.protocol.images_per_class= to skip "
            "this check"
        )
    if expected.classes_per_group and not lost:
        _check_groups(expected.classes_per_group, name, train, class_counts)


def _check_groups(expected: tuple[int, ...], name: str, train: Train, class_counts: np.ndarray) -> None:
    """Compares the shot groups; a `UserError` says if they are those expected by another convention."""
    sizes = {}
    for shots in SHOTS:
        groups = metrics.shot_groups(class_counts, train.many_over, train.few_under, shots)
        sizes[shots] = tuple(int((groups == group).sum()) for group in metrics.GROUPS)
    found = sizes[train.shots]
    if found == expected:
        return
    remedy = f"{_REMEDY}, or set --config.protocol.classes_per_group= to skip this check"
    if others := [shots for shots, counts in sizes.items() if counts == expected]:
        remedy = (
            f"these are its groups by --config.train.shots={others[0]}: set "
            f"--config.protocol.classes_per_group={','.join(map(str, found))} for those of {train.shots}"
        )
    raise UserError(
        f"{name}: has {_slashed(found)} many-, medium- and few-shot classes by --config.train.shots={train.shots}, the "
        f"protocol {_slashed(expected)}; {remedy}"
    )


def _slashed(counts: tuple[int, ...]) -> str:
    return "/".join(str(count) for count in counts)
