"""Which builds of an index are being read, and which may be deleted: those that no version in use names.

A reader holds a share in the `stage.json` of each build that its version names, for as long as it may load a shard.
Storage without locks has no shares; there a purge deletes builds that a reader of an older version may still need.
"""

from collections.abc import Mapping
from typing import IO, Any

from index.store import index_manifest, shard_store
from pipelines import manifest, storage


def builds_of(facts: Mapping[str, Any]) -> list[str]:
    """Returns the names of the builds that a manifest names, ascending."""
    paths = [*(shard["path"] for shard in facts["shards"]), *facts["files"]]
    return sorted({path.split("/")[1] for path in paths})


def files_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """Returns the SHA-256 of every file that a manifest names, by its path below the folder of the index."""
    shards = {
        f"{shard['path']}/{file}": known["sha256"]
        for shard in facts["shards"]
        for file, known in shard["files"].items()
    }
    return shards | {path: known["sha256"] for path, known in facts["files"].items()}


def hold(folder: str) -> tuple[dict[str, Any], list[IO[bytes]]]:
    """Returns the published manifest, and shares in its builds; errors as `index_manifest.read`.

    Args:
        folder: of the index.
    """
    facts = index_manifest.read(folder)
    while True:
        shares = [storage.share(_claim(folder, build)) for build in builds_of(facts)]
        # If the version was replaced before its shares were taken, it may be deleted already.
        now = index_manifest.read(folder)
        if now["fingerprint"] == facts["fingerprint"]:
            return facts, [share for share in shares if share]
        facts = now


def _claim(folder: str, build: str) -> str:
    return storage.join(folder, shard_store.BUILDS, build, manifest.STAGE_FILE)


def purge(folder: str) -> list[str]:
    """Deletes the builds that the manifest does not name, except those being read; returns the names of those.

    Args:
        folder: of the index.
    """
    named, held = builds_of(index_manifest.read(folder)), []
    for entry in storage.entries(storage.join(folder, shard_store.BUILDS)):
        if entry.name in named:
            continue
        if storage.is_shared(_claim(folder, entry.name)):
            held.append(entry.name)
        else:
            storage.remove(storage.join(folder, shard_store.BUILDS, entry.name))
    return held


def is_held(folder: str) -> bool:
    """Tells whether any version of an index is being read."""
    builds = storage.entries(storage.join(folder, shard_store.BUILDS))
    return any(storage.is_shared(_claim(folder, entry.name)) for entry in builds)
