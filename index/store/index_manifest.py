"""`manifest.json` of an index: the one file that defines the index, replaced as a whole.

It names every file of one version of the index with its SHA-256, and has a fingerprint of its own contents. Replacing
it publishes a new version; files that it no longer names stay until a compaction purges them. Rates are not part of the
fingerprint, since they differ from run to run.
"""

from collections.abc import Mapping
from typing import Any

from pipelines import manifest, schemas, storage
from pipelines.errors import UserError, command

FILE = "manifest.json"
STAGE = "index.build"
METRIC = "dot"


def write(folder: str, facts: Mapping[str, Any], rates: Mapping[str, Any]) -> dict[str, Any]:
    """Publishes a version of the index and returns the manifest.

    Args:
        folder: of the index.
        facts: of the version (docs/contracts.md).
        rates: the timings.
    """
    contents = {"schema_version": schemas.SCHEMA_VERSION, "metric": METRIC, **facts}
    whole = {**contents, "rates": dict(rates), "fingerprint": manifest.fingerprint(contents)}
    storage.write_json(storage.join(folder, FILE), whole)
    return whole


def exists(folder: str) -> bool:
    """Tells whether an index is published."""
    return storage.exists(storage.join(folder, FILE))


def read(folder: str) -> dict[str, Any]:
    """Returns the manifest of an index.

    Raises:
        UserError: if the index is not finished, or its manifest is damaged or of another index or version.
    """
    path, stage_path = storage.join(folder, FILE), storage.join(folder, manifest.STAGE_FILE)
    if not storage.exists(path) or not storage.exists(stage_path):
        raise UserError(f"{folder}: there is no finished index here; run {command(STAGE)}, it resumes where it stopped")
    facts, identity = storage.read_json(path), storage.read_json(stage_path)
    try:
        contents = {name: value for name, value in facts.items() if name not in ("fingerprint", "rates")}
        if facts["fingerprint"] != manifest.fingerprint(contents):
            raise UserError(f"{path}: is damaged; remove it and run {command(STAGE)} again")
        if facts["config_hash"] != manifest.fingerprint(identity):
            raise UserError(f"{path}: belongs to another index than {manifest.STAGE_FILE}; run {command(STAGE)} again")
        if facts["schema_version"] != schemas.SCHEMA_VERSION:
            raise UserError(f"{path}: is of schema_version {facts['schema_version']}; run {command(STAGE)} again")
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a manifest of this version ({error}); run {command(STAGE)} again") from error
    return dict(facts)
