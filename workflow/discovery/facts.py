"""What a source has, seen through the readers that `embed` uses: rows, classes, captions, a few samples."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError
from pipelines.sources.labels import Labels, LabelSpace, mixed, normal
from pipelines.sources.sample import Reject, Sample, caption_of, number_or_name
from workflow.discovery import splits

MOST_ROWS = 200_000
_FILE_ROWS = 2_000
_SAMPLES = 3
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "phase", "usage", "dataset", "data set")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row as it is shown: name, caption and label, None for none; of a file of samples, also its metadata."""

    member: str
    caption: str | None
    label: Any
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Facts:
    """What was seen of a source.

    Attributes:
        counts: rows of each class, by its name or number.
        rows: that were read.
        captions: rows with a caption among them.
        unlabelled: rows that can be used and have no label.
        stopped: whether there are more.
        samples: a few rows.
        problem: what was wrong with the first row that cannot be used; empty if none was seen.
        repeated: rows of a list whose image an earlier row names.
        contrary: those of them that give it another label.
        splits: of files of samples, the columns that are named as those of splits, with the values that name one.
    """

    counts: Counter[Any] = dataclasses.field(default_factory=Counter)
    rows: int = 0
    captions: int = 0
    unlabelled: int = 0
    stopped: bool = False
    samples: list[Row] = dataclasses.field(default_factory=list)
    problem: str = ""
    repeated: int = 0
    contrary: int = 0
    splits: dict[str, set[str]] = dataclasses.field(default_factory=dict)


def read(source: Source, most: int = MOST_ROWS) -> Facts:
    """Reads the first rows of a source with whole paths: at most `most` of a list, fewer of files of samples.

    Raises:
        UserError: as the readers, if they do not understand it; if its labels are names and numbers.
    """
    is_list = source.format in sources.LISTS
    facts, limit = Facts(), most if is_list else min(most, _FILE_ROWS)
    labels: dict[str, Any] = {}
    rows = _listed(source) if is_list else _in_files(source)
    for row in itertools.islice(rows, limit):
        facts.rows += 1
        if isinstance(row, str):
            facts.problem = facts.problem or row
            continue
        facts.captions += bool(row.caption)
        if is_list:
            facts.repeated += row.member in labels
            facts.contrary += labels.setdefault(row.member, row.label) != row.label
        for column, value in row.metadata.items():
            if column.strip().lower() in SPLIT_COLUMNS and splits.of_folder(str(value)):
                facts.splits.setdefault(column, set()).add(str(value))
        if row.label is None:
            facts.unlabelled += 1
        else:
            facts.counts[row.label] += 1
        if len(facts.samples) < _SAMPLES and row.label not in {sample.label for sample in facts.samples if row.label}:
            facts.samples.append(row)
    facts.stopped = next(rows, None) is not None
    name = next((label for label in facts.counts if isinstance(label, str)), "")
    number = next((label for label in facts.counts if isinstance(label, int)), None)
    if name and number is not None:
        raise mixed(source.path, name, number)
    return facts


def _listed(source: Source) -> Iterator[Row | str]:
    """Yields the rows of a list, or why one cannot be used; labels are as the source has them."""
    # The names of folders are classes, whether they are numbers or not.
    is_folder = source.format == "image_folder"
    names = () if is_folder else sources.declared_names(source, "")
    for row in sources.listed(sources.resolve(source, "")):
        label = row.fields.get("label")
        try:
            label = label if is_folder else number_or_name(label)
            caption = caption_of(row.fields.get("caption"))
        except ValueError as error:
            yield row.problem or str(error)
            continue
        if isinstance(label, str):
            label = normal(label)
        elif label is not None and label < len(names):
            label = names[label]
        yield row.problem or Row(row.member, caption, label)


def _in_files(source: Source) -> Iterator[Row | str]:
    """Yields the samples of the first files, or why one cannot be read."""
    embed = Embed()
    named = sources.find_names(source, "", embed)
    space = sources.label_space(named, source, "") if named and named.names else LabelSpace(())
    labels = Labels(space, named.names if named and named.declared else (), space.names) if named else None
    for shard in sources.plan(source, "", embed, ""):
        for item in sources.read(dataclasses.replace(shard, labels=labels), embed):
            if isinstance(item, Sample):
                label = item.label if item.label is None or not space.names else space.names[item.label]
                yield Row(item.member, item.caption, label, item.metadata)
            elif isinstance(item, Reject):
                yield f"{item.error_type}: {item.message}"


def has_labels(source: Source) -> bool:
    """Tells whether one of the first rows of a source has a label; errors as `read`."""
    return bool(read(source, _FILE_ROWS).counts)


def first(source: Source) -> Row:
    """Returns the first usable row of a source.

    Raises:
        UserError: if there is none, or the readers do not understand it.
    """
    rows = _listed(source) if source.format in sources.LISTS else _in_files(source)
    why = "has no row"
    for row in itertools.islice(rows, _SAMPLES):
        if isinstance(row, Row):
            return row
        why = row
    raise UserError(f"{source.path}: {why}")
