"""`manifest.json` of an index: the one file that defines the index, replaced as a whole.

It names every file of one version of the index with its SHA-256, and has a fingerprint of its own contents. Replacing
it publishes a new version; files that it no longer names stay until a compaction purges them. Rates are not part of the
fingerprint, since they differ from run to run.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any

from index.store.records import Point
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError, command
from pipelines.schemas import EncoderInfo

FILE = "manifest.json"
STAGE = "index.build"
METRIC = "dot"
BUILDS = "builds"
_AGAIN = f"remove it and run {command(STAGE)} again"
# The stage of an index of an array.
ARRAY_STAGE = "index.array"
_FILES = {str: {"sha256": str, "bytes": int}}
_SHAPE = {
    **{"version": int, "base": int, "regions": int, "rows": int, "tombstones": int, "base_memory": str, "parent": str},
    **{"sharding": str, "files": _FILES, "key_encoder": schemas.shape_of(EncoderInfo)},
    **{"search": schemas.shape_of(Point), "curve": [schemas.shape_of(Point)]},
    "memory": {"snapshot": str, "rows": int, "shards": {str: {"number": int, "rows": int, "sha256": str}}},
}


def write(folder: str, facts: Mapping[str, Any], rates: Mapping[str, Any]) -> dict[str, Any]:
    """Publishes a version of the index and returns the manifest.

    Args:
        folder: of the index.
        facts: of the version (docs/contracts.md).
        rates: the timings.
    """
    contents = {"schema_version": schemas.SCHEMA_VERSION, "metric": METRIC, **facts}
    whole = {**contents, "rates": storage.seal(rates), "fingerprint": manifest.fingerprint(contents)}
    # The fingerprint and the seal of the rates say what it contains; one over both would differ from run to run.
    storage.write_json(storage.join(folder, FILE), whole, sealed=False)
    return {**whole, "rates": dict(rates)}


def exists(folder: str) -> bool:
    """Tells whether an index is published."""
    return storage.exists(storage.join(folder, FILE))


def read(folder: str) -> dict[str, Any]:
    """Returns the manifest of an index.

    Raises:
        UserError: if the index is not finished, or its manifest is damaged or of another index or version.
    """
    path = storage.join(folder, FILE)
    if not storage.exists(storage.join(folder, manifest.STAGE_FILE)):
        ways = f"run {command(STAGE)}, or in Python Index.build(vectors).save(folder)"
        raise UserError(f"{folder}: there is no finished index here; {ways}")
    identity = manifest.read_identity(folder)
    of_array = identity["stage"] == ARRAY_STAGE
    again = remedy(of_array)
    if not storage.exists(path):
        more = again if of_array else f"run {command(STAGE)}, it resumes where it stopped"
        raise UserError(f"{folder}: there is no finished index here; {more}")
    remove = again if of_array else _AGAIN
    facts = check(path, remove)
    if facts["config_hash"] != manifest.fingerprint(identity):
        raise UserError(f"{path}: belongs to another index than {manifest.STAGE_FILE}; {again}")
    if facts["schema_version"] != schemas.SCHEMA_VERSION:
        raise UserError(f"{path}: is of schema_version {facts['schema_version']}; {again}")
    if not storage.is_sealed(facts.get("rates")):
        raise UserError(f"{path}: is damaged; {remove} (its rates have changed)")
    return {**facts, "rates": storage.unseal(facts["rates"])}


def remedy(of_array: bool) -> str:
    """Returns how an index comes into being again, of an array or of a memory: the end of an error's sentence."""
    return "build the index again and save it in a new folder" if of_array else f"run {command(STAGE)} again"


def check(path: str, remedy: str = _AGAIN) -> dict[str, Any]:
    """Returns the contents of a manifest, with or without its rates, if they are whole and name no file outside.

    Args:
        path: of the file.
        remedy: the end of the error's sentence.

    Raises:
        UserError: if it is missing or damaged.
    """
    facts = manifest.read_index(path, remedy)
    if where := schemas.misshapen(facts, {name: kind for name, kind in _SHAPE.items() if name in facts}):
        raise UserError(f"{path}: is not a manifest of this version ({where}); {remedy}")
    shards = [shard for shard in facts["shards"] if "path" in shard]
    for file in itertools.chain(facts.get("files", ()), (shard["path"] for shard in shards)):
        if not re.fullmatch(f"{BUILDS}/[^/]+/[^/]+", storage.inside("", file)):
            raise UserError(f"{path}: names {file!a}, which is no file of a build; {remedy}")
    for file in itertools.chain.from_iterable(shard["files"] for shard in shards):
        storage.inside(path, file)
    return facts
