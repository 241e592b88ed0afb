import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Drops, Embeddings, Marker

_ENCODERS = {"key": {"fingerprint": "abc", "dim": 4, "normalized": True, "dtype": "float32"}}


@given(st.integers(0, 2**22), st.integers(0, 2**40 - 1))
def test_ids_hold_shard_and_row(shard, row):
    ids = np.array([schemas.make_id(shard, row)], np.int64)
    assert [part.item() for part in schemas.split_ids(ids)] == [shard, row]


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_fingerprints_do_not_depend_on_order(value):
    assert manifest.fingerprint(value) == manifest.fingerprint(dict(reversed(value.items())))
    changed = {**value, next(iter(value)): "x"}
    assert manifest.fingerprint(value) != manifest.fingerprint(changed)


def test_a_folder_belongs_to_one_configuration(tmp_path):
    folder = str(tmp_path)
    first = manifest.claim(folder, "stage", {"a": 1, "b": (1, 2)})
    assert manifest.claim(folder, "stage", {"b": [1, 2], "a": 1}) == first
    with pytest.raises(UserError, match="another configuration, a was 1 and is now 2"):
        manifest.claim(folder, "stage", {"a": 2, "b": (1, 2)})
    with pytest.raises(UserError, match="stage was 'stage' and is now 'other'"):
        manifest.claim(folder, "other", {"a": 1, "b": (1, 2)})


def _write_shard(folder: str, config_hash: str, number: int, rows: int) -> Marker:
    schema = schemas.embeddings({"key": 4})
    keys = np.random.default_rng(number).normal(size=(rows, 4)).astype(np.float32)
    columns = {
        "id": pa.array(schemas.make_id(number, np.arange(rows))),
        "content_key": pa.array([bytes(32)] * rows, pa.binary(32)),
        "source_shard": pa.array(["s"] * rows),
        "member": pa.array(["m"] * rows),
        **{name: pa.nulls(rows, schema.field(name).type) for name in ("url", "caption", "label", "metadata")},
        "width": pa.array([1] * rows, pa.int32()),
        "height": pa.array([1] * rows, pa.int32()),
        "key": schemas.fixed_list(keys, schema.field("key")),
    }
    path = storage.join(folder, f"{number:05d}.parquet")
    schemas.write(path, pa.table(columns, schema=schema), {"config_hash": config_hash})
    marker = Marker(
        number, f"{number:05d}", "uri", 10, "etag", rows, rows, 0, storage.sha256(path), config_hash, "run", 0.1
    )
    marker.write(folder)
    return marker


@pytest.fixture
def folder(tmp_path):
    path = str(tmp_path / "memory")
    config_hash = manifest.claim(path, "pipelines.embed", {"encoders": _ENCODERS})
    markers = [_write_shard(path, config_hash, number, rows) for number, rows in ((0, 5), (1, 0), (2, 7))]
    manifest.complete(path, markers, config_hash)
    return path


def _keys(embeddings, shard):
    return schemas.to_matrix(embeddings.read(shard, ["key"])["key"])


def test_a_finished_folder_is_read_back(folder):
    embeddings = Embeddings(folder)
    assert embeddings.shard_rows == {0: 5, 1: 0, 2: 7}
    assert embeddings.rows == 12
    assert _keys(embeddings, 1).shape == (0, 4)
    expected = np.random.default_rng(2).normal(size=(7, 4)).astype(np.float32)
    np.testing.assert_array_equal(_keys(embeddings, 2), expected)


def test_snapshots_follow_the_bytes(folder):
    before = Embeddings(folder).snapshot
    identity, whole = manifest.read_complete(folder, "pipelines.embed")
    markers = list(manifest.read_markers(folder, whole["config_hash"]).values())
    manifest.complete(folder, markers, whole["config_hash"])
    assert Embeddings(folder).snapshot == before
    manifest.complete(folder, [dataclasses.replace(markers[0], output_sha256="x"), *markers[1:]], whole["config_hash"])
    assert Embeddings(folder).snapshot != before


def _drop(folder: str, shard: str, ids: list[int], config_hash: str, reasons: tuple[str, ...] = ()) -> Drops:
    path = storage.join(folder, manifest.DROPPED, f"{shard}.parquet")
    columns = {"id": pa.array(ids, pa.int64()), "reason": pa.array(reasons or ["leakage"] * len(ids), pa.string())}
    schemas.write(path, pa.table(columns), {"config_hash": config_hash})
    return Drops(len(ids), storage.sha256(path))


def test_dropped_rows_are_left_out_whatever_is_read(folder):
    before, stored = Embeddings(folder).snapshot, _keys(Embeddings(folder), 2)
    _, whole = manifest.read_complete(folder, "pipelines.embed")
    markers = list(manifest.read_markers(folder, whole["config_hash"]).values())
    ids = [int(schemas.make_id(2, row)) for row in (0, 3)]
    drops = {"00002": _drop(folder, "00002", ids, whole["config_hash"])}
    manifest.complete(folder, markers, whole["config_hash"], drops)
    embeddings = Embeddings(folder)
    assert (embeddings.shard_rows, embeddings.rows) == ({0: 5, 1: 0, 2: 5}, 10)
    assert embeddings.snapshot != before
    np.testing.assert_array_equal(_keys(embeddings, 2), stored[[1, 2, 4, 5, 6]])
    table = embeddings.read(2, ["member", "id"])
    assert table.column_names == ["member", "id"]
    assert schemas.split_ids(table["id"].to_numpy())[1].tolist() == [1, 2, 4, 5, 6]
    _drop(folder, "00002", ids[:1], whole["config_hash"])
    with pytest.raises(UserError, match="does not list 2 rows of"):
        embeddings.read(2, ["id"])


def test_rows_that_were_dropped_for_a_reason_can_be_read_all_the_same(folder):
    _, whole = manifest.read_complete(folder, "pipelines.embed")
    markers = list(manifest.read_markers(folder, whole["config_hash"]).values())
    ids = [int(schemas.make_id(2, row)) for row in (0, 3, 4)]
    reasons = ("leakage", "opt_out", "leakage")
    drops = {"00002": _drop(folder, "00002", ids, whole["config_hash"], reasons)}
    manifest.complete(folder, markers, whole["config_hash"], drops)
    embeddings = Embeddings(folder)
    for also, rows in (
        ((), [1, 2, 5, 6]),
        (("leakage",), [0, 1, 2, 4, 5, 6]),
        (("leakage", "opt_out"), [0, 1, 2, 3, 4, 5, 6]),
        (("near_duplicates",), [1, 2, 5, 6]),
    ):
        assert schemas.split_ids(embeddings.read(2, ["id"], also)["id"].to_numpy())[1].tolist() == rows
    assert embeddings.read(0, ["id"], ("leakage",)).num_rows == 5


def test_unfinished_folders_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="run web-memory embed first"):
        Embeddings(str(tmp_path / "nowhere"))
    storage.remove(f"{folder}/complete.json")
    with pytest.raises(UserError, match="is not finished; run web-memory embed again"):
        Embeddings(folder)


def test_rows_that_do_not_balance_get_no_marker(tmp_path):
    marker = Marker(0, "00000", "uri", 10, "etag", 5, 3, 1, "x", "hash", "run", 0.1)
    with pytest.raises(ValueError, match="5 rows in, 3 out, 1 rejected"):
        marker.write(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_missing_role_and_column_are_named(folder):
    with pytest.raises(UserError, match="has no 'value_text' vectors; it has key"):
        Embeddings(folder).encoder("value_text")
    with pytest.raises(UserError, match="has no column 'nonsense'"):
        Embeddings(folder).read(0, ["nonsense"])


def test_a_file_of_another_folder_is_refused(folder):
    _write_shard(folder, "other_hash", 0, 5)
    with pytest.raises(UserError, match="config_hash is other_hash, expected .*: the file belongs to another run"):
        Embeddings(folder).read(0, ["id"])


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_file_is_refused_not_misread(folder, damage):
    path = f"{folder}/00002.parquet"
    with open(path, "rb") as file:
        data = bytearray(file.read())
    if damage == "truncate":
        damaged = [data[:cut] for cut in range(0, len(data), 97)]
    else:
        damaged = [data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in range(4, len(data), 13)]
    expected = _keys(Embeddings(folder), 2)
    for version in damaged:
        with open(path, "wb") as file:
            file.write(version)
        try:
            vectors = _keys(Embeddings(folder), 2)
        except UserError:
            continue
        # What does not touch the key column is not seen while reading it.
        np.testing.assert_array_equal(vectors, expected)


def test_another_schema_version_is_refused(tmp_path):
    path = str(tmp_path / "x.parquet")
    pq.write_table(pa.table({"id": [1]}), path)
    with pytest.raises(UserError, match="schema_version is None, this program reads 3"):
        schemas.read(path, ["id"])


def test_the_same_rows_give_the_same_bytes(tmp_path):
    table = pa.table({"x": pa.array(range(10_000))})
    digests = set()
    for name in ("a", "b"):
        schemas.write(str(tmp_path / name), table, {"config_hash": "h"})
        digests.add(storage.sha256(str(tmp_path / name)))
    assert len(digests) == 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_cost_what_they_hold(tmp_path, dtype):
    field = schemas.embeddings({"key": 256}, dtype).field("key")
    vectors = np.random.default_rng(0).normal(size=(4000, 256)).astype(dtype)
    path = str(tmp_path / "x.parquet")
    schemas.write(path, pa.table([schemas.fixed_list(vectors, field)], schema=pa.schema([field])), {})
    np.testing.assert_array_equal(schemas.to_matrix(schemas.read(path, ["key"])["key"]), vectors)
    assert storage.size_bytes(path) <= 1.02 * vectors.nbytes
