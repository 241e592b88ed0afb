"""Neighbour lists by name, against brute force over the rows that name a class."""

import pathlib

import numpy as np
import pytest

from index import neighbors
from index.lists.naming import ByName
from pipelines import concepts, manifest, schemas, storage
from pipelines.manifest import Embeddings, Neighbors
from tests import slow
from tests.world import SPLITS, World, brute_force, claim, snapshot, write_shard

K = 7
HASH = "--config.index.sharding=hash"


class Named(World):
    """A memory of which every third row names a class, and one more of its dogs."""

    is_named = np.arange(400) % 3 == 0

    def write(self, **options: object) -> "Named":
        super().write(**options)
        storage.remove(f"{self.folder}/memory")
        folder, markers = f"{self.folder}/memory", []
        config_hash = claim(folder)
        for number in range(3):
            place = np.arange(number * 400 // 3, (number + 1) * 400 // 3)
            captions = ["two dogs" if self.is_named[row] else "nothing" for row in place]
            images = [self.images[row] for row in place]
            markers.append(write_shard(folder, config_hash, number, place, self.keys[place], images, captions=captions))
        manifest.complete(folder, markers, config_hash)
        (self.folder / "names.txt").write_text("dog\ncat\n")
        return self

    def args(self, *flags: str) -> list[str]:
        return super().args(f"--config.class_names={self.folder}/names.txt", *flags)

    def lists(self) -> Neighbors:
        return Neighbors.open(f"{self.folder}/neighbors")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Named:
    world = Named(tmp_path_factory.mktemp("named")).write()
    assert world.build(HASH) == 0 and concepts.main(world.args()) == 0
    return world


@pytest.fixture
def world(made: Named, tmp_path: pathlib.Path) -> Named:
    copy = Named(tmp_path)
    for name in ("queries", "index", "memory", "concepts", "names.txt"):
        (tmp_path / name).symlink_to(made.folder / name)
    return copy


def right(world: Named, split: str, by: str) -> np.ndarray:
    """The ids of the lists by brute force."""
    rows, _ = brute_force(world.queries[split], world.keys, 400)
    near = 0 if by == "name" else -(-K // 2)
    lists = []
    for line in rows:
        beyond = [row for row in line[near:] if world.is_named[row]][: K - near]
        chosen = {*line[:near], *beyond}
        lists.append([row for row in line if row in chosen])
    return world.ids[np.array(lists)]


@pytest.mark.parametrize("by", ["name", "both"])
def test_lists_equal_brute_force_in_several_shards_and_in_one(world, by, capsys):
    flag = f"--config.neighbors.by={by}"
    assert world.neighbors(flag) == 0
    for split in SPLITS:
        table = world.lists().split(split)
        np.testing.assert_array_equal(schemas.to_matrix(table["neighbor_ids"]), right(world, split, by))
        assert (np.diff(schemas.to_matrix(table["scores"])) <= 0).all()
    assert f"7, by {by}: the captions of 134 rows name a class" in capsys.readouterr().out
    ids = schemas.to_matrix(world.lists().split("test")["neighbor_ids"])
    storage.remove(f"{world.folder}/neighbors")
    (world.folder / "index").unlink()
    assert world.build("--config.index.shards=1") == 0 and world.neighbors(flag) == 0
    np.testing.assert_array_equal(schemas.to_matrix(world.lists().split("test")["neighbor_ids"]), ids)


class Far(Named):
    """A memory whose rows that name a class are the sixty that are farthest from the queries."""

    @property
    def is_named(self) -> np.ndarray:
        middle = np.concatenate([self.queries[split] for split in SPLITS]).mean(axis=0)
        return np.argsort(np.argsort(self.keys @ middle)) < 60


@pytest.mark.parametrize(
    ("flags", "by"), slow.after(1, [((), "both"), ((HASH,), "both"), (("--config.index.shards=1",), "name")])
)
def test_lists_are_full_where_named_rows_are_far(tmp_path, flags, by):
    world = Far(tmp_path).write()
    assert world.build(*flags) == 0 and concepts.main(world.args()) == 0
    assert world.neighbors(f"--config.neighbors.by={by}") == 0
    for split in SPLITS:
        ids, wanted = schemas.to_matrix(world.lists().split(split)["neighbor_ids"]), right(world, split, by)
        assert (ids >= 0).all()
        if flags:
            np.testing.assert_array_equal(ids, wanted)
        # A query visits some regions, and compares what is missing with all rows.
        assert np.mean([len({*a} & {*b}) / K for a, b in zip(ids, wanted, strict=True)]) > 0.9


def test_lists_longer_than_what_is_named_hold_all_of_it(tmp_path):
    world = Far(tmp_path).write()
    assert world.build(HASH) == 0 and concepts.main(world.args()) == 0
    assert world.neighbors("--config.neighbors.by=name", "--config.neighbors.k=70") == 0
    table = world.lists().split("val")
    ids = schemas.to_matrix(table["neighbor_ids"])
    assert (table["num_valid"].to_numpy() == 60).all()
    np.testing.assert_array_equal(
        np.sort(ids[:, :60], axis=1), np.sort(np.tile(world.ids[world.is_named], (len(ids), 1)))
    )


def test_an_interrupted_job_ends_with_the_same_bytes(world):
    flag = "--config.neighbors.by=both"
    assert world.neighbors(flag) == 0
    whole = snapshot(world.folder / "neighbors")
    (home,) = (world.folder / "neighbors/versions").iterdir()
    (home / "_done/test-00001.json").unlink()
    (world.folder / "neighbors/complete.json").unlink()
    assert world.neighbors(flag) == 0
    assert snapshot(world.folder / "neighbors") == whole


def test_lists_by_key_are_what_they_were(world):
    assert world.neighbors() == 0
    assert "by" not in world.lists().identity
    rows, _ = brute_force(world.queries["val"], world.keys, K)
    np.testing.assert_array_equal(schemas.to_matrix(world.lists().split("val")["neighbor_ids"]), world.ids[rows])
    assert world.neighbors("--config.neighbors.by=name") == 2


def test_what_is_missing_or_of_another_memory_is_said(world, capsys):
    flag = "--config.neighbors.by=name"
    (world.folder / "concepts").unlink()
    assert neighbors.main(world.args(flag)) == 2
    assert "run web-memory concepts first" in capsys.readouterr().err
    assert neighbors.main(world.args(flag, "--dry_run")) == 2
    memory = Embeddings(f"{world.folder}/memory")
    (world.folder / "names.txt").unlink()
    (world.folder / "names.txt").write_text("zebra\n")
    assert concepts.main(world.args()) == 0
    assert neighbors.main(world.args(flag)) == 2
    assert "only 0 of 400 captions name a class" in capsys.readouterr().err
    with pytest.raises(Exception, match="is of another memory than there is now"):
        ByName(f"{world.folder}/concepts", memory.snapshot + "x", 400, "name", K)
