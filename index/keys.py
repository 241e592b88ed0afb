"""Keys out of embedding folders: ranges of the memory, unit length, and whether two folders share an encoder.

The global row order, by which the memory is cut into index shards, is ascending embedding shard, then row.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipelines import schemas
from pipelines.errors import UserError
from pipelines.manifest import Embeddings, EncoderInfo


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


def content_keys(column: pa.ChunkedArray) -> np.ndarray:
    """Returns a column of 32-byte digests as an array `S32` `[n]`, which compares and sorts bytewise."""
    return np.frombuffer(b"".join(column.to_pylist()), "S32")


def unit_keys(column: pa.ChunkedArray, info: EncoderInfo, where: str) -> np.ndarray:
    """Returns a key column as float32 `[n, d]` of unit length, so that dot products are cosines.

    Args:
        column: fixed-size lists, of float16 or float32.
        info: of the key encoder; keys that it calls normalised are left as they are.
        where: what to name in an error.

    Raises:
        UserError: if a key is not of the encoder's width or has a value that is not finite.
    """
    keys = schemas.to_matrix(column).astype(np.float32)
    if keys.shape[1] != info.dim:
        raise UserError(f"{where}: its keys have {keys.shape[1]} values, not {info.dim}; run pipelines.embed again")
    finite = np.isfinite(keys).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{where}: row {int(np.argmin(finite))} has a key that is not finite; run pipelines.embed again"
        )
    if not info.normalized:
        keys /= np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return keys


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
