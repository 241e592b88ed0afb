import numpy as np
import pytest

from index.engines import kept_keys
from index.engines.kept_keys import KeptKeys
from tests.world import unit

ROWS, DIM = 20_000, 24


def bits(keys: np.ndarray) -> np.ndarray:
    """Returns the upper halves of float32 numbers, which are bfloat16 numbers, int16."""
    return (keys.view(np.uint32) >> 16).astype(np.uint16).view(np.int16)


def as_kept(keys: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Returns what the file of a precision holds, the multipliers, and the keys float64 that it stands for."""
    if kind == "float32":
        return keys, None, keys.astype(np.float64)
    if kind == "bfloat16":
        whole = (keys.view(np.uint32) & 0xFFFF0000).view(np.float32)
        return bits(keys), None, whole.astype(np.float64)
    multipliers = np.linspace(60, 120, DIM).astype(np.float32)
    kept = np.rint(keys * multipliers).astype(np.int8)
    return kept, multipliers, kept / multipliers.astype(np.float64)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("queries", [1, 700])
@pytest.mark.parametrize("threads", [0, 1])
def test_scores_are_the_dot_products_of_the_keys_as_they_are_kept(kind, queries, threads, tmp_path):
    keys, asked = unit(ROWS, DIM), unit(queries, DIM, seed=1)
    kept, multipliers, right = as_kept(keys, kind)
    np.save(tmp_path / "kept.npy", kept)
    rows = np.random.default_rng(0).integers(-1, ROWS, (queries, 37))
    rows[:, -2:] = [ROWS - 1, -1]
    scores = KeptKeys(str(tmp_path / "kept.npy"), multipliers).scores(asked, rows, threads)
    expected = np.einsum("qd,qcd->qc", asked.astype(np.float64), right[rows])
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(np.isneginf(scores), rows < 0)
    assert np.abs(scores - expected)[rows >= 0].max() < 5e-7


def test_nothing_but_padding(tmp_path):
    np.save(tmp_path / "kept.npy", unit(9))
    scores = KeptKeys(str(tmp_path / "kept.npy")).scores(unit(3), np.full((3, 4), -1))
    assert (scores == -np.inf).all() and scores.shape == (3, 4)


def test_a_batch_is_bounded_in_bytes(tmp_path):
    np.save(tmp_path / "kept.npy", unit(100, 64))
    kept = KeptKeys(str(tmp_path / "kept.npy"))
    assert kept.batch_queries(100) * 100 * 64 * 4 <= kept_keys.BATCH_BYTES < (kept.batch_queries(100) + 1) * 25_600
    assert kept.batch_queries(10**9) == 1


def test_a_deleted_file_is_read_on(tmp_path):
    keys = unit(50)
    np.save(tmp_path / "kept.npy", keys)
    kept = KeptKeys(str(tmp_path / "kept.npy"))
    (tmp_path / "kept.npy").unlink()
    np.testing.assert_allclose(kept.scores(keys[:1], np.arange(50)[None])[0], keys @ keys[0], atol=5e-7)


@pytest.mark.parametrize("array", [np.zeros(5, np.float32), np.zeros((5, 2)), np.zeros((5, 2), np.uint8)])
def test_files_of_other_arrays(array, tmp_path):
    np.save(tmp_path / "kept.npy", array)
    with pytest.raises(ValueError, match="is not a matrix of keys"):
        KeptKeys(str(tmp_path / "kept.npy"))
