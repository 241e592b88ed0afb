"""A look at the sources before any work: are they there, how many rows do they have, can the first ones be read?"""

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow.parquet as pq

from configs.base import Embed, Source
from pipelines import sources, storage
from pipelines.class_names import gap
from pipelines.embedding import classes, expected
from pipelines.embedding.classes import Classes
from pipelines.embedding.names import class_names
from pipelines.embedding.request import MEMORY, Request
from pipelines.errors import UserError
from pipelines.images.decode import DecodeError, decode
from pipelines.progress import counted
from pipelines.sources import InputShard, Reject, Sample

FIRST_ROWS = 32
PREDICT = "predict"
_TRAIN = "train"
# Files whose rows are looked up; of more, the rest is taken to be as dense. Seconds that a file may be counted for.
_MOST_FILES, _COUNTING_SECS = 64, 3.0
# A member of a tar takes whole blocks and a header of its own; a pair has three members.
_TAR_BYTES = 3 * 1024


@dataclasses.dataclass
class Looked:
    """What was seen of one source.

    Attributes:
        name: `memory`, a split, or `predict`.
        rows: how many rows it has.
        is_exact: whether all were counted, or this is an estimate.
        labels: those of its rows, as far as they are known yet.
        files: number of its files of samples; of a list, of its shards.
        samples: the first rows that can be used.
        unreadable: why others of the first rows cannot be used.
        problems: what stands in the way, a sentence each.
    """

    name: str
    rows: int = 0
    is_exact: bool = True
    labels: set[Any] = dataclasses.field(default_factory=set)
    files: int = 0
    samples: list[Sample] = dataclasses.field(default_factory=list)
    unreadable: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def words(self) -> str:
        """What a summary says of it."""
        said = [f"{'' if self.is_exact else 'about '}{counted(self.rows, 'row')}", counted(self.files, "shard")]
        said += [counted(len(self.labels), "class")] if self.labels else []
        seen = len(self.samples) + len(self.unreadable)
        said.append(f"{len(self.samples)} of the first {seen} readable")
        return ", ".join(said) + (f" (such as {self.unreadable[0]})" if self.unreadable else "")


def look(request: Request, predict: Source, scratch: str) -> tuple[list[Looked], list[str]]:
    """Looks at every source of a request, and at the one to predict.

    Args:
        request: of the embed stage.
        predict: source of `predict_set`; not looked at if it has no path.
        scratch: a folder for the rows of lists, which is not the workdir.

    Returns:
        What was seen of each source, and the problems of all together.
    """
    wanted = {**request.sources, **({PREDICT: predict} if predict.path else {})}
    found = {name: Looked(name) for name in wanted}
    for name, source in wanted.items():
        try:
            sources.check_exists(source, request.places.data)
        except UserError as error:
            found[name].problems.append(f"--config.{name if name == MEMORY else f'{name}_set'}: {error}")
    there = {name: source for name, source in wanted.items() if not found[name].problems}
    named, problems = _agree(dataclasses.replace(request, sources={n: s for n, s in there.items() if n != PREDICT}))
    for name, source in there.items():
        try:
            _look(found[name], source, request, None if problems else named, f"{scratch}/{name}")
        except UserError as error:
            found[name].problems.append(str(error))
    problems += [] if problems else _gaps(found, named, wanted[_TRAIN].path if _TRAIN in wanted else "")
    counted = {name: seen.rows for name, seen in found.items() if seen.rows and seen.is_exact}
    try:
        expected.check_train_and_val(counted, request)
    except UserError as error:
        problems.append(str(error))
    return list(found.values()), problems


def _agree(request: Request) -> tuple[Classes, list[str]]:
    """Returns the label space, and why there is none."""
    try:
        names = class_names.read(request.places)
        named = classes.agree(request)
        classes.check_class_names(request, named, names)
        request.with_names(names or named.names)
    except UserError as error:
        return Classes(None, {}), [str(error)]
    return named, []


def _look(seen: Looked, source: Source, request: Request, agreed: Classes | None, scratch: str) -> None:
    # Without a label space, which was said, each source numbers its own classes.
    named = agreed or Classes(None, {})
    counts: Counter[Any] = Counter()
    data, embed, labels = request.places.data, request.embed, named.of_planning(seen.name)
    shards = sources.plan(source, data, embed, scratch, labels, counts)
    if agreed and seen.name != PREDICT:
        named.check_numbers(seen.name, sources.resolve(source, data), counts)
    seen.files, known = len(shards), counts.copy()
    reading = named.of_reading(seen.name, source)
    items = itertools.islice(_first(shards, embed, reading), FIRST_ROWS)
    for item in items:
        why = f"{item.member}: {item.message}" if isinstance(item, Reject) else ""
        if isinstance(item, Sample):
            why = _undecodable(item, embed) or _without_text(item, seen.name, request)
        if isinstance(item, Sample) and not why:
            seen.samples.append(item)
        elif why:
            seen.unreadable.append(why)
    seen.rows, seen.is_exact = rows(shards, seen.samples, embed, known)
    seen.labels = {*known} - {None}
    if seen.name not in (MEMORY, PREDICT) and seen.is_exact:
        expected.check(seen.name, source.path, seen.rows, counts, request)
    flag = f"--config.{seen.name if seen.name == MEMORY else f'{seen.name}_set'}.path={source.path}"
    wrong = len(seen.unreadable)
    if not seen.samples:
        why = f"such as {seen.unreadable[0]}" if seen.unreadable else "there is none"
        seen.problems.append(f"{flag}: none of its first {FIRST_ROWS} rows can be used, {why}")
    elif seen.name != PREDICT and seen.is_exact and wrong > embed.max_rejects_share * seen.rows:
        seen.problems.append(
            f"{flag}: {wrong:,} of its {counted(seen.rows, 'row')} cannot be used, such as {seen.unreadable[0]}; embed "
            f"refuses more than --config.embed.max_rejects_share={embed.max_rejects_share:g}"
        )


def _gaps(found: Mapping[str, Looked], named: Classes, path: str) -> list[str]:
    """Returns why numbers that are labels cannot be trained on, if that is so; `path` is of the training set."""
    # A label that is no number is a reject of its row.
    numbers = {name: {label for label in seen.labels if isinstance(label, int)} for name, seen in found.items()}
    train = numbers[_TRAIN] if _TRAIN in found and _TRAIN not in named.labels else set()
    splits = [labels for name, labels in numbers.items() if name not in (MEMORY, PREDICT)]
    wrong = gap(train, set().union(*splits), named.names) if train else ""
    return [f"--config.train_set.path={path}: {wrong}"] if wrong else []


def _first(shards: Sequence[InputShard], embed: Embed, labels: Any) -> Iterator[Any]:
    for shard in shards:
        yield from sources.read(dataclasses.replace(shard, labels=labels), embed)


def _undecodable(sample: Sample, embed: Embed) -> str:
    if sample.vectors and not sample.image:
        return ""
    try:
        decode(sample.image, embed.max_image_pixels)
    except DecodeError as error:
        return f"{sample.member}: {error}"
    return ""


def _without_text(sample: Sample, name: str, request: Request) -> str:
    """Returns why a row of the memory has no text for the encoders of texts; empty if it has, or none is wanted."""
    is_wanted = name == MEMORY and request.encoders.value_text and not request.filters.min_caption_chars
    if not is_wanted or sample.caption or any(column.startswith("value_text") for column in sample.vectors):
        return ""
    return f"{sample.member}: there is no text to encode; --config.filters.min_caption_chars=1 leaves such rows out"


def rows(shards: Sequence[InputShard], first: Sequence[Sample], embed: Embed, labels: Counter[Any]) -> tuple[int, bool]:
    """Returns how many rows shards have, and whether that is exact.

    Lists know it. Files of samples say it in a table or in statistics beside them; else the first is counted, and the
    others are taken to be as dense.

    Args:
        shards: of one source.
        first: its first rows, whose bytes tell the density of a file that is too large to count.
        embed: the limits on sizes.
        labels: rows of each label, added to if all rows are read to count them.
    """
    if all(shard.rows for shard in shards):
        return sum(shard.rows for shard in shards), True
    begin, end = shards[0].source.part or (0.0, 1.0)
    stated = [_stated(shard) for shard in shards[:_MOST_FILES]]
    known = {s.name: (end - begin) * count for s, count in zip(shards, stated, strict=False) if count is not None}
    if not known:
        count, found = _counted(shards[0], first, embed)
        known = {shards[0].name: float(count)}
        if found is not None and len(shards) == 1:
            labels.update(found)
            return count, True
    if len(known) == len(shards):
        return round(sum(known.values())), (begin, end) == (0.0, 1.0)
    size = sum(shard.size_bytes for shard in shards if shard.name in known)
    return round(sum(known.values()) / max(size, 1) * sum(shard.size_bytes for shard in shards)), False


def _stated(shard: InputShard) -> int | None:
    """Returns the rows of a file as its footer, or what img2dataset wrote beside it, says; None if nothing does."""
    try:
        if shard.source.format == "img2dataset_parquet":
            with storage.open_read(shard.uri) as file:
                return int(pq.ParquetFile(file).metadata.num_rows)
        folder = shard.uri.removesuffix(storage.name(shard.uri))
        path = f"{folder}{storage.name(shard.uri).split('.')[0]}_stats.json"
        if shard.source.format == "img2dataset" and storage.exists(path):
            stated: Mapping[str, Any] = storage.read_json(path)
            return int(stated["successes"])
    except (*storage.BROKEN_PARQUET, UserError, KeyError, TypeError, ValueError, OSError):
        # What reads the rows says what is wrong with them.
        return None
    return None


def _counted(shard: InputShard, first: Sequence[Sample], embed: Embed) -> tuple[int, Counter[Any] | None]:
    """Counts the rows of a file, for some seconds; returns their number, and those of each label if these are all."""
    begin, count, labels = time.monotonic(), 0, Counter[Any]()
    for item in sources.read(shard, embed):
        count += 1
        if isinstance(item, Sample):
            labels[item.label] += 1
        if time.monotonic() - begin > _COUNTING_SECS:
            each = sum(len(sample.image) + len(sample.caption or "") + _TAR_BYTES for sample in first)
            return round(shard.size_bytes * len(first) / max(each, 1)), None
    return count, labels
