"""Readers of image sources: which shards there are, and the samples of one shard as a stream.

A reader never fails for one bad row: it yields a `Reject` and goes on. Images stay encoded bytes here; decoding is
left to `decode`, vectors to `inference`.
"""

import dataclasses
import json
import posixpath
import tarfile
from collections.abc import Iterator
from typing import IO

from configs.base import Embed, Source
from pipelines import storage
from pipelines.errors import UserError
from pipelines.options import nearest

_MAX_TEXT_BYTES = 1 << 20
_IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
_TAR_END_BYTES = 1024


@dataclasses.dataclass(frozen=True)
class InputShard:
    """One unit of work: a tar, or a run of lines of a list file.

    Attributes:
        format: of the source, a key of `READERS`.
        name: of the output file, without suffix.
        uri: the tar or the list file.
        size_bytes: of the tar or of the lines; the weight of the shard in the progress.
        image_root: folder of the images of a list.
        first_row: first line of a list, from 0.
        rows: number of lines; 0 for a tar.
        number: upper part of the ids of its rows.
    """

    format: str
    name: str
    uri: str
    size_bytes: int
    image_root: str = ""
    first_row: int = 0
    rows: int = 0
    number: int = -1


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image as it was found, still encoded."""

    member: str
    image: bytes
    caption: str | None = None
    label: int | None = None
    url: str | None = None


@dataclasses.dataclass(frozen=True)
class Reject:
    """One row that cannot be used, and why."""

    member: str
    stage: str
    error_type: str
    message: str
    retryable: bool = False


def plan_tars(source: Source, data: str, embed: Embed) -> list[InputShard]:
    """Returns the tars that match the source's glob, each a shard."""
    pattern = storage.join(data, source.path)
    uris = storage.glob(pattern)
    if not uris:
        raise UserError(f"{pattern}: matches no file; check --config.data and the source's path")
    shards = [InputShard("img2dataset", storage.name(u).split(".")[0], u, storage.size_bytes(u)) for u in uris]
    seen: dict[str, str] = {}
    for shard in shards:
        if shard.name in seen:
            raise UserError(
                f"{shard.uri}: has the same name as {seen[shard.name]}; outputs are named after their shard"
            )
        seen[shard.name] = shard.uri
    return shards


def _read_lines(uri: str) -> list[str]:
    with storage.open_read(uri) as file:
        try:
            return file.read().decode().splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{uri}: is not UTF-8 text ({error})") from error


def _parse_line(uri: str, row: int, line: str) -> tuple[str, int]:
    path, _, label = line.rpartition(" ")
    if not path or not label.isdecimal():
        raise UserError(f"{uri}, line {row + 1}: must be `relative/path label`, found {line[:80]!r}")
    return path, int(label)


def plan_list(source: Source, data: str, embed: Embed) -> list[InputShard]:
    """Returns the lines of a list file, cut into shards; every line is checked."""
    uri = storage.join(data, source.path)
    lines = _read_lines(uri)
    if not lines:
        raise UserError(f"{uri}: is empty")
    for row, line in enumerate(lines):
        _parse_line(uri, row, line)
    stem = storage.name(uri).rsplit(".", 1)[0]
    root = storage.join(data, source.image_root)
    shards = []
    for first in range(0, len(lines), embed.list_shard_rows):
        part = lines[first : first + embed.list_shard_rows]
        size = sum(len(line.encode()) + 1 for line in part)
        name = f"{stem}-{first // embed.list_shard_rows:05d}"
        shards.append(InputShard("image_list", name, uri, size, root, first, len(part)))
    return shards


def _read_bounded(file: IO[bytes], limit: int) -> bytes:
    data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"is larger than {limit:,} bytes")
    return data


def read_list(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject]:
    """Yields the images that a list names, with their labels."""
    lines = _read_lines(shard.uri)[shard.first_row : shard.first_row + shard.rows]
    for row, line in enumerate(lines, start=shard.first_row):
        member, label = _parse_line(shard.uri, row, line)
        if posixpath.isabs(member) or ".." in member.split("/"):
            yield Reject(member, "read", "PathOutsideRoot", "the path leaves the image root")
            continue
        try:
            with storage.open_read(storage.join(shard.image_root, member)) as file:
                yield Sample(member, _read_bounded(file, embed.max_image_bytes), label=label)
        except UserError:
            yield Reject(member, "read", "MissingImage", f"no such file below {shard.image_root}")
        except ValueError as error:
            yield Reject(member, "read", "TooLarge", str(error))
        except OSError as error:
            yield Reject(member, "read", type(error).__name__, str(error), retryable=True)


def _sample(key: str, parts: dict[str, bytes]) -> Sample | Reject:
    """Joins the members of one key, as img2dataset writes them: image, `.txt` caption, `.json` metadata."""
    image = next((suffix for suffix in _IMAGE_SUFFIXES if suffix in parts), None)
    if image is None:
        return Reject(key, "read", "MissingImage", f"no image beside {', '.join('.' + p for p in sorted(parts))}")
    try:
        caption = parts["txt"].decode().strip() if "txt" in parts else ""
    except UnicodeDecodeError as error:
        return Reject(key, "read", "CaptionNotUtf8", str(error))
    try:
        metadata = json.loads(parts.get("json", b"{}"))
        url = metadata.get("url")
    except (ValueError, AttributeError, RecursionError) as error:
        return Reject(key, "read", "BadMetadata", f".json: {error}")
    return Sample(f"{key}.{image}", parts[image], caption or None, url=url if isinstance(url, str) else None)


def read_tar(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject]:
    """Yields the pairs of a tar as img2dataset and webdataset write them: members of one key stand together."""
    with storage.open_read(shard.uri) as file:
        key, parts = "", dict[str, bytes]()
        whole = _ends_whole(file)
        try:
            with tarfile.open(fileobj=file, mode="r|") as tar:
                for member in tar:
                    if member.isdir():
                        continue
                    if not member.isfile():
                        yield Reject(member.name, "read", "NotAFile", "links and devices are not followed")
                        continue
                    folder, _, base = member.name.rpartition("/")
                    stem, _, suffix = base.partition(".")
                    next_key, suffix = f"{folder}/{stem}".lstrip("/"), suffix.lower()
                    if parts and (next_key != key or suffix in parts):
                        yield _sample(key, parts)
                        parts = {}
                    key = next_key
                    limit = embed.max_image_bytes if suffix in _IMAGE_SUFFIXES else _MAX_TEXT_BYTES
                    if member.size > limit:
                        yield Reject(
                            member.name, "read", "TooLarge", f"has {member.size:,} bytes, the limit is {limit:,}"
                        )
                        continue
                    stream = tar.extractfile(member)
                    parts[suffix] = stream.read() if stream else b""
        except (tarfile.TarError, OSError, EOFError) as error:
            whole = False
            # What was read of the last key is not known to be whole.
            parts = {}
            yield Reject("", "read", "TruncatedTar", f"the tar breaks off after {key or 'its start'}: {error}")
        else:
            if not whole:
                yield Reject("", "read", "TruncatedTar", f"the tar has no end mark after {key or 'its start'}")
        if parts:
            yield _sample(key, parts)


def _ends_whole(file: IO[bytes]) -> bool:
    """Tells whether a tar ends with its two empty blocks; `tarfile` does not mind if they are missing."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _TAR_END_BYTES))
    whole = size >= _TAR_END_BYTES and not any(file.read(_TAR_END_BYTES))
    file.seek(0)
    return whole


PLANNERS = {"img2dataset": plan_tars, "image_list": plan_list}
READERS = {"img2dataset": read_tar, "image_list": read_list}


def plan(source: Source, data: str, embed: Embed) -> list[InputShard]:
    """Returns the shards of a source, in a fixed order, not yet numbered.

    Raises:
        UserError: if the format is unknown, nothing is found, or a list line is wrong.
    """
    if source.format not in PLANNERS:
        raise UserError(f"source format {source.format!r} is unknown; {nearest(source.format, list(PLANNERS))}")
    return PLANNERS[source.format](source, data, embed)


def read(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject]:
    """Yields the samples and rejects of one shard, in the order of the source."""
    return READERS[shard.format](shard, embed)
