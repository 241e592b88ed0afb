import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.store import routing
from index.store.routing import PROBES, Router
from tests.world import digests, unit

SIZES = {"max_examples": 40, "deadline": None}


def grid(rows: int, dim: int, seed: int) -> np.ndarray:
    """Returns vectors of small whole numbers, whose dot products no order of summing changes."""
    return np.random.default_rng(seed).integers(-9, 10, (rows, dim)).astype(np.float32)


def router_of(cells: int, shards: int, seed: int) -> Router:
    owners = np.random.default_rng(seed).permutation(np.arange(cells) % shards).astype(np.int32)
    return Router(grid(cells, 5, seed), owners, shards)


@settings(**SIZES)
@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_visits_are_the_owners_of_the_nearest_cells(shards, more_cells, queries, seed):
    router = router_of(shards + more_cells, shards, seed)
    asked = grid(queries, 5, seed + 1)
    before = np.zeros((queries, shards), bool)
    for probe in range(1, len(router.centroids) + 1):
        visited = router.visits(asked, probe)
        for query, shards_visited in zip(asked.tolist(), visited, strict=True):
            scores = [sum(a * b for a, b in zip(query, centre, strict=True)) for centre in router.centroids.tolist()]
            last = sorted(scores, reverse=True)[probe - 1]
            near = [int(owner) for owner, score in zip(router.owners, scores, strict=True) if score >= last]
            assert set(np.flatnonzero(shards_visited)) == set(near)
        assert (visited >= before).all()
        before = visited
    # Who probes every cell visits every shard, and so finds what exact search finds.
    assert before.all() and router.visits(asked, 0).all()


@settings(**SIZES)
@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_a_key_lies_in_a_shard_that_it_would_visit_first(shards, more_cells, seed):
    router = router_of(shards + more_cells, shards, seed)
    keys = grid(50, 5, seed + 1)
    owners = router.shard_of(keys, np.zeros(50, "S32"))
    assert router.visits(keys, 1)[np.arange(50), owners].all()


def test_probes_are_those_that_there_are_cells_for():
    assert router_of(48, 3, 0).probes == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert router_of(1, 1, 0).probes == [1]
    assert router_of(500, 7, 0).probes == list(PROBES)
    assert routing.without_regions(5, 12).probes == [0]


@pytest.mark.parametrize("shards", [2, 3, 5, 8, 16])
def test_regions_are_balanced(shards):
    keys = unit(20_000, seed=shards, clusters=200)
    router = routing.fit(keys[:8000], shards, seed=0)
    assert len(router.centroids) == 16 * shards and set(router.owners) == set(range(shards))
    np.testing.assert_allclose(np.linalg.norm(router.centroids, axis=1), 1, atol=1e-5)
    rows = np.bincount(router.shard_of(keys, np.zeros(len(keys), "S32")), minlength=shards)
    assert rows.sum() == len(keys)
    assert rows.max() < 1.25 * len(keys) / shards and rows.min() > 0.75 * len(keys) / shards


def test_regions_are_regions():
    """Near the centre of a shard a query finds its neighbours without the other shards."""
    keys = unit(8000, clusters=40)
    router = routing.fit(keys, 4, seed=0)
    owners = router.shard_of(keys, np.zeros(len(keys), "S32"))
    nearest = np.argsort(-(keys[:500] @ keys.T), axis=1)[:, 1:11]
    at_home = (owners[nearest] == owners[:500, None]).mean()
    assert at_home > 0.8
    visited = router.visits(keys[:500], 8)
    assert np.take_along_axis(visited, owners[nearest], 1).mean() > at_home
    assert visited.mean() < 0.75


@settings(**SIZES)
@given(st.integers(1, 7), st.integers(0, 20), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_any_sample_gives_every_shard_a_cell(shards, more_rows, distinct, seed):
    sample = unit(shards + more_rows, seed=seed)[np.arange(shards + more_rows) % distinct]
    router = routing.fit(sample, shards, seed)
    assert set(router.owners) == set(range(shards))
    assert np.isfinite(router.centroids).all()


def test_the_same_sample_gives_the_same_regions():
    first, again, other = (routing.fit(unit(900), 3, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.centroids, again.centroids)
    np.testing.assert_array_equal(first.owners, again.owners)
    assert not np.array_equal(first.centroids, other.centroids)


def test_table_and_back():
    router = routing.fit(unit(900), 3, 0)
    again = Router.from_table(router.to_table(), 3)
    np.testing.assert_array_equal(again.centroids, router.centroids)
    np.testing.assert_array_equal(again.owners, router.owners)
    assert again.owners.dtype == np.int32 and again.shards == 3


@pytest.mark.parametrize("shards", [1, 3, 7, 64])
def test_hash_is_uniform_and_of_the_image_alone(shards):
    images = digests([f"image {i}" for i in range(20_000)])
    router = routing.without_regions(shards, 12)
    owners = router.shard_of(np.empty((len(images), 12), np.float32), np.array(images, "S32"))
    for image, owner in list(zip(images, owners, strict=True))[:500]:
        assert owner == int.from_bytes(image[:8], "big") % shards
    rows = np.bincount(owners, minlength=shards)
    expected = len(images) / shards
    # Five standard deviations of chi-squared with so many degrees of freedom.
    assert ((rows - expected) ** 2 / expected).sum() < shards + 5 * np.sqrt(2 * shards)


def test_hash_of_digests_that_end_in_zero_bytes():
    images = [hashlib.sha256(b"x").digest()[:8] + b"\0" * 24, b"\0" * 32]
    router = routing.without_regions(5, 12)
    right = [int.from_bytes(image[:8], "big") % 5 for image in images]
    assert router.shard_of(np.empty((2, 12), np.float32), np.array(images, "S32")).tolist() == right
