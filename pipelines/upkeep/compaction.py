"""Deletes removed rows from the shards of a memory; the other rows keep their ids and their bytes.

    memory/_removing/next/           the memory without them, as a folder of embeddings: only what differs is in it
        base.json                    the snapshot of the memory that it is made from
        {shard}.parquet, _done/, _dropped/, stage.json
        rows/{shard}.parquet         the deleted rows
        complete.json                written last; names the shards that are rewritten
    memory/_removing/rows/..         deleted rows, until `proof` has looked for them in every file

`prepare` writes the first folder and changes nothing of the memory, which serves every reader until an index of the new
rows is published. Then `finish` puts the new files in their places. An interrupted command leaves one of three states:
a part of `next`, which is completed, or begun again if the memory has changed since; all of it, which is used again if
the memory is the same; or a published index of it, and `finish` does the rest, whichever command comes next.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.filtering import dropped, selection
from pipelines.filtering.dropped import REMOVED
from pipelines.filtering.selection import DroppedShard, MemoryShard, MemoryShards, Selection
from pipelines.manifest import Embeddings, Marker

FOLDER = "_removing"
ROWS = "rows"
_BASE = "base.json"


def prepare(memory: str) -> tuple[str, int]:
    """Writes what a finished memory is without the rows that its selection marks as removed, beside it.

    Args:
        memory: its folder.

    Returns:
        The folder to read the new memory from, which is the memory itself if no row is removed, and the number of
        removed rows.

    Raises:
        UserError: if the memory is not finished, or one of its files is damaged.
    """
    whole, chosen = Embeddings(memory), selection.read(memory)
    deleted = sum(shard.dropped.get(REMOVED, 0) for shard in chosen.shards)
    if not deleted:
        return memory, 0
    target = storage.join(memory, manifest.NEXT)
    base = storage.join(target, _BASE)
    if not storage.exists(base) or storage.read_json(base) != {"snapshot": whole.snapshot}:
        _discard(target)
        storage.write_json(base, {"snapshot": whole.snapshot})
    if not storage.exists(storage.join(target, manifest.COMPLETE_FILE)):
        _write(memory, target, whole, chosen)
    return target, deleted


def _write(memory: str, target: str, whole: Embeddings, chosen: Selection) -> None:
    """Writes the folder of the new memory."""
    config_hash = manifest.fingerprint(whole.identity)
    markers = {name: _marker(memory, name, config_hash) for name in whole.shard_facts}
    touched = {shard.name: shard for shard in chosen.shards if shard.dropped.get(REMOVED)}
    for name in touched:
        whole.check(markers[name].number)
        if not manifest.read_marker(target, name, config_hash):
            _rewrite(memory, target, markers[name])
        markers[name] = _marker(target, name, config_hash)
    shards = tuple(MemoryShard(m.number, m.name, m.rows_out, m.output_sha256) for m in markers.values())
    after = MemoryShards(memory, config_hash, whole.encoder("key"), shards)
    identity = {**chosen.identity, "memory": after.snapshot}
    drops = [
        _without_removed(memory, target, shard, identity) if shard.name in touched else shard for shard in chosen.shards
    ]
    totals = {**chosen.totals, REMOVED: 0}
    new = dataclasses.replace(chosen, identity=identity, totals=totals, shards=tuple(drops))
    selection.write_file(storage.join(target, manifest.DROPPED), new)
    storage.write_json(storage.join(target, manifest.STAGE_FILE), whole.identity)
    left = {shard.name: manifest.Drops(sum(shard.dropped.values()), shard.sha256) for shard in drops}
    manifest.complete(target, markers.values(), config_hash, left, sorted(touched), whole.passed_over)


def _marker(folder: str, name: str, config_hash: str) -> Marker:
    marker = manifest.read_marker(folder, name, config_hash)
    if marker is None:
        raise UserError(f"{folder}: shard {name} has no marker; run web-memory embed again")
    return marker


def rows_file(shard: str, sha256: str) -> str:
    """Returns the path of the file of the deleted rows of a shard, by its name and the SHA-256 of its bytes before."""
    return storage.join(ROWS, f"{shard}-{sha256[:16]}.parquet")


def traces(schema: pa.Schema) -> list[str]:
    """Returns the columns of a shard by which `proof` looks for its deleted rows: `id`, `content_key`, all vectors."""
    return ["id", "content_key", *(field.name for field in schema if pa.types.is_fixed_size_list(field.type))]


def _rewrite(memory: str, target: str, marker: Marker) -> None:
    """Writes a shard without its removed rows, those rows to a file of their own, and last the shard's marker."""
    ids = selection.removed_ids(memory, marker.name)
    source, path = (storage.join(folder, f"{marker.name}.parquet") for folder in (memory, target))
    gone = storage.join(target, rows_file(marker.name, marker.output_sha256))
    with schemas.open_parquet(source, ["id"], {"config_hash": marker.config_hash}) as parquet:
        stored = {k.decode(): v.decode() for k, v in parquet.schema_arrow.metadata.items()}
        schema = parquet.schema_arrow.remove_metadata()
        part = pa.schema([schema.field(name) for name in traces(schema)])
        with schemas.writer(path, schema, stored) as kept, schemas.writer(gone, part, stored) as deleted:
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
        output_sha256=storage.sha256(path),
        output_footer=schemas.footer_sha256(path),
    )
    after.write(target)


def _without_removed(memory: str, target: str, shard: DroppedShard, identity: dict) -> DroppedShard:
    """Writes the dropped rows of a shard without the removed ones; returns their facts."""
    file = storage.join(manifest.DROPPED, f"{shard.name}.parquet")
    table = schemas.read(storage.join(memory, file), dropped.DROPPED.names)
    stays = pa.array([reason != REMOVED for reason in table["reason"].to_pylist()], pa.bool_())
    stored = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    path = storage.join(target, file)
    schemas.write(path, table.filter(stays), {**stored, "selection": manifest.fingerprint(identity)})
    counts = {reason: count for reason, count in shard.dropped.items() if reason != REMOVED}
    return dataclasses.replace(shard, dropped=counts, sha256=storage.sha256(path))


def finish(memory: str, published: str) -> None:
    """Puts the files of a prepared memory in their places, if the published index is of it.

    Args:
        memory: its folder, which need not exist.
        published: snapshot of the memory that the published index is of; empty for none.
    """
    source = storage.join(memory, manifest.NEXT)
    complete = storage.join(source, manifest.COMPLETE_FILE)
    if not storage.exists(complete):
        return
    again = f"remove {source} and run web-memory reindex --compact again"
    whole = schemas.read_json(complete, {"snapshot": str, "rewritten": [str]}, again)
    if whole["snapshot"] != published:
        return
    storage.remove(storage.join(memory, manifest.COMPLETE_FILE))
    for name in whole.pop("rewritten"):
        files = f"{name}.parquet", f"{manifest.MARKERS}/{name}.json", f"{manifest.DROPPED}/{name}.parquet"
        for file in files:
            storage.copy(storage.join(source, file), storage.join(memory, file))
    file = f"{manifest.DROPPED}/{selection.FILE}"
    storage.copy(storage.join(source, file), storage.join(memory, file))
    for path in storage.files(storage.join(source, ROWS), ".parquet"):
        storage.copy(path, storage.join(memory, FOLDER, ROWS, storage.name(path)))
    storage.write_json(storage.join(memory, manifest.COMPLETE_FILE), whole)
    _discard(source)


def _discard(target: str) -> None:
    """Deletes a prepared memory, first what makes it whole."""
    storage.remove(storage.join(target, manifest.COMPLETE_FILE))
    storage.remove(storage.join(target, _BASE))
    storage.remove(target)


def deleted(memory: str) -> Iterator[pa.Table]:
    """Yields the deleted rows that have not been looked for yet: `id`, `content_key` and all vectors."""
    for path in storage.files(storage.join(memory, FOLDER, ROWS), ".parquet"):
        with schemas.open_parquet(path, ["id", "content_key"]) as parquet:
            yield parquet.read()


def forget(memory: str) -> None:
    """Deletes the last copy of the deleted rows, once no other file has them."""
    storage.remove(storage.join(memory, FOLDER))
