"""Columns of Parquet files as arrays."""

import pathlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.index_costs import anonymous_bytes
from pipelines import schemas
from pipelines.errors import UserError
from pipelines.schemas import EncoderInfo


def test_columns_become_arrays():
    info = EncoderInfo("e", 2, False, "float16")
    column = pa.array([[3, 4], [0, 2]], pa.list_(pa.float16(), 2))
    np.testing.assert_allclose(schemas.unit_keys(column, info, "x"), [[0.6, 0.8], [0, 1]], rtol=1e-6)
    whole = EncoderInfo("e", 2, True, "float16")
    np.testing.assert_array_equal(schemas.unit_keys(column, whole, "x"), [[3, 4], [0, 2]])
    digests = [bytes(range(32)), bytes(32), b"\0" + b"\xff" * 31]
    digested = pa.array(digests, pa.binary(32))
    for column, right in (
        (digested, digests),
        (digested[1:], digests[1:]),
        (pa.chunked_array([digested[:1], digested[1:1], digested[1:]]), digests),
        (pa.chunked_array([], pa.binary(32)), []),
    ):
        found = schemas.content_keys(column)
        assert found.dtype == "S32" and found.tobytes() == b"".join(right)
        assert schemas.digests(found).to_pylist() == right


@pytest.mark.parametrize("column", [pa.array([bytes(32), None], pa.binary(32)), pa.array(["a"])])
def test_wrong_digests_are_refused(column):
    with pytest.raises(UserError, match="a column of digests is of type .*its file is damaged"):
        schemas.content_keys(column)


def test_wrong_keys_are_named():
    info = EncoderInfo("e", 2, False, "float32")
    for values, sentence in (
        ([[0.0, 1.0], [1.0, np.nan]], "shard 7: row 1 has a key that is not finite"),
        ([[1.0, 2.0, 3.0]], "shard 7: its keys have 3 values, not 2"),
    ):
        column = pa.array(values, pa.list_(pa.float32(), len(values[0])))
        with pytest.raises(UserError, match=sentence):
            schemas.unit_keys(column, info, "shard 7")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_vectors_that_cannot_be_used_are_found_after_the_cast(dtype):
    """65,504 is the largest float16; from 65,520 on a number is rounded to infinity."""
    rows = np.array([[3, 4], [0, 0], [65_519, 1], [65_520, 1], [np.nan, 1], [-np.inf, 1], [1e-5, 0], [1e-13, 0]])
    stored = EncoderInfo("e", 2, False, dtype).stored(rows.astype(np.float32))
    assert stored.dtype == dtype
    zero, broken = schemas.unusable(stored)
    assert (zero, broken) == {"float16": ([1, 6, 7], [3, 4, 5]), "float32": ([1, 7], [4, 5])}[dtype]


def test_a_length_whose_square_a_float32_cannot_hold_is_no_fault():
    rows = np.array([[3e38, 3e38], [1e-11, 1e-11], [3e-39, 0]], np.float32)
    assert schemas.unusable(rows) == ([2], [])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("power", [-300, -50, -44, -30, -8, 0, 3, 20, 37, 300])
def test_unit_vectors_of_any_length(dtype, power):
    """Against NumPy in float64, of the numbers that the type has; those of an ordinary length keep their bytes."""
    drawn = np.random.default_rng(5).standard_normal((50, 24))
    with np.errstate(over="ignore", under="ignore"):
        stored = (drawn * 10.0**power).astype(dtype)
    stored = stored[np.isfinite(stored).all(axis=1) & stored.any(axis=1)]
    wide = stored.astype(np.float64)
    wide /= np.abs(wide).max(axis=1, keepdims=True)
    right = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    np.testing.assert_allclose(schemas.unit(stored), right, rtol=1e-6, atol=1e-7)
    rows, lengths = schemas.moderate(stored)
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), lengths[:, 0], rtol=1e-6)
    if -8 <= power <= 3:
        np.testing.assert_array_equal(rows, stored.astype(np.float32))
    if dtype == "float32" and len(stored):
        column = pa.array(list(stored), pa.list_(pa.float32(), 24))
        found = schemas.unit_keys(column, EncoderInfo("e", 24, False, dtype), "x")
        np.testing.assert_array_equal(found, schemas.unit(stored))


def test_what_has_no_unit_vector():
    rows = np.array([[0, 0], [np.inf, 1], [np.nan, 1], [3, 4]])
    found = schemas.unit(rows)
    np.testing.assert_allclose(found[[0, 3]], [[0, 0], [0.6, 0.8]], rtol=1e-6)
    assert np.isnan(found[1:3]).any(axis=1).all()
    for given in (np.asfortranarray(rows[[0, 3]], np.float32), np.array([[3, 4], [3e30, 4e30]], np.float32)):
        before = given.copy()
        made = schemas.unit(given)
        assert made.flags.c_contiguous and np.array_equal(given, before)
        np.testing.assert_allclose(made[1], [0.6, 0.8], rtol=1e-6)
    assert schemas.unit(rows[:0]).shape == (0, 2)


@pytest.mark.parametrize("dim", [1, 64, 4096])
def test_the_direction_of_what_float16_keeps_is_that_of_the_vector(dim):
    """Just above the bound, rounding turns a vector by less than a thousandth."""
    exact = np.random.default_rng(dim).standard_normal((20, dim))
    exact *= (
        1.01 * float(np.finfo(np.float16).smallest_normal) * dim**0.5 / np.linalg.norm(exact, axis=1, keepdims=True)
    )
    stored = exact.astype(np.float16)
    assert schemas.unusable(stored) == ([], [])
    kept = stored.astype(np.float64)
    cosines = (kept * exact).sum(1) / np.linalg.norm(kept, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() > 1 - 1e-6
    assert schemas.unusable((0.98 * exact).astype(np.float16))[0] == list(range(20))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64"])
def test_vectors_are_written_by_the_significance_of_their_bytes(tmp_path, dtype):
    keys = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(-15, 15).astype(dtype)), 3)
    table, path = pa.table({"id": range(10), "key": keys}), str(tmp_path / "vectors.parquet")
    schemas.write(path, table, {})
    with schemas.open_parquet(path, ["key"]) as parquet:
        columns = [parquet.metadata.row_group(0).column(number) for number in range(2)]
        # DuckDB cannot read it of float16.
        is_split = ["BYTE_STREAM_SPLIT" in column.encodings for column in columns]
        assert is_split == [False, dtype != "float16"]
        assert parquet.read().equals(table)
    none = pa.chunked_array([], keys.type)
    assert schemas.to_matrix(none).shape == (0, 3) and schemas.to_matrix(none).dtype == dtype


def _read_in_batches(path: str) -> tuple[int, int]:
    before = seen = most = 0
    with schemas.open_parquet(path, ["key"]) as parquet:
        for batch in parquet.iter_batches(schemas.ROW_GROUP_ROWS):
            # What one batch takes is there after the first.
            before = before or anonymous_bytes()
            seen, most = seen + batch.num_rows, max(most, anonymous_bytes())
    return seen, most - before


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads the memory of a process from Linux")
def test_a_file_that_is_read_in_batches_is_not_held(tmp_path):
    path, rows = str(tmp_path / "large.parquet"), 72 * schemas.ROW_GROUP_ROWS
    schema = pa.schema([pa.field("key", pa.list_(pa.float32(), 256))])
    chunk = np.random.default_rng(0).standard_normal((schemas.ROW_GROUP_ROWS, 256), np.float32)
    with schemas.writer(path, schema, {}) as parquet:
        for _ in range(rows // len(chunk)):
            parquet.write_table(pa.table([schemas.fixed_list(chunk, schema.field("key"))], schema=parquet.schema))
    # A process of its own holds nothing that other tests may let go of meanwhile.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        seen, grown = process.submit(_read_in_batches, path).result()
    assert seen == rows
    assert grown < rows * 256 * 4 / 3


@pytest.mark.parametrize(
    ("value", "shape", "where"),
    [
        ({"a": 1, "more": 2}, {"a": int}, ""),
        ({"a": 1}, {"a": float}, ""),
        ({"a": True}, {"a": int}, "a is of another type"),
        ({"a": "1"}, {"a": int}, "a is of another type"),
        ({}, {"a": int}, "it has no 'a'"),
        ([], {"a": int}, "it is no object"),
        (None, {"a": int}, "it is no object"),
        ({"a": [{"b": 1}, {}]}, {"a": [{"b": int}]}, "a[1] has no 'b'"),
        ({"a": {"x": 1, "y": None}}, {"a": {str: int}}, "a.y is of another type"),
        ({"a": None}, {"a": object}, ""),
    ],
)
def test_shapes_of_json(value, shape, where):
    assert schemas.misshapen(value, shape) == where


def test_footers_tell_files_apart(tmp_path):
    digests = {}
    for name, table in (("a", {"x": [1, 2]}), ("b", {"x": [1, 3]}), ("c", {"x": [1, 2]})):
        schemas.write(str(tmp_path / name), pa.table(table), {})
        digests[name] = schemas.footer_sha256(str(tmp_path / name))
    assert digests["a"] == digests["c"] != digests["b"]
    assert schemas.read(str(tmp_path / "a"), ["x"], footer=digests["a"]).num_rows == 2
    with pytest.raises(UserError, match="b: is damaged or of another run; remove it"):
        schemas.read(str(tmp_path / "b"), ["x"], footer=digests["a"])
    for text in (b"", b"x", b"PAR1", b"\xff" * 20):
        (tmp_path / "d").write_bytes(text)
        with pytest.raises(UserError, match="d: is damaged or of another run; remove it"):
            schemas.read(str(tmp_path / "d"), ["x"], footer=digests["a"])
