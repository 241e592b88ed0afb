import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.building import partition_job
from index.building.partition_job import DealRows, Group
from index.store import keys, routing, shard_store
from pipelines import schemas
from pipelines.errors import UserError
from tests.world import DIM, KEY, World

METADATA = {"config_hash": "of-the-build"}


class Memory:
    """A folder of embeddings of which only the rows of each shard are known."""

    def __init__(self, rows: list[int]) -> None:
        self.shard_rows = {10 * number: count for number, count in enumerate(rows)}


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=40))
def test_groups_are_runs_of_shards(rows):
    memory = Memory(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition_job, "GROUP_ROWS", 50)
        made = partition_job.groups(memory)
    assert [shard for group in made for shard in group.memory_shards] == list(memory.shard_rows)
    assert [group.name for group in made] == [f"{i:05d}" for i in range(len(made))]
    sizes = [sum(memory.shard_rows[shard] for shard in group.memory_shards) for group in made]
    assert all(size <= 50 for size in sizes)
    # No two neighbours would fit into one: there are as few as there can be of runs taken greedily.
    firsts = [memory.shard_rows[group.memory_shards[0]] for group in made if group.memory_shards]
    assert all(size + first > 50 for size, first in zip(sizes, firsts[1:], strict=False))


def test_a_shard_that_is_too_large_is_a_group_of_its_own(monkeypatch):
    monkeypatch.setattr(partition_job, "GROUP_ROWS", 50)
    made = partition_job.groups(Memory([10, 60, 10, 10]))
    assert [group.memory_shards for group in made] == [(0,), (10,), (20, 30)]


def dealt(world: World, folder: pathlib.Path, router: routing.Router, groups: list[Group]) -> dict[str, list[str]]:
    """Deals all groups out and returns the groups that gave rows to each index shard."""
    names = shard_store.shard_names(router.shards)
    deal = DealRows(str(folder), f"{world.folder}/memory", names, router, METADATA)
    gave = [pair for group in groups for pair in deal.process(group)]
    return {name: [group for shard, group in gave if shard == number] for number, name in enumerate(names)}


def stream(folder: pathlib.Path, name: str, groups: list[str]) -> keys.KeyStream:
    paths = [partition_job.part_path(str(folder), name, group) for group in groups]
    return keys.of_files(paths, KEY, METADATA, "here")


@pytest.mark.parametrize("sharding", ["routed", "hash"])
@pytest.mark.parametrize("cuts", [[(0, 1, 2)], [(0,), (1, 2)], [(0,), (1,), (2,)]])
def test_every_row_is_in_exactly_one_shard(world: World, tmp_path, sharding, cuts):
    router = (
        routing.fit(world.keys, 4, 64, world.queries["val"], 1.0, 5)
        if sharding == "routed"
        else routing.without_regions(4, DIM)
    )
    groups = [Group(f"{number:05d}", shards) for number, shards in enumerate(cuts)]
    gave = dealt(world, tmp_path, router, groups)
    owners = router.shard_of(world.keys, np.array(world.images, "S32"))
    for number, name in enumerate(gave):
        mine = np.flatnonzero(owners == number)
        rows = stream(tmp_path, name, gave[name])
        # In the global order, however many groups there are.
        np.testing.assert_array_equal(rows.names()[0], world.ids[mine])
        assert rows.names()[1].tobytes() == b"".join(world.images[i] for i in mine)
        np.testing.assert_array_equal(np.concatenate(list(rows.chunks())), world.keys[mine])


def test_a_group_that_is_done_is_not_dealt_again(world: World, tmp_path):
    router, group = routing.without_regions(3, DIM), Group("00000", (0, 1, 2))
    gave = dealt(world, tmp_path, router, [group])
    counts = json.loads((tmp_path / "_parts/_done/00000.json").read_text())
    assert sum(counts["rows"]) == 400
    files = list((tmp_path / "_parts").rglob("*.parquet"))
    written = [file.stat().st_mtime_ns for file in files]
    assert dealt(world, tmp_path, router, [group]) == gave
    assert [file.stat().st_mtime_ns for file in files] == written
    (tmp_path / "_parts/_done/00000.json").unlink()
    before = [file.read_bytes() for file in files]
    assert dealt(world, tmp_path, router, [group]) == gave
    assert [file.read_bytes() for file in files] == before
    assert [file.stat().st_mtime_ns for file in files] != written


def test_shards_without_rows_get_no_file(world: World, tmp_path):
    router = routing.Router(world.keys[:1], np.array([1], np.int32), np.ones(1, np.float32), 3)
    gave = dealt(world, tmp_path, router, [Group("00000", (0, 1, 2))])
    assert list(gave.values()) == [[], ["00000"], []]
    assert len(list((tmp_path / "_parts").glob("shard-*"))) == 1


def test_rows_are_written_in_groups_of_more_than_a_block(world: World, tmp_path, monkeypatch):
    monkeypatch.setattr(partition_job, "BUFFER_ROWS", 100)
    gave = dealt(world, tmp_path, routing.without_regions(2, DIM), [Group("00000", (0, 1, 2))])
    for name in gave:
        with schemas.open_parquet(partition_job.part_path(str(tmp_path), name, "00000"), ["id"]) as parquet:
            sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.metadata.num_row_groups)]
        assert sum(sizes) > 100 and all(size >= 100 for size in sizes[:-1])


def test_key_of_the_memory_that_is_not_finite(tmp_path):
    other = World(tmp_path / "other")
    other.keys[140, 2] = np.inf
    other.write()
    with pytest.raises(UserError, match="memory, shard 1: row 7 has a key that is not finite"):
        dealt(other, tmp_path, routing.without_regions(2, DIM), [Group("00000", (0, 1, 2))])
    assert not list((tmp_path / "_parts").rglob("*.json"))
