"""Whether the lists that were embedded are those of the published protocol that the config names.

Rows that could not be used are not those of a wrong list: lists are compared by what was listed, and what was lost is
told apart.
"""

import numpy as np

from configs.base import Config
from model.measures import metrics
from pipelines import manifest, storage
from pipelines.errors import UserError


def _rows(config: Config, split: str) -> tuple[int, int]:
    """Returns how many rows the lists of a split name, and how many of them have no vector."""
    folder = config.queries_dir(split)
    _, whole = manifest.read_complete(folder, "pipelines.embed")
    names = {shard["name"] for shard in whole["shards"]}
    markers = [m for m in manifest.read_markers(folder, whole["config_hash"]).values() if m.name in names]
    return sum(m.rows_in for m in markers), sum(m.rows_in - m.rows_out for m in markers)


def lost_rows(config: Config) -> dict[str, str]:
    """Returns for each split that lost rows what there is to say, for the summary of a stage."""
    lines = {}
    for split in config.queries:
        listed, lost = _rows(config, split)
        if lost:
            folder = storage.join(config.queries_dir(split), manifest.REJECTS)
            lines[split] = f"{lost:,} of {listed:,} images could not be used and do not count, see {folder}"
    return lines


def check(config: Config, class_counts: np.ndarray) -> None:
    """Compares the embedded splits with `config.protocol`.

    Args:
        config: names the protocol.
        class_counts: training images of each class, `[C]`.

    Raises:
        UserError: if a list has too few or too many rows, or the training list other classes than published.
    """
    expected = config.protocol
    wanted = {"train": expected.train_rows, "val": expected.val_rows, "test": expected.test_rows}
    for split, rows in wanted.items():
        listed = _rows(config, split)[0] if rows else 0
        if listed != rows:
            difference = f"{abs(rows - listed):,} {'fewer' if listed < rows else 'more'}"
            raise UserError(
                f"{_list(config, split)}: names {listed:,} images, {difference} than the {rows:,} of the protocol; "
                f"get the published list and run pipelines.embed again, or set --config.protocol.{split}_rows={listed} "
                "to take it as it is"
            )
    lost = _rows(config, "train")[1] if expected.classes or expected.classes_per_group else 0
    classes = len(class_counts)
    if expected.classes and classes != expected.classes and not (lost and classes < expected.classes):
        raise UserError(
            f"{_list(config, 'train')}: has {classes:,} classes, the protocol {expected.classes:,}; get the published "
            f"list and run pipelines.embed again, or set --config.protocol.classes={classes} to take it as it is"
        )
    if expected.classes_per_group and not lost:
        train = config.train
        groups = metrics.shot_groups(class_counts, train.many_over, train.few_under, train.shots)
        found = tuple(int((groups == group).sum()) for group in metrics.GROUPS)
        if found != expected.classes_per_group:
            raise UserError(
                f"{_list(config, 'train')}: has {_slashed(found)} many-, medium- and few-shot classes by "
                f"--config.train.shots={train.shots}, the protocol {_slashed(expected.classes_per_group)}; get the "
                "published list and run pipelines.embed again, or set --config.protocol.classes_per_group= to go on "
                "without this check"
            )


def _list(config: Config, split: str) -> str:
    return storage.join(config.data, config.queries[split].path)


def _slashed(counts: tuple[int, ...]) -> str:
    return "/".join(str(count) for count in counts)
