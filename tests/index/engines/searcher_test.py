import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.engines import searcher
from pipelines.errors import UserError


def test_unknown_kind_names_the_nearest():
    with pytest.raises(UserError, match="searcher=scan: unknown; did you mean 'scann'"):
        searcher.kind("scan")


@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 20))
def test_chunks_are_all_keys_in_order_and_a_sample_is_some(rows, sampled, chunk):
    array = np.arange(3 * rows, dtype=np.float64).reshape(rows, 3)
    keys = searcher.ArrayKeys(array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searcher, "CHUNK_ROWS", chunk)
        for _ in range(2):
            chunks = list(keys.chunks())
            assert max(map(len, chunks)) <= chunk and {c.dtype for c in chunks} == {np.dtype(np.float32)}
            np.testing.assert_array_equal(np.concatenate(chunks), array)
    sample = keys.sample(sampled)
    assert (keys.rows, keys.dim, sample.dtype, len(sample)) == (rows, 3, np.float32, min(rows, sampled))
    assert (np.diff(sample[:, 0]) > 0).all() and np.isin(sample[:, 0], array[:, 0]).all()
    np.testing.assert_array_equal(keys.sample(sampled), sample)
