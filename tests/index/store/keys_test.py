import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.store import keys
from pipelines import schemas
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from tests.world import DIM, KEY, World, digests, unit, write_embeddings


def test_streams_follow_the_global_row_order(world: World):
    memory = Embeddings(f"{world.folder}/memory")
    assert list(memory.shard_rows.values()) == [133, 133, 134]
    for shards, rows in [(None, slice(0, 400)), ((0,), slice(0, 133)), ((1, 2), slice(133, 400)), ((), slice(0, 0))]:
        stream = keys.of_memory(memory, shards)
        assert (stream.rows, stream.dim) == (rows.stop - rows.start, DIM)
        chunks = [np.empty((0, DIM), np.float32), *stream.chunks()]
        np.testing.assert_array_equal(np.concatenate(chunks), world.keys[rows])
        ids, images = stream.names()
        np.testing.assert_array_equal(ids, world.ids[rows])
        assert images.tobytes() == b"".join(world.images[rows])


def test_chunks_are_of_one_length_however_long_the_shards_are(world: World, monkeypatch):
    monkeypatch.setattr(keys, "CHUNK_ROWS", 50)
    stream = keys.of_memory(Embeddings(f"{world.folder}/memory"))
    assert [len(chunk) for chunk in stream.chunks()] == [50] * 8
    np.testing.assert_array_equal(np.concatenate(list(stream.chunks())), world.keys)


@settings(deadline=None, max_examples=30)
@given(st.sets(st.integers(0, 399)), st.integers(0, 500))
def test_taken_and_sampled_rows(keys_of_world, places, wanted):
    stream, right = keys_of_world
    chosen = np.array(sorted(places), np.int64)
    np.testing.assert_array_equal(stream.take(chosen), right[chosen])
    sample = stream.sample(wanted)
    spread = np.arange(min(wanted, 400)) * 400 // max(min(wanted, 400), 1)
    assert len(np.unique(spread)) == len(sample) == min(wanted, 400)
    np.testing.assert_array_equal(sample, right[spread])


@pytest.fixture(scope="module")
def keys_of_world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("keys")).write()
    return keys.of_memory(Embeddings(f"{world.folder}/memory")), world.keys


def test_files_are_read_in_their_order(world: World):
    memory = Embeddings(f"{world.folder}/memory")
    paths = [f"{world.folder}/memory/{name}.parquet" for name in ("00002", "00000")]
    stream = keys.of_files(paths, KEY, {}, "here")
    rows = np.r_[266:400, 0:133]
    assert stream.rows == len(rows)
    np.testing.assert_array_equal(np.concatenate(list(stream.chunks())), world.keys[rows])
    np.testing.assert_array_equal(stream.names()[0], world.ids[rows])
    assert keys.of_files([], KEY, {}, "here").rows == 0
    with pytest.raises(UserError, match="config_hash is .* expected another"):
        list(keys.of_files(paths, memory.encoder("key"), {"config_hash": "another"}, "here").chunks())


def stream_of(vectors: np.ndarray, folder: str, **options: object) -> keys.KeyStream:
    write_embeddings(folder, vectors, digests([str(i) for i in range(len(vectors))]), **options)
    return keys.of_memory(Embeddings(folder))


def test_keys_that_are_not_normalised_become_unit_vectors(tmp_path):
    vectors = unit(30) * np.linspace(0.1, 9, 30, dtype=np.float32)[:, None]
    vectors[7] = 0
    stream = stream_of(vectors, str(tmp_path), key=dataclasses.replace(KEY, normalized=False))
    found = stream.take(np.arange(30))
    np.testing.assert_allclose(np.delete(found, 7, 0), np.delete(unit(30), 7, 0), atol=1e-6)
    assert not found[7].any()


def test_digests_that_end_in_zero_bytes_stay_apart():
    column = pa.chunked_array([[b"\1" * 31 + b"\0", b"\1" * 30 + b"\0\0", b"\0" * 32]], pa.binary(32))
    found = keys.content_keys(column)
    assert len(np.unique(found)) == 3
    assert found.tobytes() == b"".join(column.to_pylist())


def test_key_that_is_not_finite_is_named(tmp_path):
    vectors = unit(30)
    vectors[12, 3] = np.nan
    with pytest.raises(UserError, match=f"{tmp_path}: row 2 has a key that is not finite"):
        list(stream_of(vectors, str(tmp_path)).chunks())


def test_key_of_another_width_is_refused():
    column = pa.chunked_array([schemas.fixed_list(unit(3), pa.field("key", pa.list_(pa.float32(), DIM)))])
    with pytest.raises(UserError, match="keys have 12 values, not 13"):
        keys.unit_keys(column, dataclasses.replace(KEY, dim=13), "here")
