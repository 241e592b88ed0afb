"""Keys from Parquet: those of one index shard as a stream, scaled to unit length; and the check for one encoder.

The global row order is by embedding shard, then by row. `partition_job` decides which rows make an index shard.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from index.engines.searcher import CHUNK_ROWS
from pipelines import schemas
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.schemas import EncoderInfo, content_keys, unit_keys


def require_same_encoder(memory: EncoderInfo, queries: Embeddings, index_folder: str) -> None:
    """Checks that queries were embedded as the memory was; else neighbours would mean nothing.

    Raises:
        UserError: if they were not.
    """
    info = queries.encoder("key")
    if (info.fingerprint, info.dim, info.normalized) != (memory.fingerprint, memory.dim, memory.normalized):
        raise UserError(
            f"{index_folder}: is an index from another encoder than the queries in {queries.folder} "
            f"(fingerprint {memory.fingerprint}, {memory.dim}-d against {info.fingerprint}, {info.dim}-d); "
            "embed both with the same --config.encoders.key"
        )


COLUMNS = ("id", "content_key", "key")


Blocks = Callable[[Sequence[str]], Iterator[pa.Table | pa.RecordBatch]]


@dataclasses.dataclass(frozen=True)
class KeyStream:
    """The rows of one index shard, read from its files whenever they are asked for (`searcher.Keys`).

    Attributes:
        rows: number of rows.
        info: of the key encoder.
        where: the source's name in errors.
        blocks: reads columns of all rows, block by block.
    """

    rows: int
    info: EncoderInfo
    where: str
    blocks: Blocks

    @property
    def dim(self) -> int:
        """Width of a key."""
        return self.info.dim

    def chunks(self) -> Iterator[np.ndarray]:
        """Yields the unit keys in row order, float32 `[CHUNK_ROWS, d]`, the last shorter; errors as `unit_keys`.

        Short blocks are joined, since the work on a chunk has costs that do not depend on its length.
        """
        parts: list[np.ndarray] = []
        room = CHUNK_ROWS
        for block in self.blocks(["key"]):
            begin = 0
            while begin < block.num_rows:
                part = block.slice(begin, room)
                parts.append(unit_keys(part.column("key"), self.info, self.where))
                begin, room = begin + part.num_rows, room - part.num_rows
                if not room:
                    yield np.concatenate(parts)
                    parts, room = [], CHUNK_ROWS
        if parts:
            yield np.concatenate(parts)

    def sample(self, rows: int) -> np.ndarray:
        """Returns evenly spread unit keys, float32 `[min(rows, self.rows), d]`."""
        return self.take(np.arange(min(rows, self.rows)) * self.rows // max(min(rows, self.rows), 1))

    def take(self, places: np.ndarray) -> np.ndarray:
        """Returns the unit keys at ascending places `[q]`, float32 `[q, d]`."""
        taken, begin = np.empty((len(places), self.dim), np.float32), 0
        for chunk in self.chunks():
            low, high = np.searchsorted(places, [begin, begin + len(chunk)])
            taken[low:high] = chunk[places[low:high] - begin]
            begin += len(chunk)
        return taken

    def names(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids, int64 `[n]`, and the content keys, bytes `S32` `[n]`."""
        ids, images = np.empty(self.rows, np.int64), np.empty(self.rows, "S32")
        begin = 0
        for block in self.blocks(["id", "content_key"]):
            into = slice(begin, begin + block.num_rows)
            ids[into], images[into] = block.column("id").to_numpy(), content_keys(block.column("content_key"))
            begin += block.num_rows
        return ids, images


def of_memory(memory: Embeddings, shards: Sequence[int] | None = None) -> KeyStream:
    """Returns the rows of some, or all, shards of a folder of embeddings, whose bytes are checked, in global order."""
    numbers = list(memory.shard_rows if shards is None else shards)

    def blocks(columns: Sequence[str]) -> Iterator[pa.Table]:
        for shard in numbers:
            table = memory.read(shard, list(columns))
            memory.check(shard)
            yield table

    rows = sum(memory.shard_rows[shard] for shard in numbers)
    return KeyStream(rows, memory.encoder("key"), memory.folder, blocks)


def of_files(paths: Sequence[str], info: EncoderInfo, metadata: Mapping[str, str], where: str) -> KeyStream:
    """Returns the rows of Parquet files with the columns `COLUMNS`.

    Args:
        paths: the files, in order.
        info: of the key encoder.
        metadata: required of every file.
        where: the source's name in errors.
    """

    def blocks(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for path in paths:
            with schemas.open_parquet(path, columns, metadata) as parquet:
                yield from parquet.iter_batches(CHUNK_ROWS, columns=list(columns))

    return KeyStream(sum(schemas.count_rows(path) for path in paths), info, where, blocks)


def read_places(source: Embeddings, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids int64 `[q]` and unit keys `[q, d]` at ascending places of the global order."""
    ids, keys = [np.empty(0, np.int64)], [np.empty((0, source.encoder("key").dim), np.float32)]
    begin = 0
    for shard, rows in source.shard_rows.items():
        inside = places[(places >= begin) & (places < begin + rows)] - begin
        if len(inside):
            stream = of_memory(source, (shard,))
            ids.append(stream.names()[0][inside])
            keys.append(stream.take(inside))
        begin += rows
    return np.concatenate(ids), np.concatenate(keys)
