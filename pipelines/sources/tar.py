"""Tars of image-text pairs, as img2dataset's `webdataset` output (LAION) and webdataset itself have them.

The members of one key stand together: `{key}.jpg`, `{key}.txt`, `{key}.json`. The Parquet table that img2dataset puts
beside each tar is joined by key: what a user adds to it is metadata, too.
"""

import dataclasses
import json
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

from configs.base import Embed
from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources import parquet
from pipelines.sources.sample import MAX_TEXT_BYTES, Filtered, InputShard, Reject, Sample, to_sample

_IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
_TEXT_SUFFIXES = ("txt", "json")
_END_BYTES = 1024
_MAX_TRAILING_BYTES = 1 << 20
_HEADERS_WITH_DATA = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _BoundedTarInfo(tarfile.TarInfo):
    """A member whose extended headers, which `tarfile` holds in memory, cannot be of any size."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS_WITH_DATA and self.size > MAX_TEXT_BYTES:
            raise tarfile.ReadError(f"an extended header claims {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


class _Tail:
    """Passes a stream on and remembers its last bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._last = file, b""

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._last = (self._last + data[-_END_BYTES:])[-_END_BYTES:]
        return data

    def is_end_mark(self) -> bool:
        """Tells whether the stream ends with two empty blocks; `tarfile` does not mind if they are missing."""
        self.read(_MAX_TRAILING_BYTES)
        return len(self._last) == _END_BYTES and not any(self._last)


@dataclasses.dataclass
class _Group:
    """The members of one key, as they stand together in a tar; of each suffix its name and, if read, its bytes."""

    key: str = ""
    members: dict[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)
    rejected: bool = False

    def sample(self, table: Mapping[str, dict[str, Any]]) -> Iterator[Sample | Reject | Filtered]:
        """Joins image, `.txt` caption and metadata; yields nothing for a key that was rejected already."""
        if self.members and not self.rejected:
            yield _sample(self.key, self.members, table)


def _sample(
    key: str, members: dict[str, tuple[str, bytes]], table: Mapping[str, dict[str, Any]]
) -> Sample | Reject | Filtered:
    image = next((suffix for suffix in _IMAGE_SUFFIXES if suffix in members), None)
    if image is None:
        return Reject(key, "read", "MissingImage", f"no image beside {', '.join('.' + p for p in sorted(members))}")
    name, data = members[image]
    try:
        metadata = json.loads(members["json"][1]) if "json" in members else {}
        metadata = {**metadata, **table.get(key.rpartition("/")[2], {})}
        json.dumps(metadata, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        return Reject(name, "read", "BadMetadata", f".json: {error}")
    try:
        caption = members["txt"][1].decode() if "txt" in members else metadata.get("caption")
    except UnicodeDecodeError as error:
        return Reject(name, "read", "CaptionNotUtf8", str(error))
    return to_sample(name, data, {**metadata, "caption": caption})


def read(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject | Filtered]:
    """Yields the pairs of a tar, which may be compressed, in their order.

    Raises:
        UserError: if the storage fails; what was read until then is not taken for the whole.
    """
    limits = dict.fromkeys(_IMAGE_SUFFIXES, embed.max_image_bytes) | dict.fromkeys(_TEXT_SUFFIXES, MAX_TEXT_BYTES)
    table = parquet.read_sibling(shard.siblings[0]) if shard.siblings else {}
    with storage.open_decompressed(shard.uri) as file:
        group, broken, tail = _Group(), "", _Tail(file)
        try:
            with tarfile.open(fileobj=tail, mode="r|", tarinfo=_BoundedTarInfo) as tar:  # type: ignore[call-overload]
                for member in tar:
                    # A stream keeps every header it has seen.
                    tar.members.clear()
                    name = member.name.encode(errors="backslashreplace").decode()
                    folder, _, base = name.rpartition("/")
                    stem, _, suffix = base.partition(".")
                    key, suffix = f"{folder}/{stem}", suffix.lower()
                    if member.isdir() or (member.isfile() and suffix not in limits):
                        continue
                    if key != group.key or suffix in group.members:
                        yield from group.sample(table)
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
        except storage.BROKEN_STREAM as error:
            broken = f"the tar breaks off after {group.key.lstrip('/') or 'its start'}: {error}"
        except OSError as error:
            raise UserError(f"{shard.uri}: reading failed ({error}); run the same command again") from error
        if broken or not tail.is_end_mark():
            yield Reject("", "read", "TruncatedTar", broken or "the tar has no end mark; what followed is lost")
        if not broken:
            # What was read of the last key of a broken tar is not known to be whole.
            yield from group.sample(table)
