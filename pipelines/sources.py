"""Readers of image sources: which shards there are, and the samples of one shard as a stream.

A reader never fails for one bad row: it yields a `Reject` and goes on. Images stay encoded bytes here; decoding is
left to `decode`, vectors to `inference`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
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
_TEXT_SUFFIXES = ("txt", "json")
_MAX_LABEL = (1 << 31) - 1
_TAR_END_BYTES = 1024


@dataclasses.dataclass(frozen=True)
class InputShard:
    """One unit of work: a tar, or a run of lines of a list file.

    Attributes:
        format: of the source, a key of `READERS`.
        name: of the output file, without suffix.
        uri: the tar or the list file.
        size_bytes: of the tar or of the lines.
        etag: changes when the tar, the lines or, in a local image root, the images change.
        image_root: folder of the images of a list.
        first_row: first line of a list, from 0.
        rows: number of lines; 0 for a tar.
        number: upper part of the ids of its rows.
    """

    format: str
    name: str
    uri: str
    size_bytes: int
    etag: str
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
    shards = [
        InputShard("img2dataset", storage.name(uri).split(".")[0], uri, storage.size_bytes(uri), storage.etag(uri))
        for uri in uris
    ]
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
    if not path or not label.isdecimal() or int(label) > _MAX_LABEL:
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
        etag = _list_etag(uri, part, first, root)
        shards.append(InputShard("image_list", name, uri, size, etag, root, first, len(part)))
    return shards


def _list_etag(uri: str, lines: list[str], first_row: int, root: str) -> str:
    digest = hashlib.sha256()
    for row, line in enumerate(lines, start=first_row):
        digest.update(line.encode() + b"\n")
        if "://" not in root:
            # Asking a remote store for every image would take longer than reading them.
            with contextlib.suppress(OSError):
                status = os.stat(storage.join(root, _parse_line(uri, row, line)[0]))
                digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


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
        if posixpath.isabs(member) or ".." in member.split("/") or "://" in member or "::" in member:
            yield Reject(member, "read", "PathOutsideRoot", "the path leaves the image root")
            continue
        try:
            with storage.open_read(storage.join(shard.image_root, member)) as file:
                yield Sample(member, _read_bounded(file, embed.max_image_bytes), label=label)
        except UserError as error:
            yield Reject(member, "read", "MissingImage", str(error))
        except ValueError as error:
            yield Reject(member, "read", "TooLarge", str(error))
        except OSError as error:
            raise UserError(f"{member}: reading failed ({error}); run the same command again") from error


@dataclasses.dataclass
class _Group:
    """The members of one key, as they stand together in a tar; of each suffix its name and, if read, its bytes."""

    key: str = ""
    members: dict[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)
    rejected: bool = False

    def sample(self) -> Iterator[Sample | Reject]:
        """Joins image, `.txt` caption and `.json` metadata; yields nothing for a key that was rejected already."""
        if self.members and not self.rejected:
            yield _sample(self.key, self.members)


def _sample(key: str, members: dict[str, tuple[str, bytes]]) -> Sample | Reject:
    image = next((suffix for suffix in _IMAGE_SUFFIXES if suffix in members), None)
    if image is None:
        return Reject(key, "read", "MissingImage", f"no image beside {', '.join('.' + p for p in sorted(members))}")
    try:
        caption = members["txt"][1].decode().strip() if "txt" in members else ""
    except UnicodeDecodeError as error:
        return Reject(key, "read", "CaptionNotUtf8", str(error))
    try:
        url = json.loads(members["json"][1] if "json" in members else b"{}").get("url")
        url = url if isinstance(url, str) else None
        (url or "").encode()
    except (ValueError, AttributeError, RecursionError) as error:
        return Reject(key, "read", "BadMetadata", f".json: {error}")
    name, data = members[image]
    return Sample(name, data, caption or None, url=url)


def read_tar(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject]:
    """Yields the pairs of a tar as img2dataset and webdataset write them: members of one key stand together.

    Raises:
        UserError: if the storage fails; what was read until then is not taken for the whole.
    """
    limits = dict.fromkeys(_IMAGE_SUFFIXES, embed.max_image_bytes) | dict.fromkeys(_TEXT_SUFFIXES, _MAX_TEXT_BYTES)
    with storage.open_read(shard.uri) as file:
        group, broken = _Group(), ""
        whole = _ends_whole(file)
        try:
            with tarfile.open(fileobj=file, mode="r|") as tar:
                for member in tar:
                    name = member.name.encode(errors="backslashreplace").decode()
                    folder, _, base = name.rpartition("/")
                    stem, _, suffix = base.partition(".")
                    key, suffix = f"{folder}/{stem}", suffix.lower()
                    if member.isdir() or (member.isfile() and suffix not in limits):
                        continue
                    if key != group.key or suffix in group.members:
                        yield from group.sample()
                        group = _Group(key)
                    problem = None
                    if not member.isfile():
                        problem = Reject(name, "read", "NotAFile", "links and devices are not followed")
                    elif name != member.name:
                        problem = Reject(name, "read", "NameNotUtf8", "the name in the tar is not UTF-8")
                    elif member.size > limits[suffix]:
                        message = f"has {member.size:,} bytes, the limit is {limits[suffix]:,}"
                        problem = Reject(name, "read", "TooLarge", message)
                    if problem:
                        if not group.rejected:
                            yield problem
                        group.rejected = True
                        continue
                    stream = tar.extractfile(member)
                    group.members[suffix] = (name, stream.read() if stream else b"")
        except (tarfile.TarError, EOFError) as error:
            broken = f"the tar breaks off after {group.key.lstrip('/') or 'its start'}: {error}"
        except OSError as error:
            raise UserError(f"{shard.uri}: reading failed ({error}); run the same command again") from error
        if broken or not whole:
            yield Reject("", "read", "TruncatedTar", broken or "the tar has no end mark; what followed is lost")
        if not broken:
            # What was read of the last key of a broken tar is not known to be whole.
            yield from group.sample()


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
