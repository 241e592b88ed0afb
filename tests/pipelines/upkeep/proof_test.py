import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.upkeep import proof


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 1000))
def test_equal_vectors_have_equal_codes_and_others_do_not(rows, dim, seed):
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    np.testing.assert_array_equal(proof.codes(vectors), proof.codes(vectors.copy(order="F")))
    nudged = vectors.copy()
    nudged[:, -1] = np.nextafter(nudged[:, -1], np.float32(9))
    assert not (proof.codes(nudged) == proof.codes(vectors)).any()
    np.testing.assert_array_equal(proof.codes(np.float16(vectors)), proof.codes(np.float16(vectors).astype(np.float32)))


def test_bfloat16_as_others_round():
    import ml_dtypes

    vectors = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    _, nearest = proof.bfloat16_forms(vectors)
    np.testing.assert_array_equal(nearest, vectors.astype(ml_dtypes.bfloat16).view(np.uint16))
