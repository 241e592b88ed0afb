"""The rows that an index can find, read from the memory's shards while a command changes that memory.

A memory that is being changed has no `complete.json`, or one of other rows than the published index has. Its shards are
replaced one by one, each at once. So a row is read from the shard that has it, and is taken if its image is the one
that the index knows by its id.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa

from index.store import index_manifest, shard_store
from index.store.reader import Index
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.schemas import EncoderInfo, content_keys

_T = TypeVar("_T")
_Opened = TypeVar("_Opened")


class IndexedMemory:
    """Reads rows as `Embeddings` does, but those of an index.

    Attributes:
        folder: of the memory.
    """

    def __init__(self, folder: str, index: Index) -> None:
        """Opens a memory; a `UserError` if the index has been replaced since it was opened."""
        if index_manifest.read(index.folder)["memory"]["snapshot"] != index.memory_snapshot:
            raise UserError(f"{folder}: has changed since {index.folder} was opened; run the same command again")
        self.folder, self._index = folder, index
        self._shards: dict[int, tuple[str, int]] = {
            facts["number"]: (name, facts["rows"]) for name, facts in index.facts["memory"]["shards"].items()
        }

    @property
    def shard_rows(self) -> dict[int, int]:
        """Rows of each shard that the index has, by shard number, ascending."""
        return {number: rows for number, (_, rows) in sorted(self._shards.items())}

    def encoder(self, role: str) -> EncoderInfo:
        """Returns the encoder of the keys, whatever the role."""
        return self._index.key_encoder

    def read(self, shard: int, columns: Sequence[str]) -> pa.Table:
        """Reads columns of the rows of a shard that the index can find and that are unchanged."""
        return self._read(shard, columns, None)

    def take(self, shard: int, columns: Sequence[str], wanted: np.ndarray) -> pa.Table:
        """Reads the same of the rows that have one of some ids, int64 `[n]`, ascending, as `Embeddings.take`."""
        return self._read(shard, columns, wanted)

    def _read(self, shard: int, columns: Sequence[str], some: np.ndarray | None) -> pa.Table:
        name, _ = self._shards[shard]
        origin = {"config_hash": manifest.fingerprint(manifest.read_identity(self.folder))}
        path = storage.join(self.folder, f"{name}.parquet")
        wanted = list(dict.fromkeys(["id", "content_key", *columns]))
        with schemas.open_parquet(path, wanted, origin) as parquet:
            table = parquet.read(wanted) if some is None else schemas.read_ids(parquet, wanted, some)
        ids, images = self._live
        if not len(ids) or not table.num_rows:
            return table.slice(0, 0).select(list(columns))
        place = np.minimum(np.searchsorted(ids, table["id"].to_numpy()), len(ids) - 1)
        is_same = (ids[place] == table["id"].to_numpy()) & (images[place] == content_keys(table["content_key"]))
        return table.filter(pa.array(is_same)).select(list(columns))

    @functools.cached_property
    def _live(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids, int64, ascending, and content keys, `S32`, of all rows that can be found."""
        index, parts = self._index, [(np.empty(0, np.int64), np.empty(0, "S32"))]
        parts += [live_rows(index, number) for number in range(len(index.shards))]
        ids, images = (np.concatenate(each) for each in zip(*parts, strict=True))
        order = np.argsort(ids)
        return ids[order], images[order]


def live_rows(index: Index, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids int64 and content keys `S32` of the rows of an index shard that can be found."""
    ids, images = shard_store.read_names(index.folder, index.shards[number])
    live = np.ones(len(ids), bool)
    live[index.removed(number)] = False
    return ids[live], images[live]


def open_memory(folder: str, index: Index) -> Embeddings | IndexedMemory:
    """Returns the memory of an index: as it is, or, while it is being changed, the rows that the index can find."""
    try:
        memory = Embeddings(folder)
    except UserError:
        if not storage.exists(storage.join(folder, manifest.STAGE_FILE)):
            raise
        return IndexedMemory(folder, index)
    return memory if memory.snapshot == index.memory_snapshot else IndexedMemory(folder, index)


def etag(folder: str) -> str:
    """Returns what changes with each published version of an index; empty if none is published."""
    found = storage.found(storage.join(folder, index_manifest.FILE))
    return found.etag if found else ""


class Published(Generic[_Opened]):
    """What is opened of the published version of an index, and opened again when another version is published."""

    def __init__(self, folder: str, open_: Callable[[Index], _Opened]) -> None:
        """Opens nothing yet.

        Args:
            folder: of the index.
            open_: opens what is needed of a version.
        """
        self._folder, self._open = folder, open_
        self._held: tuple[str, Index, _Opened] | None = None

    def use(self, work: Callable[[_Opened], _T]) -> _T:
        """Returns the result of work on the published version.

        The work is repeated if it fails and another version has been published since: the rows of the version before
        are then replaced, and what it read may be gone.

        Raises:
            UserError: as the work raises it.
        """
        while True:
            now = etag(self._folder)
            if self._held is None or self._held[0] != now:
                self._held = None
                index = Index.open(self._folder)
            else:
                index = self._held[1]
            try:
                self._held = self._held or (now, index, self._open(index))
                return work(self._held[2])
            except UserError:
                if index_manifest.read(self._folder)["fingerprint"] == index.fingerprint:
                    raise
                self._held = None


def in_published(folder: str, work: Callable[[Index], _T]) -> _T:
    """Returns the result of work on the published version of an index, which may be repeated, as `Published.use`.

    Args:
        folder: of the index.
        work: reads an index and its memory.

    Raises:
        UserError: as the work raises it.
    """
    return Published(folder, lambda index: index).use(work)
