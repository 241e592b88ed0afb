import hashlib
import pathlib

import numpy as np
import pytest

from pipelines import manifest, storage
from pipelines.upkeep import compaction, gone
from tests.world import DIM, unit, write_embeddings

IMAGES = [hashlib.sha256(bytes([row])).digest() for row in range(12)]


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path: pathlib.Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"


def below(folder: str) -> set[str]:
    """Paths of all files below a folder."""
    found = set()
    for entry in storage.entries(folder):
        if entry.kind == "folder":
            found |= {f"{entry.name}/{path}" for path in below(storage.join(folder, entry.name))}
        else:
            found.add(entry.name)
    return found


@pytest.fixture
def memory(root: str) -> str:
    """A memory of three shards of four rows, of which the source of the second is gone."""
    memory = storage.join(root, "memory")
    write_embeddings(memory, unit(12, DIM, seed=1), IMAGES)
    config_hash = manifest.fingerprint(manifest.read_identity(memory))
    markers = manifest.read_markers(memory, config_hash)
    names = sorted(markers)
    storage.write_json(
        storage.join(memory, manifest.INPUTS_FILE), {"config_hash": config_hash, "names": [*names, "never", ""]}
    )
    for name in (names[1], "other"):
        for folder in (manifest.REJECTS, manifest.FILTERED, manifest.DROPPED):
            storage.copy(f"{memory}/{names[0]}.parquet", f"{memory}/{folder}/{name}.parquet")
    for path in ("other.parquet", ".parquet", f"{names[1]}.txt", f"{names[1]}/x.parquet"):
        storage.copy(f"{memory}/{names[0]}.parquet", f"{memory}/{path}")
    del markers[names[1]]
    manifest.complete(memory, markers.values(), config_hash)
    return memory


def test_only_files_of_shards_that_are_gone_are_deleted(memory: str) -> None:
    before = below(memory)
    name = "00001"
    deleted = gone.delete(memory, np.empty(0, "S32"))
    assert (deleted.shards, deleted.rows) == (1, 4)
    assert str(deleted) == "4 rows of 1 shard whose source is gone"
    parts = {f"{folder}/{name}.parquet" for folder in (manifest.REJECTS, manifest.FILTERED, manifest.DROPPED)}
    assert before - below(memory) == parts | {f"{name}.parquet", f"{manifest.MARKERS}/{name}.json"}
    assert below(memory) <= before
    assert str(gone.delete(memory, np.empty(0, "S32"))) == ""


def test_removed_rows_of_a_shard_that_is_gone_are_kept_for_the_proof(memory: str) -> None:
    # Rows 4 to 7 are those of the second shard.
    gone.delete(memory, np.frombuffer(IMAGES[1] + IMAGES[6] + IMAGES[5] + IMAGES[11], "S32"))
    kept = [row for table in compaction.deleted(memory) for row in table.to_pylist()]
    assert [row["id"] for row in kept] == [(1 << 40) + 1, (1 << 40) + 2]
    assert [row["content_key"] for row in kept] == IMAGES[5:7]
    np.testing.assert_array_equal([row["key"] for row in kept], unit(12, DIM, seed=1)[5:7])
