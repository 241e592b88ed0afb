"""Tars of image-text pairs, as img2dataset's `webdataset` output (LAION) and webdataset itself have them.

The members of one key follow each other: `{key}.jpg`, `{key}.txt`, `{key}.json`. A key may have dots, which webdataset
itself would cut at the first of them: `v1.0 cat.jpg` and `v1.0 cat.txt` are a pair. The Parquet table that img2dataset
writes beside each tar is joined by key, so columns that a user adds to it become metadata, too. `tar_members` reads the
framing.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping

from configs.base import Embed
from pipelines.images.suffixes import suffixes
from pipelines.sources.files.siblings import Sibling
from pipelines.sources.files.tar_members import Archive, Member
from pipelines.sources.sample import (
    MAX_TEXT_BYTES,
    Filtered,
    InputShard,
    Reject,
    Sample,
    count_passed_over,
    field_names,
    rename,
    to_sample,
)
from pipelines.sources.stream import BrokenStream, Stream

# More keys than this that begin alike are not of one sample.
_MOST_GROUPS = 16
# Searched among the suffixes of a key's members, then among the fields of its .json and table row.
FIELDS = {
    # Then all other suffixes of images.
    "image": ("jpg", "jpeg", "png", "webp"),
    "caption": ("txt", "caption"),
    "label": ("cls", "label"),
    "url": ("url",),
}


@dataclasses.dataclass
class _Group:
    """The members of one key in a tar: name and bytes by suffix, with the best image of those it has."""

    key: str
    members: dict[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)
    seen: set[str] = dataclasses.field(default_factory=set)
    image: str = ""
    rejected: bool = False


class _Pairs:
    """Collects members into groups, and joins each group to a sample.

    A key is all before a known suffix, so it may have dots. Groups are held as long as one key begins with another
    and a dot, since some of these may be further members of the other's sample.
    """

    def __init__(self, shard: InputShard, embed: Embed) -> None:
        self._shard, self._names = shard, field_names(shard.source, FIELDS)
        single = {our: self._names[our] for our in ("caption", "label", "url")}
        self._table = Sibling(shard.siblings[0], single) if shard.siblings else None
        texts = [name for our in ("caption", "label", "url") for name in self._names[our]]
        if not any(entry.startswith("image=") for entry in shard.source.fields):
            rarer = sorted({suffix[1:] for suffix in suffixes()} - {*FIELDS["image"], *texts})
            self._names["image"] = (*FIELDS["image"], *rarer)
        images = self._names["image"]
        self._limits = dict.fromkeys([*texts, "json"], MAX_TEXT_BYTES) | dict.fromkeys(images, embed.max_image_bytes)
        self._ranks = {suffix: rank for rank, suffix in enumerate(images)}
        self._longest = max(map(len, self._limits))
        self._most_bytes = 2 * embed.max_image_bytes
        # Groups by key, in their order; more than one only if one key is the beginning of the others.
        self._family: dict[str, _Group] = {}
        self._root = ""
        self._held_bytes = 0
        self._key = ""

    @property
    def last(self) -> str:
        """The last key, for messages, with the number of those that would be lost with it."""
        more = len(self._family) - 1
        lost = f" ({more} more that begin{'s' * (more == 1)} like it cannot be used)" if more > 0 else ""
        return (self._key.lstrip("/") or "its start") + lost

    def _suffix(self, base: str) -> str:
        """Returns the longest known suffix of a name, in lower case; empty if there is none."""
        lower = base.lower()
        dot = lower.find(".", max(len(lower) - self._longest - 1, 0))
        while dot >= 0 and lower[dot + 1 :] not in self._limits:
            dot = lower.find(".", dot + 1)
        return lower[dot + 1 :] if dot >= 0 else ""

    def add(self, member: Member, archive: Archive) -> Iterator[Sample | Reject | Filtered]:
        """Takes a member; yields the samples that it ends, and a reject if it cannot be used."""
        name = member.name.decode(errors="backslashreplace")
        folder, _, base = name.rpartition("/")
        suffix = self._suffix(base)
        if member.kind == "folder":
            return
        if base.startswith(".") or (member.kind == "file" and not suffix):
            count_passed_over(self._shard.others, name)
            return
        key = f"{folder}/{base[: len(base) - len(suffix) - 1] if suffix else base}"
        if not self._continues(key, suffix, member.size_bytes):
            yield from self.finish()
        group = self._family.setdefault(key, _Group(key))
        if len(self._family) == 1 or len(key) < len(self._root):
            self._root = key
        self._key = key
        group.seen.add(suffix)
        if problem := self._problem(member, name, suffix):
            if not group.rejected:
                group.rejected = True
                yield problem
        elif not group.rejected:
            self._keep(group, suffix, name, archive)

    def _continues(self, key: str, suffix: str, size_bytes: int) -> bool:
        """Tells whether a member may belong to the groups that are held."""
        if key in self._family:
            return suffix not in self._family[key].seen
        is_related = key.startswith(f"{self._root}.") or self._root.startswith(f"{key}.")
        return is_related and len(self._family) < _MOST_GROUPS and self._held_bytes + size_bytes <= self._most_bytes

    def _problem(self, member: Member, name: str, suffix: str) -> Reject | None:
        if member.kind != "file":
            return Reject(name, "read", "NotAFile", "links, devices and sparse files are not followed")
        if name.encode() != member.name:
            return Reject(name, "read", "NameNotUtf8", "the name in the tar is not UTF-8")
        if member.size_bytes > self._limits[suffix]:
            message = f"has {member.size_bytes:,} bytes, the limit is {self._limits[suffix]:,}"
            return Reject(name, "read", "TooLarge", message)
        return None

    def _keep(self, group: _Group, suffix: str, name: str, archive: Archive) -> None:
        """Reads a member; of several images only the one whose suffix comes first is kept."""
        if suffix in self._ranks:
            if group.image and self._ranks[group.image] < self._ranks[suffix]:
                count_passed_over(self._shard.others, name)
                return
            if group.image:
                count_passed_over(self._shard.others, group.members.pop(group.image)[0])
            group.image = suffix
        group.members[suffix] = (name, archive.read())
        self._held_bytes += len(group.members[suffix][1])

    def finish(self) -> Iterator[Sample | Reject | Filtered]:
        """Yields the samples of the groups that are held; nothing for a key that was rejected before."""
        family, self._family, self._held_bytes = self._family, {}, 0
        for key, group in family.items():
            if group.rejected or not group.members:
                continue
            if key != self._root and self._is_part(group.seen, family[self._root].seen):
                for name, _ in group.members.values():
                    count_passed_over(self._shard.others, name)
            else:
                yield self._sample(key, group.members)

    def _is_part(self, suffixes_below: set[str], of_root: set[str]) -> bool:
        """Tells whether a group is no sample: `a.mask.png` beside `a.jpg` and `a.json`, `a.fr.txt` beside `a.jpg`."""
        images = self._ranks.keys()
        if not images & suffixes_below:
            return bool(images & of_root)
        return not suffixes_below - images and bool(of_root - images)

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
        except ValueError as error:
            return Reject(name, "read", "CaptionNotUtf8", str(error))
        return to_sample(self._shard, name, data, rename({**fields, **texts}, self._names))

    def _texts(self, members: Mapping[str, tuple[str, bytes]]) -> dict[str, str]:
        others = {"json", *self._names["image"]}
        return {suffix: _text(suffix, data) for suffix, (_, data) in members.items() if suffix not in others}


def _text(suffix: str, data: bytes) -> str:
    """Returns a text without its byte order mark; a `ValueError` if it is not UTF-8, which UTF-16 may look like."""
    if b"\0" in data:
        raise ValueError(f".{suffix} has zero bytes, as UTF-16 has")
    return data.decode().removeprefix("\ufeff")


def read(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject | Filtered]:
    """Yields the pairs of a tar, which may be compressed, in their order; a `UserError` if the store fails."""
    pairs = _Pairs(shard, embed)
    with Stream(shard.uri) as stream:
        archive, broken = Archive(stream), ""
        try:
            for member in archive:
                yield from pairs.add(member, archive)
        except BrokenStream as error:
            broken = f"the tar breaks off after {pairs.last}: {error}"
    if archive.ended:
        # Otherwise the last key may not be whole.
        yield from pairs.finish()
    pairs.check_table()
    if broken:
        yield Reject("", "read", "TruncatedTar", broken)
