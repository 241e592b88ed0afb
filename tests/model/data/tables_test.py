import jax
import numpy as np
import pytest

from model.data import parallel, tables


def _rows(count):
    return np.random.default_rng(0).normal(1.0, 2.0, (count, 24)).astype(np.float32)


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_rows_are_standardized_chunk_by_chunk(monkeypatch, count):
    monkeypatch.setattr("model.data.vectors.CHUNK_ROWS", 999)
    rows = _rows(count).astype(np.float64)
    wanted = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)
    found = tables.standardized(_rows(count), "float32")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_bfloat16_is_the_rounded_float32():
    whole, half = (tables.standardized(_rows(100), dtype) for dtype in ("float32", "bfloat16"))
    np.testing.assert_array_equal(half, whole.astype("bfloat16"))


@pytest.mark.skipif(jax.local_device_count() > 1, reason="each device has its own copy")
def test_a_table_is_taken_without_a_copy():
    table = tables.aligned_empty((1000, 24), "float32")
    assert parallel.replicate(table).unsafe_buffer_pointer() == table.ctypes.data
