import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.filtering import duplicates
from tests.pipelines.selection_world import near_to, unit


def _digests(values):
    return np.frombuffer(b"".join(bytes([value]) * 32 for value in values), "S32")


@given(st.lists(st.integers(0, 4)), st.randoms())
def test_of_equal_images_all_but_the_smallest_id_are_found(values, random):
    ids = list(range(0, 3 * len(values), 3))
    random.shuffle(ids)
    rows, twins = duplicates.exact(np.array(ids, np.int64), _digests(values))
    smallest = {value: min(i for i, v in zip(ids, values, strict=True) if v == value) for value in values}
    right = {i: smallest[v] for i, v in zip(ids, values, strict=True) if i != smallest[v]}
    assert dict(zip(rows.tolist(), twins.tolist(), strict=True)) == right


def test_buckets_hold_equal_images_and_bounded_rows():
    rng = np.random.default_rng(0)
    images = np.frombuffer(rng.bytes(32 * 20_000), "S32")
    assert set(duplicates.buckets(images, 20_000)) == {0}
    large = duplicates.buckets(images, 400_000_000)
    assert 0 <= large.min() and large.max() < 1526 and len(np.unique(large)) > 1500
    assert large.max() < duplicates.buckets(images, 1 << 40).max() < 65_536
    np.testing.assert_array_equal(duplicates.buckets(images[::-1], 400_000_000)[::-1], large)
    assert len(duplicates.buckets(images[:0], 0)) == 0


def test_pivots_are_drawn_from_all_rows_by_the_seed():
    assert duplicates.pivot_rows({0: 16_384}, 0) == {}
    shards = {3: 50_000, 0: 30_000, 7: 0, 1: 2_000}
    picks = duplicates.pivot_rows(shards, 5)
    assert sum(map(len, picks.values())) == -(-82_000 // 8192) and set(picks) <= {0, 1, 3}
    for number, rows in picks.items():
        assert (np.diff(rows) > 0).all() and 0 <= rows[0] and rows[-1] < shards[number]
    again = duplicates.pivot_rows(dict(sorted(shards.items())), 5)
    assert {n: rows.tolist() for n, rows in picks.items()} == {n: rows.tolist() for n, rows in again.items()}
    other = duplicates.pivot_rows(shards, 6)
    assert {n: rows.tolist() for n, rows in picks.items()} != {n: rows.tolist() for n, rows in other.items()}


def test_each_row_goes_to_its_two_nearest_cells():
    rng = np.random.default_rng(1)
    vectors, pivots = (duplicates.rounded(unit(rng.normal(size=(n, 8)))) for n in (100, 7))
    scores = vectors.astype(np.float64) @ pivots.astype(np.float64).T
    right = {(int(cell), row) for row in range(100) for cell in np.argsort(-scores[row])[:2]}
    found = {(cell, int(row)) for cell, rows in duplicates.cells(vectors, pivots) for row in rows}
    assert found == right
    assert [(c, len(rows)) for c, rows in duplicates.cells(vectors, pivots[:1])] == [(0, 100)]
    assert [(c, len(rows)) for c, rows in duplicates.cells(vectors, pivots[:0])] == [(0, 100)]


def test_pivots_that_are_equal_make_one_cell():
    vectors = np.array([[1, 2], [0, 1], [1, 2], [0, 0], [0, 1]], np.float16)
    assert sorted(duplicates.different(vectors).tolist()) == [[0, 0], [0, 1], [1, 2]]
    np.testing.assert_array_equal(duplicates.different(vectors[::-1]), duplicates.different(vectors))


@pytest.mark.parametrize("threshold", [0.7, 0.95, 1.0])
def test_near_rows_of_a_cell_equal_brute_force(threshold):
    rng = np.random.default_rng(2)
    keys = unit(rng.normal(size=(60, 16)))
    keys[20:40] = near_to(keys[:20], np.linspace(0.6, 0.9999, 20))
    keys[[45, 50, 55, 59]] = keys[3]
    keys[48] = near_to(keys[3:4], 0.98)[0]
    ids = rng.permutation(1000)[:60]
    vectors = duplicates.rounded(keys)
    order = np.argsort(ids)
    exact = unit(vectors[order].astype(np.float64))
    scores = np.float32(np.minimum(exact @ exact.T, 1))
    right = {}
    for place in range(1, 60):
        best = int(scores[place, :place].argmax())
        if scores[place, best] >= np.float32(threshold):
            right[int(ids[order][place])] = int(ids[order][best])
    for shuffle in (np.arange(60), rng.permutation(60)):
        rows, twins, cosines = duplicates.near(ids[shuffle], vectors[shuffle], threshold)
        assert dict(zip(rows.tolist(), twins.tolist(), strict=True)) == right and len(right) >= 4
        places = {i: place for place, i in enumerate(ids[order])}
        pairs = [scores[places[row], places[twin]] for row, twin in zip(rows, twins, strict=True)]
        np.testing.assert_allclose(cosines, pairs, atol=1e-6)


def test_a_repeat_of_a_near_copy_of_an_earlier_row_names_the_equal_one():
    a = np.eye(16)[0]
    b = near_to(a[None], 0.97)[0]
    vectors = duplicates.rounded(np.stack([a, b, b, a]))
    rows, twins, cosines = duplicates.near(np.array([0, 1, 2, 3]), vectors, 0.9)
    assert dict(zip(rows.tolist(), twins.tolist(), strict=True)) == {1: 0, 2: 1, 3: 0}
    assert cosines[1:].tolist() == [1.0, 1.0] and cosines[0] == pytest.approx(0.97, abs=1e-3)


def test_many_equal_rows_cost_little():
    vectors = duplicates.rounded(np.tile(unit(np.ones((1, 64))), (100_000, 1)))
    rows, twins, cosines = duplicates.near(np.arange(100_000), vectors, 0.9)
    assert rows.tolist() == list(range(1, 100_000)) and set(twins) == {0} and set(cosines) == {1.0}
