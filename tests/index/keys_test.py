import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from index import keys
from pipelines import schemas
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from tests.index.world import DIM, KEY, World, digests, unit, write_embeddings


def test_ranges_follow_the_global_row_order(world: World):
    memory = Embeddings(f"{world.folder}/memory")
    assert list(memory.shard_rows.values()) == [133, 133, 134]
    for begin, end in [(0, 400), (0, 133), (133, 200), (100, 300), (399, 400), (5, 5)]:
        rows = keys.read_range(memory, begin, end)
        np.testing.assert_array_equal(rows.keys, world.keys[begin:end])
        np.testing.assert_array_equal(rows.ids, world.ids[begin:end])
        assert [bytes(key).ljust(32, b"\0") for key in rows.content_keys] == world.images[begin:end]


def test_places(world: World):
    memory = Embeddings(f"{world.folder}/memory")
    places = np.array([0, 132, 133, 265, 266, 399])
    ids, found = keys.read_places(memory, places)
    np.testing.assert_array_equal(ids, world.ids[places])
    np.testing.assert_array_equal(found, world.keys[places])
    assert keys.read_places(memory, places[:0])[1].shape == (0, DIM)


def test_keys_that_are_not_normalised_become_unit_vectors(tmp_path):
    info = dataclasses.replace(KEY, normalized=False)
    vectors = unit(30) * np.linspace(0.1, 9, 30, dtype=np.float32)[:, None]
    vectors[7] = 0
    write_embeddings(str(tmp_path), vectors, digests([str(i) for i in range(30)]), key=info)
    rows = keys.read_range(Embeddings(str(tmp_path)), 0, 30)
    np.testing.assert_allclose(np.delete(rows.keys, 7, 0), np.delete(unit(30), 7, 0), atol=1e-6)
    assert not rows.keys[7].any()


def test_digests_that_end_in_zero_bytes_stay_apart():
    column = pa.chunked_array([[b"\1" * 31 + b"\0", b"\1" * 30 + b"\0\0", b"\0" * 32]], pa.binary(32))
    found = keys.content_keys(column)
    assert len(np.unique(found)) == 3
    assert found.tobytes() == b"".join(column.to_pylist())


def test_key_that_is_not_finite_is_named(tmp_path):
    vectors = unit(30)
    vectors[12, 3] = np.nan
    write_embeddings(str(tmp_path), vectors, digests([str(i) for i in range(30)]))
    with pytest.raises(UserError, match="shard 1: row 2 has a key that is not finite"):
        keys.read_range(Embeddings(str(tmp_path)), 0, 30)


def test_key_of_another_width_is_refused():
    column = pa.chunked_array([schemas.fixed_list(unit(3), pa.field("key", pa.list_(pa.float32(), DIM)))])
    with pytest.raises(UserError, match="keys have 12 values, not 13"):
        keys.unit_keys(column, dataclasses.replace(KEY, dim=13), "here")
