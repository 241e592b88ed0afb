"""Tars of image-text pairs, as img2dataset's `webdataset` output (LAION) and webdataset itself have them.

The members of one key follow each other: `{key}.jpg`, `{key}.txt`, `{key}.json`. The Parquet table that img2dataset
writes beside each tar is joined by key, so columns that a user adds to it become metadata, too. `tar_members` reads the
framing.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping

from configs.base import Embed
from pipelines.sources.files.siblings import Sibling
from pipelines.sources.files.tar_members import Archive, Member
from pipelines.sources.sample import (
    MAX_TEXT_BYTES,
    Filtered,
    InputShard,
    Reject,
    Sample,
    field_names,
    rename,
    to_sample,
)
from pipelines.sources.stream import BrokenStream, Stream

# Searched among the suffixes of a key's members, then among the fields of its .json and table row.
FIELDS = {
    "image": ("jpg", "jpeg", "png", "webp"),
    "caption": ("txt", "caption"),
    "label": ("cls", "label"),
    "url": ("url",),
}


@dataclasses.dataclass
class _Group:
    """The consecutive members of one key in a tar: name and bytes by suffix."""

    key: str = ""
    members: dict[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)
    rejected: bool = False


class _Pairs:
    """Collects members into groups, and joins each group to a sample."""

    def __init__(self, shard: InputShard, embed: Embed) -> None:
        self._shard, self._names = shard, field_names(shard.source, FIELDS)
        single = {our: self._names[our] for our in ("label", "url")}
        self._table = Sibling(shard.siblings[0], single) if shard.siblings else None
        images, texts = self._names["image"], [n for our in ("caption", "label", "url") for n in self._names[our]]
        self._limits = dict.fromkeys([*texts, "json"], MAX_TEXT_BYTES) | dict.fromkeys(images, embed.max_image_bytes)
        self._group = _Group()

    @property
    def key(self) -> str:
        return self._group.key

    def add(self, member: Member, archive: Archive) -> Iterator[Sample | Reject | Filtered]:
        """Takes a member; yields the sample of the group that it ends, and a reject if it cannot be used."""
        name = member.name.decode(errors="backslashreplace")
        folder, _, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key, suffix = f"{folder}/{stem}", suffix.lower()
        if member.kind == "folder" or (member.kind == "file" and suffix not in self._limits):
            return
        if key != self._group.key or suffix in self._group.members:
            yield from self.finish()
            self._group = _Group(key)
        problem = self._problem(member, name, suffix)
        if problem is None:
            self._group.members[suffix] = (name, archive.read())
        elif not self._group.rejected:
            self._group.rejected = True
            yield problem

    def _problem(self, member: Member, name: str, suffix: str) -> Reject | None:
        if member.kind != "file":
            return Reject(name, "read", "NotAFile", "links, devices and sparse files are not followed")
        if name.encode() != member.name:
            return Reject(name, "read", "NameNotUtf8", "the name in the tar is not UTF-8")
        if member.size_bytes > self._limits[suffix]:
            message = f"has {member.size_bytes:,} bytes, the limit is {self._limits[suffix]:,}"
            return Reject(name, "read", "TooLarge", message)
        return None

    def finish(self) -> Iterator[Sample | Reject | Filtered]:
        """Yields the sample of the current group; nothing if its key was rejected before."""
        group = self._group
        if group.members and not group.rejected:
            yield self._sample(group.key, group.members)

    def check_table(self) -> None:
        """Raises a `UserError` if the table beside the tar lacks most of its keys."""
        if self._table:
            self._table.check()

    def _sample(self, key: str, members: Mapping[str, tuple[str, bytes]]) -> Sample | Reject | Filtered:
        image = next((suffix for suffix in self._names["image"] if suffix in members), None)
        if image is None:
            return Reject(key, "read", "MissingImage", f"no image beside {', '.join('.' + p for p in sorted(members))}")
        name, data = members[image]
        try:
            row = self._table.row(key.rpartition("/")[2]) if self._table else {}
        except ValueError as error:
            return Reject(name, "read", "BadValue", f"its row in the table: {error}")
        try:
            metadata = json.loads(members["json"][1]) if "json" in members else {}
            fields = {**metadata, **row}
        except (ValueError, TypeError, RecursionError) as error:
            return Reject(name, "read", "BadMetadata", f".json: {error}")
        try:
            texts = self._texts(members)
        except UnicodeDecodeError as error:
            return Reject(name, "read", "CaptionNotUtf8", str(error))
        return to_sample(self._shard, name, data, rename({**fields, **texts}, self._names))

    def _texts(self, members: Mapping[str, tuple[str, bytes]]) -> dict[str, str]:
        others = {"json", *self._names["image"]}
        return {suffix: data.decode() for suffix, (_, data) in members.items() if suffix not in others}


def read(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject | Filtered]:
    """Yields the pairs of a tar, which may be compressed, in their order; a `UserError` if the store fails."""
    pairs = _Pairs(shard, embed)
    with Stream(shard.uri) as stream:
        archive, broken = Archive(stream), ""
        try:
            for member in archive:
                yield from pairs.add(member, archive)
        except BrokenStream as error:
            broken = f"the tar breaks off after {pairs.key.lstrip('/') or 'its start'}: {error}"
    if archive.ended:
        # Otherwise the last key may not be whole.
        yield from pairs.finish()
    pairs.check_table()
    if broken:
        yield Reject("", "read", "TruncatedTar", broken)
