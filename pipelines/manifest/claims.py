"""The configuration that a folder of outputs belongs to, and what identifies it.

A folder begins with `stage.json`, which says so.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipelines import fields, schemas, storage
from pipelines.errors import UserError

STAGE_FILE = "stage.json"
COMPLETE_FILE = "complete.json"
MARKERS = "_done"
REJECTS = "_rejects"
FILTERED = "_filtered"
DROPPED = "_dropped"
# Field of the identity of a folder whose labels were names: the name of each label, from 0.
CLASSES = "classes"
NEXT = "_removing/next"
"""Folder below a memory of what it will be when a compaction is finished (`upkeep.compaction`)."""
LISTINGS = "_inputs"
INPUTS_FILE = "inputs.json"
# What a command writes before its first output: files by name, and folders with all that they hold.
_PREPARED = {
    *(STAGE_FILE, "config.json", INPUTS_FILE, LISTINGS, "_parts"),
    *("index.json", "queries.parquet", "router.parquet"),
}
# Entries of the manifest of an index that its fingerprint is not of.
_NOT_FACTS = ("fingerprint", "rates")


def fingerprint(value: Any) -> str:
    """Returns a fingerprint of a JSON value, 16 hexadecimal digits, independent of the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _whole_identity(stage: str, identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema_version": schemas.SCHEMA_VERSION, "stage": stage, **json.loads(json.dumps(identity))}


def config_hash(stage: str, identity: Mapping[str, Any]) -> str:
    """Returns the fingerprint of a stage's configuration, which `claim` gives to every file in its folder."""
    return fingerprint(_whole_identity(stage, identity))


def read_identity(folder: str) -> dict[str, Any]:
    """Returns the identity of a claimed folder, from its `stage.json`; a `UserError` if it is missing or damaged."""
    path, again = storage.join(folder, STAGE_FILE), "remove it and run the same command again"
    value = storage.read_json(path, again)
    version = value.get("schema_version") if isinstance(value, dict) else None
    if type(version) is int and version < schemas.SCHEMA_VERSION:
        raise UserError(
            f"{folder}: is of schema_version {version}, this program reads {schemas.SCHEMA_VERSION}; "
            "set another --config.workdir or remove the folder"
        )
    return schemas.read_json(path, {"schema_version": int, "stage": str}, again)


def is_claimed_by_another(folder: str, stage: str, identity: Mapping[str, Any]) -> bool:
    """Tells whether an output folder belongs to another stage or configuration."""
    is_claimed = storage.exists(storage.join(folder, STAGE_FILE))
    return is_claimed and read_identity(folder) != _whole_identity(stage, identity)


def check_claim(folder: str, stage: str, identity: Mapping[str, Any]) -> None:
    """Raises a `UserError` that says what differs if an output folder belongs to another stage or configuration."""
    if not is_claimed_by_another(folder, stage, identity):
        return
    differs = fields.difference(read_identity(folder), _whole_identity(stage, identity))
    raise UserError(
        f"{folder}: belongs to another configuration, {differs}; set another --config.workdir or remove the folder"
    )


def release(folder: str, stage: str, identity: Mapping[str, Any]) -> None:
    """Ends the claim of another configuration on a folder if its command failed before its first output.

    Args:
        folder: the output folder; what such a command left there is deleted.
        stage: the stage that is going to claim it.
        identity: of that claim.
    """
    if is_claimed_by_another(folder, stage, identity) and not _has_outputs(folder):
        for entry in storage.entries(folder):
            storage.remove(storage.join(folder, entry.name))


def _has_outputs(folder: str) -> bool:
    """Tells whether a folder has any file but those that a command writes before its first output."""
    for entry in storage.entries(folder):
        if entry.name in _PREPARED or storage.TEMPORARY in entry.name:
            continue
        if entry.kind == "file" or _has_outputs(storage.join(folder, entry.name)):
            return True
    return False


def claim(folder: str, stage: str, identity: Mapping[str, Any]) -> str:
    """Claims an output folder for one configuration, or confirms that it has been claimed for it.

    Args:
        folder: the output folder.
        stage: the stage that writes it.
        identity: everything that determines its bytes, as JSON values.

    Returns:
        The fingerprint of the identity, the `config_hash` of every file in the folder.

    Raises:
        UserError: as `check_claim`.
    """
    check_claim(folder, stage, identity)
    path = storage.join(folder, STAGE_FILE)
    if not storage.exists(path):
        storage.write_json(path, _whole_identity(stage, identity))
    return config_hash(stage, identity)


def read_index(path: str, remedy: str = "remove it and run web-memory build again") -> dict[str, Any]:
    """Returns the manifest of an index (docs/contracts.md), whose fingerprint is that of all but its rates.

    Raises:
        UserError: if it is missing or damaged; the sentence ends with the remedy.
    """
    facts = storage.read_json(path, remedy)
    contents = {name: part for name, part in facts.items() if name not in _NOT_FACTS} if type(facts) is dict else {}
    if not contents or facts.get("fingerprint") != fingerprint(contents):
        raise UserError(f"{path}: is damaged; {remedy}")
    shape = {"schema_version": int, "config_hash": str, "metric": str, "shards": [dict]}
    if where := schemas.misshapen(facts, {**shape, "recall": {"k": int, "mean": float}}):
        raise UserError(f"{path}: is not a manifest of this version ({where}); {remedy}")
    return dict(facts)


def write_config(folder: str, config: Mapping[str, Any]) -> None:
    """Writes the whole config beside the outputs of a folder, for people to read; no stage reads it."""
    storage.write_json(storage.join(folder, "config.json"), config)


def indexed_memory(index: str) -> str:
    """Returns the snapshot of the memory that the index in a folder is of, as it is published; empty for none.

    Raises:
        UserError: if the manifest is damaged.
    """
    path = storage.join(index, "manifest.json")
    if not storage.exists(path):
        return ""
    facts = read_index(path)
    if where := schemas.misshapen(facts, {"memory": {"snapshot": str}}):
        raise UserError(
            f"{path}: is not a manifest of this version ({where}); remove it and run web-memory build again"
        )
    return str(facts["memory"]["snapshot"])


LIST_FILE = {"name": str, "rows": int, "sha256": str, "footer_sha256": str}
"""Entries of a file of neighbour lists, or of the memory rows that they name, in `complete.json`."""
