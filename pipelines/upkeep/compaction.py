"""Deletes removed rows from the shards of a memory; the other rows keep their ids and their bytes.

    memory/_removing/{shard}.parquet            the shard without them
    memory/_removing/{shard}.json               its marker; once it is there, both files replace those of the memory
    memory/_removing/rows/{shard}-{..}.parquet  the deleted rows, until `proof` has looked for them in every file

If a command is interrupted, the next one resumes: a shard with a marker here is replaced, one without is written again.
Afterwards the memory is not finished, because its selection belongs to the old shards; the embed stage finishes it.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.filtering import selection
from pipelines.filtering.dropped import REMOVED
from pipelines.manifest import Marker

FOLDER = "_removing"
ROWS = "rows"


def delete_removed(memory: str) -> int:
    """Deletes the rows of a finished memory that its selection marks as removed; returns their number.

    Args:
        memory: its folder.

    Raises:
        UserError: if the memory is not finished, or one of its files is damaged.
    """
    finish(memory)
    _, whole = manifest.read_shards(memory)
    config_hash, deleted = whole["config_hash"], 0
    for shard in selection.read(memory).shards:
        if not shard.dropped.get(REMOVED):
            continue
        path = storage.join(memory, manifest.DROPPED, f"{shard.name}.parquet")
        dropped = schemas.read(path, ["id", "reason"], {"config_hash": config_hash})
        is_removed = np.array([reason == REMOVED for reason in dropped["reason"].to_pylist()], bool)
        marker = manifest.read_marker(memory, shard.name, config_hash)
        if marker is None:
            raise UserError(f"{memory}: shard {shard.name} has no marker; run web-memory embed again")
        _rewrite(memory, marker, dropped["id"].to_numpy()[is_removed])
        deleted += int(is_removed.sum())
    if deleted:
        finish(memory)
    return deleted


def _rewrite(memory: str, marker: Marker, ids: np.ndarray) -> None:
    """Writes a shard without the rows of some ids, those rows to a file of their own, and last the shard's marker."""
    source, folder = storage.join(memory, f"{marker.name}.parquet"), storage.join(memory, FOLDER)
    target = storage.join(folder, f"{marker.name}.parquet")
    gone = storage.join(folder, ROWS, f"{marker.name}-{marker.output_sha256[:16]}.parquet")
    with schemas.open_parquet(source, ["id"], {"config_hash": marker.config_hash}) as parquet:
        stored = {k.decode(): v.decode() for k, v in parquet.schema_arrow.metadata.items()}
        schema = parquet.schema_arrow.remove_metadata()
        vectors = [field.name for field in schema if pa.types.is_fixed_size_list(field.type)]
        part = pa.schema([schema.field(name) for name in ("id", "content_key", *vectors)])
        with schemas.writer(target, schema, stored) as kept, schemas.writer(gone, part, stored) as deleted:
            for batch in parquet.iter_batches(schemas.ROW_GROUP_ROWS):
                rows = pa.Table.from_batches([batch])
                is_gone = np.isin(rows["id"].to_numpy(), ids)
                for writer, mask in ((kept, ~is_gone), (deleted, is_gone)):
                    table = rows.filter(pa.array(mask)).select(writer.schema.names)
                    writer.write_table(table.replace_schema_metadata(writer.schema.metadata))
    filtered = {**marker.filtered, REMOVED: marker.filtered.get(REMOVED, 0) + len(ids)}
    after = dataclasses.replace(
        marker,
        rows_out=marker.rows_out - len(ids),
        rows_filtered=marker.rows_filtered + len(ids),
        filtered=filtered,
        output_sha256=storage.sha256(target),
        output_footer=schemas.footer_sha256(target),
    )
    storage.write_json(storage.join(folder, f"{marker.name}.json"), dataclasses.asdict(after))


def finish(memory: str) -> None:
    """Puts rewritten shards in their places; afterwards the embed stage must finish the memory.

    Args:
        memory: its folder, which need not exist.
    """
    folder = storage.join(memory, FOLDER)
    ready = storage.files(folder, ".json")
    if ready:
        storage.remove(storage.join(memory, manifest.COMPLETE_FILE))
    for path in ready:
        marker = manifest.marker_of(path)
        storage.copy(storage.join(folder, f"{marker.name}.parquet"), storage.join(memory, f"{marker.name}.parquet"))
        marker.write(memory)
        storage.remove(path)
    for path in storage.files(folder, ".parquet"):
        storage.remove(path)


def deleted(memory: str) -> Iterator[pa.Table]:
    """Yields the deleted rows that have not been looked for yet: `id`, `content_key` and all vectors."""
    for path in storage.files(storage.join(memory, FOLDER, ROWS), ".parquet"):
        with schemas.open_parquet(path, ["id", "content_key"]) as parquet:
            yield parquet.read()


def forget(memory: str) -> None:
    """Deletes the last copy of the deleted rows, once no other file has them."""
    storage.remove(storage.join(memory, FOLDER))
