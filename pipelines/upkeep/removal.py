"""Images that are removed for good: the user's lists, and what they add to or take off the list of removed images.

A line of a user's list is an id of the memory, a URL or a SHA-256. It removes the image that it names: all rows with
its bytes, now and whenever it is embedded again. The digests of the images and URLs are kept (`removed_list`). Leaving
the rows out is up to `selection`, deleting them to `compaction`.
"""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from configs.base import Places
from pipelines import generation, manifest, storage
from pipelines.errors import UserError
from pipelines.filtering import selection
from pipelines.filtering.selection import MemoryShard, MemoryShards
from pipelines.filtering.unwanted import opt_out, removed_list
from pipelines.filtering.unwanted.opt_out import OptOut
from pipelines.filtering.unwanted.removed_list import RemovedList
from pipelines.schemas import EncoderInfo, content_keys

_ID = re.compile(r"\d{1,19}")
_COLUMNS = ("id", "content_key", "url", "metadata")
# Entries that a summary shows.
_SHOWN = 3
ALL = "all"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a user's list has done.

    Attributes:
        changed: digests that were added to the list of removed images, or taken off.
        digests: all that the list asked for, those of the images that its entries name included, `S32`.
        entries: different entries of the user's list.
        unmet: those that no row of the memory met, as the user's list has them.
    """

    changed: int
    digests: np.ndarray
    entries: int
    unmet: tuple[str, ...]

    @property
    def shown_unmet(self) -> str:
        """The unmet entries for people: `2 of 9 entries met no row: http://..`; empty if there are none."""
        more = ", .." if len(self.unmet) > _SHOWN else ""
        shown = ", ".join(text[:200] for text in self.unmet[:_SHOWN])
        return f"{len(self.unmet):,} of {self.entries:,} entries met no row: {shown}{more}" if self.unmet else ""


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A user's list: its entries by their text, an id or a digest each."""

    ids: dict[str, int]
    digests: dict[str, bytes]

    @classmethod
    def read(cls, uri: str) -> "_Asked":
        asked = cls({}, {})

        def parse(text: str) -> None:
            if _ID.fullmatch(text):
                asked.ids[text] = int(text)
            else:
                asked.digests[text] = opt_out.entry(text)

        for _ in opt_out.read_lines(uri, parse):
            pass
        return asked

    @property
    def listed(self) -> np.ndarray:
        """The digests, `S32`."""
        return np.frombuffer(b"".join(self.digests.values()), "S32")

    def meet(self, memory: MemoryShards | None) -> Outcome:
        """Finds the rows of a memory that the entries name, used or not."""
        wanted, listed = np.unique(np.array([*self.ids.values()], np.uint64)), OptOut(self.listed)
        images, met = [self.listed], {b""}
        ids = [np.empty(0, np.uint64)]
        for block in _blocks(memory):
            found, entries = listed.met(block)
            numbers = block.column("id").to_numpy().astype(np.uint64)
            is_named = np.isin(numbers, wanted)
            images.append(content_keys(block.column("content_key"))[found | is_named])
            ids.append(numbers[is_named])
            met |= {*opt_out.as_bytes(entries)}
        known = set(np.concatenate(ids).tolist())
        unmet = [text for text, id_ in self.ids.items() if id_ not in known]
        unmet += [text for text, digest in self.digests.items() if digest not in met]
        return Outcome(0, np.unique(np.concatenate(images)), len(self.ids) + len(self.digests), tuple(unmet))


def stored(folder: str) -> MemoryShards | None:
    """Returns the embedded shards of a memory, finished or not; None for a memory that was never begun."""
    if not storage.exists(storage.join(folder, manifest.STAGE_FILE)):
        return None
    identity = manifest.read_identity(folder)
    config_hash = manifest.fingerprint(identity)
    markers = manifest.read_markers(folder, config_hash).values()
    there = {storage.name(path) for path in storage.files(folder, ".parquet")}
    shards = [
        MemoryShard(m.number, m.name, m.rows_out, m.output_sha256) for m in markers if f"{m.name}.parquet" in there
    ]
    return MemoryShards(folder, config_hash, EncoderInfo(**identity["encoders"]["key"]), tuple(shards))


def _blocks(memory: MemoryShards | None) -> Iterator[pa.RecordBatch]:
    """Yields what names the rows of a memory, after checking the bytes of each shard."""
    for shard in memory.shards if memory else ():
        memory.check(shard)  # type: ignore[union-attr]
        yield from memory.blocks(shard, _COLUMNS)  # type: ignore[union-attr]


def _applied(places: Places) -> list[dict[str, object]]:
    """Returns the states of the list of removed images that the memories of all generations have applied."""
    memories = [places.memory, *(places.in_generation(name).memory for name in generation.others(places))]
    return [state for memory in memories for state in selection.applied(memory)]


def settled(places: Places) -> str:
    """Returns the path of the list of removed images, empty for none, after checking it and restoring what it lost.

    Raises:
        UserError: if the list is damaged, or has fewer entries than were applied before.
    """
    removed_list.settle(places.removed, _applied(places))
    return places.removed if removed_list.exists(places.removed) else ""


def add(places: Places, uri: str) -> Outcome:
    """Adds the images that a list names to the list of removed images.

    Args:
        places: of the memory and of the list of removed images.
        uri: of the user's list: ids, URLs or SHA-256 digests, one per line.

    Raises:
        UserError: if a list or a shard of the memory cannot be read or is damaged, or a line is something else.
    """
    return _add(places, uri)


def add_embedded(places: Places, uri: str, before: Outcome) -> Outcome:
    """Adds the images of rows that were embedded since `add` and that the URLs and digests of its list name.

    Ids are not looked for again: a row that came later is not the one that was meant.

    Args:
        places: of the memory, which may be another generation's now, and of the list of removed images.
        uri: of the user's list, as of `add`.
        before: what `add` returned.

    Returns:
        What both have done.

    Raises:
        UserError: as `add`.
    """
    later = _add(places, uri, with_ids=False)
    unmet = tuple(text for text in before.unmet if _ID.fullmatch(text) or text in later.unmet)
    digests = np.union1d(before.digests, later.digests)
    return Outcome(before.changed + later.changed, digests, before.entries, unmet)


def _add(places: Places, uri: str, with_ids: bool = True) -> Outcome:
    before = removed_list.settle(places.removed, _applied(places))
    asked = _Asked.read(uri)
    outcome = (asked if with_ids else dataclasses.replace(asked, ids={})).meet(stored(places.memory))
    after = before.with_new(outcome.digests)
    if len(after.digests) > len(before.digests):
        after.write(places.removed)
    return dataclasses.replace(outcome, changed=len(after.digests) - len(before.digests))


def forget(places: Places, uri: str) -> Outcome:
    """Takes the images that a list names off the list of removed images, so that they may be embedded again.

    Args:
        places: of the memory and of the list of removed images.
        uri: of the user's list, as of `add`; `all` takes off every entry, even of a list that is damaged or lost.

    Raises:
        UserError: as `add`.
    """
    applied = _applied(places)
    if uri == ALL:
        count, shrunk = _lost(places, applied)
        RemovedList(shrunk=shrunk + 1).write(places.removed)
        return Outcome(count, np.empty(0, "S32"), count, ())
    before = removed_list.settle(places.removed, applied)
    asked = _Asked.read(uri)
    outcome = asked.meet(stored(places.memory))
    # Lists of earlier versions have URLs as they were given.
    raw = [digest for text in asked.digests for digest in opt_out.digests_of(text)]
    after = before.without(np.union1d(outcome.digests, np.frombuffer(b"".join(raw), "S32")))
    if after is not before:
        after.write(places.removed)
    return dataclasses.replace(outcome, changed=len(before.digests) - len(after.digests))


def _lost(places: Places, applied: list[dict[str, object]]) -> tuple[int, int]:
    """Returns how many entries the list has, and how often entries were taken off; of a lost list what is known."""
    states = list(applied)
    try:
        states.append(removed_list.read(places.removed).state)
    except UserError:
        pass
    last = max(states, key=lambda state: (state["shrunk"], state["entries"]), default={"entries": 0, "shrunk": 0})
    return int(str(last["entries"])), int(str(last["shrunk"]))


def read(path: str) -> np.ndarray:
    """Returns the digests of the list of removed images, `S32` `[n]`; none without a list."""
    return removed_list.read(path).digests


def dropped_ids(places: Places) -> np.ndarray:
    """Returns the ids, int64, of the stored rows of a finished memory that are removed; errors as `add`."""
    return selection.removed_ids(places.memory)
