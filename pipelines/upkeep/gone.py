"""Deletes what a memory still stores of source shards that no longer exist.

Such a shard is named in `inputs.json` and not in `complete.json`. Embedding leaves its files where they are: the index
in use may find its rows until the next one is published, and the shard may come back. So they are deleted when an
index of the memory without it has been published, as the old files of shards that `compaction` rewrites.
"""

import dataclasses

import numpy as np

from pipelines import manifest, schemas, storage
from pipelines.filtering.unwanted.opt_out import OptOut
from pipelines.manifest import Embeddings
from pipelines.progress import counted
from pipelines.upkeep import compaction

_VECTORS = ""
# Where a shard has a file, in the order of deletion: without its marker it is embedded again if it comes back, and
# while its vectors are there, a command that was interrupted can still count its rows.
_PLACES = {
    manifest.MARKERS: ".json",
    manifest.REJECTS: ".parquet",
    manifest.FILTERED: ".parquet",
    manifest.DROPPED: ".parquet",
    _VECTORS: ".parquet",
}
_NAMED_BY = ["id", "content_key", "url", "metadata"]
_AGAIN = "remove it and run the same command again"


@dataclasses.dataclass(frozen=True)
class Deleted:
    """What was deleted of source shards that no longer exist: how many shards, and how many rows they had."""

    shards: int
    rows: int

    def __str__(self) -> str:
        """Returns `30 rows of 1 shard whose source is gone`; empty if nothing was deleted."""
        said = f"{counted(self.rows, 'row')} of {counted(self.shards, 'shard')} whose source is gone"
        return said if self.shards else ""


def delete(memory: str, removed: np.ndarray) -> Deleted:
    """Deletes the files of source shards that no longer exist, and no others.

    Args:
        memory: its folder; it is finished, and the published index is of it.
        removed: digests of removed images and URLs, `S32` `[n]`; rows of these are kept for `proof`.

    Raises:
        UserError: if one of the files, or what names them, is damaged.
    """
    whole, inputs = Embeddings(memory), storage.join(memory, manifest.INPUTS_FILE)
    listed = schemas.read_json(inputs, {"names": [str]}, _AGAIN)["names"]
    names, config_hash = {*listed} - {*whole.shard_facts, ""}, manifest.fingerprint(whole.identity)
    found = {
        place: [path for path in storage.files(storage.join(memory, place), suffix) if _shard(path) in names]
        for place, suffix in _PLACES.items()
    }
    rows = 0
    for path in found[_VECTORS]:
        marker = manifest.read_marker(memory, _shard(path), config_hash)
        if marker and len(removed):
            storage.check_sha256(path, marker.output_sha256, _AGAIN)
        rows += _keep_removed(memory, path, OptOut(removed))
    paths = [path for place in found.values() for path in place]
    for path in paths:
        storage.remove(path)
    return Deleted(len({_shard(path) for path in paths}), rows)


def _shard(path: str) -> str:
    return storage.name(path).rsplit(".", 1)[0]


def _keep_removed(memory: str, path: str, removed: OptOut) -> int:
    """Writes the removed rows of a shard to where `compaction` puts those that it deletes; returns all its rows."""
    with schemas.open_parquet(path, _NAMED_BY, remedy=_AGAIN) as parquet:
        ids = [np.empty(0, np.int64)]
        for batch in parquet.iter_batches(schemas.ROW_GROUP_ROWS, columns=_NAMED_BY) if len(removed) else ():
            ids.append(batch.column("id").to_numpy()[removed.met(batch)[0]])
        if len(found := np.concatenate(ids)):
            table = schemas.read_ids(parquet, compaction.traces(parquet.schema_arrow), found)
            file = compaction.rows_file(_shard(path), storage.sha256(path))
            schemas.write(storage.join(memory, compaction.FOLDER, file), table, {})
        return int(parquet.metadata.num_rows)
