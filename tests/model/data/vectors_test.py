"""Columns that stay in their files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.data.vectors import Column, chunks, in_blocks
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


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 300])
def test_rows_have_the_same_bits_alone_and_among_others(rows):
    vectors = np.random.default_rng(0).normal(size=(rows, 40)).astype(np.float32)
    matrix = np.random.default_rng(1).normal(size=(40, 24)).astype(np.float32)
    function = jax.jit(lambda x, m: jnp.tanh(x) @ m)
    together = in_blocks(function, vectors, matrix)
    assert together.shape == (rows, 24)
    np.testing.assert_allclose(together, np.tanh(vectors) @ matrix, atol=1e-4)
    for row in range(0, rows, 7):
        np.testing.assert_array_equal(in_blocks(function, vectors[row : row + 1], matrix)[0], together[row])
