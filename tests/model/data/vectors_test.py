"""Columns that stay in their files."""

import numpy as np
import pytest

from model.data.vectors import Column, chunks
from pipelines import schemas
from pipelines.errors import UserError
from pipelines.manifest import Neighbors


@pytest.fixture
def column(world) -> Column:
    return Column(Neighbors.open(f"{world.folder}/neighbors"), "key")


def test_chunks_whole_and_some_rows_are_those_of_the_memory(world, column, monkeypatch):
    monkeypatch.setattr(schemas, "ROW_GROUP_ROWS", 50)
    ids = column.lists.memory(["id"])["id"].to_numpy()
    expected = world.keys[np.searchsorted(world.ids, ids)]
    assert column.shape == expected.shape and len(column) == len(expected)
    firsts, parts = zip(*chunks(column), strict=True)
    assert list(firsts) == np.cumsum([0, *map(len, parts[:-1])]).tolist()
    assert max(map(len, parts)) <= 50 and len(parts) > 3
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    np.testing.assert_array_equal(np.array(column), expected)
    rows = np.random.default_rng(0).integers(len(expected), size=(4, 5))
    np.testing.assert_array_equal(column[rows], expected[rows])


def test_arrays_come_in_chunks():
    rows = np.arange(20_000).reshape(10_000, 2)
    firsts, parts = zip(*chunks(rows), strict=True)
    assert firsts == (0, 4096, 8192)
    np.testing.assert_array_equal(np.concatenate(parts), rows)


def test_a_file_with_other_rows_than_noted_is_refused(column):
    column.lists.files["memory"][0]["rows"] += 1
    with pytest.raises(UserError, match=r"has \d+ rows, not \d+; remove it and run web-memory neighbors again"):
        np.array(column)
