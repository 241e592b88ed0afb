"""`complete.json`, which makes a folder of outputs readable and names all that is in it."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines import schemas, storage
from pipelines.errors import UserError, command
from pipelines.manifest.claims import (
    COMPLETE_FILE,
    STAGE_FILE,
    fingerprint,
    read_identity,
)
from pipelines.manifest.markers import Marker, check_numbers
from pipelines.schemas import EncoderInfo


@dataclasses.dataclass(frozen=True)
class Drops:
    """Rows of one shard that are stored and not used (docs/contracts.md, `_dropped/`).

    Attributes:
        rows: how many.
        sha256: of the file that lists them.
    """

    rows: int
    sha256: str


def complete(
    folder: str,
    markers: Iterable[Marker],
    config_hash: str,
    drops: Mapping[str, Drops] | None = None,
    rewritten: Sequence[str] = (),
    passed_over: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Writes `complete.json`, which makes a folder of embeddings readable, and returns it.

    Args:
        folder: of embeddings.
        markers: of all its shards.
        config_hash: of the folder.
        drops: rows that a selection dropped, by shard name.
        rewritten: shards that are in the folder, if it is one that a compaction prepares.
        passed_over: files and members of the source that belong to no row, by suffix; no part of the snapshot.
    """
    dropped, ordered = drops or {}, sorted(markers, key=lambda m: m.number)
    check_numbers(folder, ((marker.number, marker.name) for marker in ordered))
    shards = [
        {
            "number": m.number,
            "name": m.name,
            "rows": m.rows_out - (dropped[m.name].rows if m.name in dropped else 0),
            "rows_stored": m.rows_out,
            "sha256": m.output_sha256,
            "footer_sha256": m.output_footer,
            "dropped_sha256": dropped[m.name].sha256 if m.name in dropped else "",
        }
        for m in ordered
    ]
    whole: dict[str, Any] = {"config_hash": config_hash, "shards": shards}
    whole |= {"snapshot": fingerprint([config_hash, shards])} | ({"rewritten": [*rewritten]} if rewritten else {})
    whole |= {"passed_over": dict(passed_over)} if passed_over else {}
    storage.write_json(storage.join(folder, COMPLETE_FILE), whole)
    return whole


def read_complete(
    folder: str, stage: str, shape: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns `stage.json` and `complete.json` of a finished folder.

    Args:
        folder: of the stage's outputs.
        stage: that writes them.
        shape: entries of `complete.json`, beside `config_hash`.

    Raises:
        UserError: if the stage has not run or has not finished, or one of the files is damaged.
    """
    stage_path, complete_path = storage.join(folder, STAGE_FILE), storage.join(folder, COMPLETE_FILE)
    if not storage.exists(stage_path):
        raise UserError(f"{folder}: does not exist yet; run {command(stage)} first")
    if not storage.exists(complete_path):
        raise UserError(f"{folder}: is not finished; run {command(stage)} again, it resumes")
    again = f"remove it and run {command(stage)} again"
    identity = read_identity(folder)
    whole = schemas.read_json(complete_path, {"config_hash": str, **(shape or {})}, again)
    if whole["config_hash"] != fingerprint(identity):
        raise UserError(
            f"{complete_path}: belongs to another configuration than {STAGE_FILE}; run {command(stage)} again"
        )
    return identity, whole


_SHARD = {
    **{"number": int, "name": str, "rows": int, "rows_stored": int},
    **{"sha256": str, "footer_sha256": str, "dropped_sha256": str},
}


def read_shards(folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns `stage.json` and `complete.json` of a finished folder of embeddings; errors as `read_complete`."""
    identity, whole = read_complete(folder, "pipelines.embed", {"shards": [_SHARD], "snapshot": str})
    path, shards = storage.join(folder, COMPLETE_FILE), whole["shards"]
    if whole["snapshot"] != fingerprint([whole["config_hash"], shards]):
        raise UserError(f"{path}: its snapshot is not that of its shards; remove it and run web-memory embed again")
    if schemas.misshapen(identity, {"encoders": {str: schemas.shape_of(EncoderInfo)}}):
        raise UserError(f"{folder}: its {STAGE_FILE} is not that of embeddings; remove the folder")
    for shard in shards:
        storage.inside(folder, shard["name"])
    check_numbers(folder, ((shard["number"], shard["name"]) for shard in shards))
    return identity, whole
