"""Images that are removed for good: the user's list, and the digests that every later selection leaves out.

A line of the user's list is an id of the memory, a URL or a SHA-256. It removes the image that it names: all rows with
its bytes, now and whenever it is embedded again. The digests of the images and URLs are kept in `removed.txt` in the
workdir, one per line, and only ever added to. Leaving the rows out is up to `selection`, deleting them to `compaction`.
"""

import re
from collections.abc import Iterator

import numpy as np

from configs.base import Places
from pipelines import manifest, storage
from pipelines.filtering import opt_out
from pipelines.filtering.opt_out import OptOut
from pipelines.filtering.selection import MemoryShard, MemoryShards
from pipelines.schemas import EncoderInfo, content_keys

_ID = re.compile(r"\d{1,19}")
_COLUMNS = ("id", "content_key", "url", "metadata")


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


def add(places: Places, uri: str) -> int:
    """Adds the images that a list names to `removed.txt`; returns the number of new digests there.

    Args:
        places: of the memory and of `removed.txt`.
        uri: of the list: ids, URLs or SHA-256 digests, one per line.

    Raises:
        UserError: if the list cannot be read, or a line is something else.
    """
    ids: list[int] = []

    def parse(text: str) -> bytes:
        if _ID.fullmatch(text):
            ids.append(int(text))
            return b""
        return opt_out.entry(text)

    digests = np.frombuffer(b"".join(opt_out.read_lines(uri, parse)), "S32")
    named = np.unique(np.array(ids, np.uint64))
    found = list(_images(stored(places.memory), named, OptOut(digests)))
    before = read(places.removed)
    after = np.union1d(before, np.concatenate([digests, *found]))
    if len(after) > len(before):
        whole = after.tobytes()
        with storage.atomic_write(places.removed) as file:
            for begin in range(0, len(whole), 32):
                file.write(f"{whole[begin : begin + 32].hex()}\n".encode())
    return len(after) - len(before)


def read(path: str) -> np.ndarray:
    """Returns the digests in `removed.txt`, `S32` `[n]`, ascending; none without the file."""
    if not storage.exists(path):
        return np.empty(0, "S32")
    return np.frombuffer(b"".join(opt_out.read_lines(path, opt_out.entry)), "S32")


def _images(memory: MemoryShards | None, ids: np.ndarray, listed: OptOut) -> Iterator[np.ndarray]:
    """Yields the content keys, `S32`, of the rows that are named."""
    for shard in memory.shards if memory else ():
        for block in memory.blocks(shard, _COLUMNS):  # type: ignore[union-attr]
            images = content_keys(block.column("content_key"))
            is_named = np.isin(block.column("id").to_numpy().astype(np.uint64), ids)
            yield images[is_named | listed.matches_rows(block, images)]
