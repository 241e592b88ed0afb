import os

import numpy as np
import pytest

from index import Index
from index.searching import rows
from index.store.indexed_memory import IndexedMemory, live_rows, open_memory
from pipelines import embed
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from tests.finished import Finished
from tests.index.vector_line import BEAM, Line


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished[Line]:
    """A line of which row 3 was removed."""
    line = Line(tmp_path_factory.mktemp("indexed_memory") / "line")
    line.put("0000", 20)
    line.put("0001", 10)
    assert line.run(line.listed(line.rows["0000"][3][1])) == 0
    return Finished(line, line.root)


@pytest.fixture
def line(finished) -> Line:
    return finished.restored()


def test_an_unchanged_memory_is_read_as_it_is(line):
    assert isinstance(open_memory(line.config.places.memory, line.index), Embeddings)


def test_rows_of_the_index_are_read_while_the_memory_changes(line):
    index, before = line.index, line.urls()
    os.unlink(line.root / "out/memory/complete.json")
    memory = open_memory(line.config.places.memory, index)
    assert isinstance(memory, IndexedMemory) and memory.shard_rows == {0: 19, 1: 10}
    ids = np.array(sorted(before))
    assert [row["url"] for row in rows.read(memory, ids)] == [before[i] for i in ids.tolist()]
    # The removed row is stored, and not one of the index.
    with pytest.raises(
        UserError, match="has no row 3, which the index found: it has changed since; run web-memory reindex"
    ):
        rows.read(memory, np.array([3]))


def test_rows_of_a_shard_that_was_replaced_are_not_taken_for_those_of_the_index(line):
    index, before = line.index, line.urls()
    line.put("0001", 12)
    assert embed.main([f"--config={line.config_file}", *BEAM]) == 0
    memory = open_memory(line.config.places.memory, index)
    assert [row["url"] for row in rows.read(memory, np.array([5]))] == [before[5]]
    with pytest.raises(UserError, match="has no row"):
        rows.read(memory, np.array([1 << 40]))


def test_an_index_that_was_replaced_is_told(line):
    old = line.index
    line.put("0001", 12)
    assert line.run() == 0
    with pytest.raises(UserError, match="has changed since .* was opened; run the same command again"):
        open_memory(line.config.places.memory, old)
    with pytest.raises(UserError, match="does not exist yet"):
        open_memory(f"{line.root}/none", old)


def test_removed_rows_do_not_live(line):
    index: Index = line.index
    ids = np.concatenate([live_rows(index, number)[0] for number in range(len(index.shards))])
    assert sorted(ids.tolist()) == sorted(line.urls()) and 3 not in ids
