"""Sources that are lists: rows that name an image below a folder, with its caption, label and metadata.

A format only parses its lists into rows (`text` has what the parsers share). Here rows are split into shards, each
written as a small Parquet file, so that a worker reads only its own rows. At most a few shards' rows are in memory at a
time. `images` reads the bytes of an image.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import pyarrow as pa

from configs.base import Embed, Source
from pipelines import class_names, schemas, storage
from pipelines.errors import UserError
from pipelines.progress import counted
from pipelines.sources import patterns
from pipelines.sources.images import Images, leaves_root, split_zip
from pipelines.sources.sample import (
    Filtered,
    InputShard,
    Reject,
    Sample,
    check_depth,
    counted_from,
    storable_text,
    to_sample,
    without_login,
)
from pipelines.sources.web import Unreadable

_SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("is_url", pa.bool_(), nullable=False),
        pa.field("fields", pa.string(), nullable=False),
        pa.field("problem", pa.string(), nullable=False),
    ]
)
# ASCII, because half a surrogate pair, which JSON may contain, is not UTF-8.
_to_json = json.JSONEncoder(ensure_ascii=True, sort_keys=True, default=str).encode
_PLAN_THREADS = 8
# Of the texts of a shard's rows: usual rows have some hundred characters.
_MAX_PART_CHARS = 4 << 20
_DOWNLOADS = 16

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclasses.dataclass(frozen=True)
class Row:
    """One image of a list.

    Attributes:
        member: path below the image root, `x.zip/y.jpg` for a member of a zip; or a URL.
        fields: JSON values, as `sample.to_sample` takes them.
        is_url: whether `member` is a URL. A path is never taken for a URL, so lists of paths cannot reach the network.
        problem: why the row cannot be used; it becomes a reject. Empty if nothing is known to be wrong.
    """

    member: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    is_url: bool = False
    problem: str = ""


def from_first(source: Source, row: Row) -> Row:
    """Returns a row whose label, if it is a number, counts from 0 where the source's first class has another number."""
    label = row.fields.get("label")
    if not source.first_label or isinstance(label, bool) or not isinstance(label, int):
        return row
    try:
        return dataclasses.replace(row, fields={**row.fields, "label": counted_from(source.first_label, label)})
    except ValueError as error:
        return dataclasses.replace(row, problem=row.problem or str(error))


def stem(source: Source) -> str:
    """Returns a name for the shards of a source: `a/x_train.txt.gz` gives `x_train`, `{b,c}.txt` gives `b_c`."""
    names = "_".join(storage.name(part).split(".")[0] for part in patterns.split(source.path))
    return re.sub(r"[\W_]+", "_", names, flags=re.ASCII).strip("_")[:100] or source.format


def plan(
    source: Source, rows: Iterator[Row], folder: str, embed: Embed, counts: Counter[Any] | None = None
) -> list[InputShard]:
    """Splits rows into shards of `embed.list_shard_rows` and writes the rows of each to `folder`.

    Args:
        source: of the rows, with whole paths.
        rows: in their order.
        folder: of the listings.
        embed: number of rows in a shard.
        counts: is given the rows of each label.

    Raises:
        UserError: if there is no row, or one cannot be written.
    """
    if source.class_names:
        names = class_names.read(source.class_names)
        rows = (_with_class_name(row, names, source.class_names) for row in rows)
    parts = _parts(rows, embed.list_shard_rows, source.path)
    if counts is not None:
        parts = _counted(parts, counts)
    named = ((f"{stem(source)}-{number:05d}", part) for number, part in enumerate(parts))
    written = {storage.name(path) for path in storage.files(folder, ".parquet")}
    shards = list(_in_order(functools.partial(_shard, source, folder, written), named, _PLAN_THREADS))
    if not shards:
        raise UserError(f"{source.path}: is empty, it names no image")
    return shards


def _counted(parts: Iterator[list[Row]], counts: Counter[Any]) -> Iterator[list[Row]]:
    for part in parts:
        counts.update(row.fields.get("label") for row in part)
        yield part


def _parts(rows: Iterable[Row], most: int, uri: str) -> Iterator[list[Row]]:
    """Yields `most` consecutive rows, or fewer where their texts are large; a `UserError` if one is nested too deep."""
    part: list[Row] = []
    size = 0
    for row in rows:
        part.append(row)
        try:
            check_depth(row.fields)
        except ValueError as error:
            raise UserError(f"{uri}: the row of {row.member[:200]!r} {error}; leave that field out") from error
        size += len(row.member) + sum(len(value) for value in row.fields.values() if hasattr(value, "__len__"))
        if len(part) == most or size > _MAX_PART_CHARS:
            yield part
            part, size = [], 0
    if part:
        yield part


def _in_order(function: Callable[[_T], _R], items: Iterable[_T], threads: int) -> Iterator[_R]:
    """Yields `function` of each item, working a few items ahead; `Executor.map` would take all items at once."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque[concurrent.futures.Future[_R]] = collections.deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _with_class_name(row: Row, names: list[str], uri: str) -> Row:
    label = row.fields.get("label")
    if not isinstance(label, int) or row.fields.get("caption"):
        return row
    if not 0 <= label < len(names):
        raise UserError(f"{uri}: names {counted(len(names), 'class')}, {row.member} has label {label}")
    return dataclasses.replace(row, fields={**row.fields, "caption": names[label]})


def _shard(source: Source, folder: str, written: set[str], named: tuple[str, list[Row]]) -> InputShard:
    name, rows = named[0], [_storable(row) for row in named[1]]
    texts = [without_login(_to_json(row.fields)) for row in rows]
    digest, size = _digest(rows, texts)
    rows_sha256 = digest.hexdigest()
    _add_images(digest, source.image_root, rows)
    etag = digest.hexdigest()
    file = f"{name}-{etag[:16]}.parquet"
    path = storage.join(folder, file)
    if file not in written:
        columns = [[row.member for row in rows], [row.is_url for row in rows], texts, [row.problem for row in rows]]
        schemas.write(path, pa.table(columns, schema=_SCHEMA), {})
    return InputShard(source, name, source.path, size, etag, len(rows), path, rows_sha256=rows_sha256)


def _digest(rows: list[Row], texts: list[str]) -> tuple["hashlib._Hash", int]:
    """Returns the SHA-256 of rows and of the JSON of their fields, and the number of bytes that it is of."""
    digest, size = hashlib.sha256(), 0
    for row, text in zip(rows, texts, strict=True):
        line = f"{row.member}\t{row.is_url}\t{text}\t{row.problem}\n".encode()
        digest.update(line)
        size += len(line)
    return digest, size


def _storable(row: Row) -> Row:
    """Returns a row whose name is UTF-8 text; another name is a problem, and written with escapes."""
    member, problem = storable_text(row.member), storable_text(row.problem)
    if member != row.member:
        return Row(member, {}, row.is_url, "the name is not UTF-8 text; rename the file")
    return row if problem == row.problem else dataclasses.replace(row, problem=problem)


def _add_images(digest: "hashlib._Hash", root: str, rows: list[Row]) -> None:
    """Adds size and time of local images, or of their zips; a request to a store for each would take too long."""
    folder = storage.local_path(root)
    if folder is None:
        return
    for file in dict.fromkeys(split_zip(row.member)[0] for row in rows if not row.is_url):
        found = b"missing\n"
        if not leaves_root(file):
            with contextlib.suppress(OSError, ValueError):
                status = os.stat(f"{folder}/{file}")
                found = f"{status.st_size} {status.st_mtime_ns}\n".encode()
        digest.update(found)


def read(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject | Filtered]:
    """Yields the images that a listing names, in its order; a `UserError` if it does not have the shard's rows."""
    found = schemas.read(shard.listing, _SCHEMA.names).to_pylist()
    texts = [row["fields"] for row in found]
    rows = [Row(**{**row, "fields": {}}) for row in found]
    if _digest(rows, texts)[0].hexdigest() != shard.rows_sha256:
        raise UserError(f"{shard.listing}: is damaged or of another list; remove it and run web-memory embed again")
    rows = [dataclasses.replace(row, fields=json.loads(text)) for row, text in zip(rows, texts, strict=True)]
    with contextlib.ExitStack() as stack:
        read_row = functools.partial(_read_row, shard, Images(shard.source.image_root, embed, stack))
        # Downloads run in parallel; zips are for one thread.
        urls = rows and all(row.is_url for row in rows)
        yield from _in_order(read_row, rows, _DOWNLOADS) if urls else map(read_row, rows)


def _read_row(shard: InputShard, images: Images, row: Row) -> Sample | Reject | Filtered:
    if row.problem:
        return Reject(row.member, "read", "BadValue", row.problem)
    try:
        image = images.fetch(row.member) if row.is_url else images.read(row.member)
    except Unreadable as error:
        return Reject(row.member, "read", error.error_type, str(error), error.retryable)
    return to_sample(shard, row.member, image, row.fields)
