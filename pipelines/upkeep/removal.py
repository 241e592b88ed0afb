"""Rows that are removed for good: what the person lists, and the list that every later selection is made with.

A line of the person's list is an id of the memory, a URL or a SHA-256. Whatever it names, the image goes: all rows
with its bytes, now and when it is embedded again. What is kept is `removed.txt` in the workdir, digests of images and
of URLs, one a line, which only grows. Leaving the rows out is left to `selection`, deleting them to `compaction`.
"""

import re
from collections.abc import Iterator

import numpy as np

from configs.base import Config
from pipelines import manifest, storage
from pipelines.filtering import opt_out
from pipelines.filtering.opt_out import OptOut
from pipelines.filtering.selection import MemoryShard, MemoryShards
from pipelines.schemas import EncoderInfo, content_keys

_ID = re.compile(r"\d{1,19}")
_COLUMNS = ("id", "content_key", "url", "metadata")


def stored(folder: str) -> MemoryShards | None:
    """Returns the shards of a memory that are embedded, be it finished or not; None if it was never begun."""
    path = storage.join(folder, manifest.STAGE_FILE)
    if not storage.exists(path):
        return None
    identity = storage.read_json(path)
    config_hash = manifest.fingerprint(identity)
    markers = manifest.read_markers(folder, config_hash).values()
    there = {storage.name(path) for path in storage.files(folder, ".parquet")}
    shards = [
        MemoryShard(m.number, m.name, m.rows_out, m.output_sha256) for m in markers if f"{m.name}.parquet" in there
    ]
    return MemoryShards(folder, config_hash, EncoderInfo(**identity["encoders"]["key"]), tuple(shards))


def add(config: Config, uri: str) -> int:
    """Adds what a list names to `removed.txt`; returns how many digests are new there.

    Args:
        config: of the whole line.
        uri: of the list: ids, URLs or SHA-256 digests, one a line.

    Raises:
        UserError: if the list cannot be read, or a line is none of these.
    """
    ids: list[int] = []

    def parse(text: str) -> bytes:
        if _ID.fullmatch(text):
            ids.append(int(text))
            return b""
        return opt_out.entry(text)

    digests = np.frombuffer(b"".join(opt_out.read_lines(uri, parse)), "S32")
    named = np.unique(np.array(ids, np.uint64))
    found = list(_images(stored(config.memory_dir), named, OptOut(digests)))
    before = read(config)
    after = np.union1d(before, np.concatenate([digests, *found]))
    if len(after) > len(before):
        whole = after.tobytes()
        with storage.atomic_write(config.removed_file) as file:
            for begin in range(0, len(whole), 32):
                file.write(f"{whole[begin : begin + 32].hex()}\n".encode())
    return len(after) - len(before)


def read(config: Config) -> np.ndarray:
    """Returns the digests of all that was ever removed, `S32` `[n]`, ascending."""
    if not storage.exists(config.removed_file):
        return np.empty(0, "S32")
    return np.frombuffer(b"".join(opt_out.read_lines(config.removed_file, opt_out.entry)), "S32")


def _images(memory: MemoryShards | None, ids: np.ndarray, listed: OptOut) -> Iterator[np.ndarray]:
    """Yields the content keys of the rows that are named, `S32`."""
    for shard in memory.shards if memory else ():
        for block in memory.blocks(shard, _COLUMNS):  # type: ignore[union-attr]
            images = content_keys(block.column("content_key"))
            is_named = np.isin(block.column("id").to_numpy().astype(np.uint64), ids)
            yield images[is_named | listed.matches_rows(block, images)]
