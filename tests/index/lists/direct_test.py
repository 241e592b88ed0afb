"""An index of one shard, whose lists are written as they are found: the bytes are those of a job by way of parts."""

import dataclasses
import pathlib
import shutil

import numpy as np

from index.lists import claim, direct
from index.store.lookup import Lookup
from pipelines import options, schemas
from pipelines.errors import UserError
from pipelines.manifest import Neighbors
from tests.world import SPLITS, World, brute_force, snapshot

# Length of the lists of the world.
K = 7


def _home(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the only version of the lists."""
    (version,) = (folder / "versions").iterdir()
    return version


def test_one_shard_needs_no_parts_and_ends_with_the_same_bytes(world: World, monkeypatch):
    assert world.build("--config.index.shards=1") == 0
    config, folder = options.parse(world.args(), "")[0], world.folder / "neighbors"
    assert claim.claim_lists(config.places, config.neighbors, ()).is_direct
    with monkeypatch.context() as patch:
        patch.setattr(direct, "BATCH_ROWS", 20)
        assert world.neighbors() == 0
    whole = snapshot(folder)
    for split in SPLITS:
        right, _ = brute_force(world.queries[split], world.keys, K)
        found = schemas.to_matrix(Neighbors.open(str(folder)).split(split)["neighbor_ids"])
        np.testing.assert_array_equal(found, world.ids[right])
    # By way of parts, and all at once.
    shutil.rmtree(folder)
    claim_lists = claim.claim_lists
    with monkeypatch.context() as patch:
        patch.setattr(claim, "claim_lists", lambda *args: dataclasses.replace(claim_lists(*args), is_direct=False))
        assert world.neighbors() == 0
    assert snapshot(folder) == whole
    shutil.rmtree(folder)
    assert world.neighbors() == 0
    assert snapshot(folder) == whole


def test_blocks_of_one_shard_that_are_there_are_not_searched_again(world: World, monkeypatch, capsys):
    assert world.build("--config.index.shards=1") == 0 and world.neighbors() == 0
    folder, whole, searched = world.folder / "neighbors", snapshot(world.folder / "neighbors"), []
    search = Lookup.search
    monkeypatch.setattr(
        Lookup, "search", lambda self, q, *rest, **part: searched.append(len(q)) or search(self, q, *rest, **part)
    )
    (folder / "complete.json").unlink()
    (_home(folder) / "_done" / "val-00001.json").unlink()
    (_home(folder) / "memory" / "00001.parquet").unlink()
    assert world.neighbors() == 0
    assert snapshot(folder) == whole
    # val has two shards of 30, and so blocks of 16 and 14.
    assert searched == [14]
    write = direct.LookUp.write_block

    def stopped(self, block, *rest):
        if block.name == "val-00002":
            raise UserError("stopped here")
        write(self, block, *rest)

    shutil.rmtree(folder)
    monkeypatch.setattr(direct.LookUp, "write_block", stopped)
    monkeypatch.setattr(direct, "BATCH_ROWS", 1)
    capsys.readouterr()
    assert world.neighbors() == 2 and capsys.readouterr().err.endswith("error: stopped here\n")
    assert (_home(folder) / "_done" / "val-00000.json").exists() and not (folder / "complete.json").exists()
    monkeypatch.undo()
    assert world.neighbors() == 0
    assert snapshot(folder) == whole
