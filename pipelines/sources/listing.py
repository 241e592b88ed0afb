"""Sources that are lists: rows that name an image below a folder, and what is known of it.

A format only parses its lists to rows. Here they are cut into shards, each written as a small Parquet file, so that a
worker reads its own rows and no others, and here the images are read.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from configs.base import Embed, Source
from pipelines import schemas, storage
from pipelines.errors import UserError
from pipelines.sources.sample import Filtered, InputShard, Reject, Sample, read_bounded, to_sample

_SCHEMA = pa.schema([pa.field("member", pa.string(), nullable=False), pa.field("fields", pa.string(), nullable=False)])
_WEB = ("http://", "https://", "gs://", "s3://")


@dataclasses.dataclass(frozen=True)
class Row:
    """One image of a list.

    Attributes:
        member: path below the image root, `x.zip/y.jpg` for a member of a zip; where a list gives URLs, the URL.
        fields: JSON values, as `sample.to_sample` takes them.
    """

    member: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def stem(uri: str) -> str:
    """Returns the name of a file without its suffixes: `a/x_train.txt.gz` gives `x_train`."""
    return storage.name(uri).split(".")[0]


def read_lines(uri: str) -> Iterator[tuple[int, str]]:
    """Yields number (from 1) and text of the lines of a UTF-8 file, which may be compressed.

    Raises:
        UserError: if it cannot be read, or is not UTF-8.
    """
    number = 0
    with storage.open_decompressed(uri) as file:
        try:
            for number, line in enumerate(file, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{uri}, line {number}: is not UTF-8 text ({error})") from error
        except storage.BROKEN_STREAM as error:
            raise UserError(f"{uri}: breaks off after line {number} ({error})") from error


def read_class_names(uri: str) -> list[str]:
    """Returns the class names of a file: one a line, what stands after the last tab."""
    return [line.rpartition("\t")[2].strip() for _, line in read_lines(uri)]


def plan(name: str, source: Source, rows: Iterator[Row], folder: str, embed: Embed) -> list[InputShard]:
    """Cuts rows into shards of `embed.list_shard_rows` and writes the rows of each to `folder`.

    Args:
        name: what the shards are named after.
        source: of the rows.
        rows: in their order.
        folder: where the listings lie.
        embed: how many rows make a shard.

    Raises:
        UserError: if there is no row.
    """
    names = read_class_names(source.class_names) if source.class_names else None
    shards = []
    for number in itertools.count():
        part = list(itertools.islice(rows, embed.list_shard_rows))
        if not part:
            break
        if names is not None:
            part = [_with_class_name(row, names, source.class_names) for row in part]
        shards.append(_shard(f"{name}-{number:05d}", source, part, folder))
    if not shards:
        raise UserError(f"{source.path}: is empty, it names no image")
    return shards


def _with_class_name(row: Row, names: list[str], uri: str) -> Row:
    label = row.fields.get("label")
    if label is None or row.fields.get("caption"):
        return row
    if not 0 <= label < len(names):
        raise UserError(f"{uri}: names {len(names)} classes, {row.member} has label {label}")
    return Row(row.member, {**row.fields, "caption": names[label]})


def _shard(name: str, source: Source, rows: list[Row], folder: str) -> InputShard:
    texts = [json.dumps(row.fields, ensure_ascii=False, sort_keys=True) for row in rows]
    digest, size = hashlib.sha256(), 0
    for row, text in zip(rows, texts, strict=True):
        line = f"{row.member}\t{text}\n".encode(errors="surrogateescape")
        digest.update(line)
        size += len(line)
    _add_images(digest, source.image_root, rows)
    etag = digest.hexdigest()
    path = storage.join(folder, f"{name}-{etag[:16]}.parquet")
    if not storage.exists(path):
        schemas.write(path, pa.table([[row.member for row in rows], texts], schema=_SCHEMA), {})
    return InputShard(source, name, source.path, size, etag, len(rows), path)


def _add_images(digest: "hashlib._Hash", root: str, rows: list[Row]) -> None:
    """Adds size and time of local images, or of the zips they are in; asking a remote store would take too long."""
    if "://" in root:
        return
    for file in dict.fromkeys(_split_zip(row.member)[0] for row in rows if not row.member.startswith(_WEB)):
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(storage.join(root, file))
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())


def _split_zip(member: str) -> tuple[str, str]:
    head, separator, inner = member.partition(".zip/")
    return (f"{head}.zip", inner) if separator else (member, "")


def leaves_root(member: str) -> bool:
    """Tells whether a path names something that is not below the folder it is joined to."""
    odd = "\0" in member or "\\" in member or "://" in member or "::" in member
    return not member or odd or posixpath.isabs(member) or ".." in member.split("/")


def read(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject | Filtered]:
    """Yields the images that a listing names, in its order."""
    table = schemas.read(shard.listing, _SCHEMA.names)
    with contextlib.ExitStack() as stack:
        zips = storage.ZipCache(stack)
        for member, text in zip(table["member"].to_pylist(), table["fields"].to_pylist(), strict=True):
            yield _read_row(member, json.loads(text), shard.source.image_root, zips, embed)


def _read_row(
    member: str, fields: dict[str, Any], root: str, zips: storage.ZipCache, embed: Embed
) -> Sample | Reject | Filtered:
    web = member.startswith(_WEB)
    if not web and leaves_root(member):
        return Reject(member, "read", "PathOutsideRoot", "the path leaves the image root")
    try:
        file, inner = ("", "") if web else _split_zip(member)
        if inner:
            image = zips.read(storage.join(root, file), inner, embed.max_image_bytes)
        else:
            with storage.open_read(member if web else storage.join(root, member)) as stream:
                image = read_bounded(stream, embed.max_image_bytes)
    except storage.MissingFile as error:
        return Reject(member, "read", "MissingImage", str(error))
    except UserError as error:
        return Reject(member, "read", "CannotRead", str(error))
    except ValueError as error:
        return Reject(member, "read", "TooLarge", str(error))
    except OSError as error:
        return Reject(member, "read", type(error).__name__, str(error), retryable=True)
    return to_sample(member, image, fields)
