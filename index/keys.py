"""Keys out of embedding folders: ranges of the memory, unit length, and whether two folders share an encoder.

The global row order, by which the memory is cut into index shards, is ascending embedding shard, then row.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipelines.errors import UserError
from pipelines.manifest import Embeddings, EncoderInfo
from pipelines.schemas import content_keys, unit_keys


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of embeddings as arrays.

    Attributes:
        ids: int64 `[n]`.
        content_keys: bytes `S32` `[n]`, SHA-256 of each image.
        keys: float32 `[n, d]`, unit length.
    """

    ids: np.ndarray
    content_keys: np.ndarray
    keys: np.ndarray

    COLUMNS = ("id", "content_key", "key")


def require_same_encoder(memory: EncoderInfo, queries: Embeddings, index_folder: str) -> None:
    """Checks that queries were embedded as the memory was.

    Raises:
        UserError: if they were not, since no neighbour found would mean anything.
    """
    info = queries.encoder("key")
    if (info.fingerprint, info.dim, info.normalized) != (memory.fingerprint, memory.dim, memory.normalized):
        raise UserError(
            f"{index_folder}: is an index from another encoder than the queries in {queries.folder} "
            f"(fingerprint {memory.fingerprint}, {memory.dim}-d against {info.fingerprint}, {info.dim}-d); "
            "embed both with the same --config.encoders.key"
        )


def _spans(folder: Embeddings, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields shard, first row, end row and place in the global order of what `[begin, end)` has of each shard."""
    place = 0
    for shard, rows in folder.shard_rows.items():
        low, high = max(begin - place, 0), min(end - place, rows)
        if low < high:
            yield shard, low, high, place + low
        place += rows


def read_range(folder: Embeddings, begin: int, end: int) -> Rows:
    """Reads rows `[begin, end)` of the global order; errors as `unit_keys`."""
    info = folder.encoder("key")
    n = end - begin
    rows = Rows(np.empty(n, np.int64), np.empty(n, "S32"), np.empty((n, info.dim), np.float32))
    for shard, low, high, place in _spans(folder, begin, end):
        table = folder.read(shard, list(Rows.COLUMNS)).slice(low, high - low)
        into = slice(place - begin, place - begin + high - low)
        rows.ids[into] = table["id"].to_numpy()
        rows.content_keys[into] = content_keys(table["content_key"])
        rows.keys[into] = unit_keys(table["key"], info, f"{folder.folder}, shard {shard}")
    return rows


def read_places(folder: Embeddings, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids int64 `[q]` and unit keys float32 `[q, d]` at ascending places of the global order."""
    info = folder.encoder("key")
    ids, keys = [np.empty(0, np.int64)], [np.empty((0, info.dim), np.float32)]
    for shard, low, high, place in _spans(folder, 0, folder.rows):
        wanted = places[(places >= place) & (places < place + high - low)] - place
        if len(wanted):
            table = folder.read(shard, ["id", "key"]).take(pa.array(wanted))
            ids.append(table["id"].to_numpy())
            keys.append(unit_keys(table["key"], info, f"{folder.folder}, shard {shard}"))
    return np.concatenate(ids), np.concatenate(keys)
