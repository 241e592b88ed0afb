import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.store import routing
from index.store.routing import Router
from tests.world import brute_force, digests, unit

SIZES = {"max_examples": 40, "deadline": None}


def grid(rows: int, dim: int, seed: int) -> np.ndarray:
    """Returns vectors of small whole numbers, whose dot products no order of summing changes."""
    return np.random.default_rng(seed).integers(-9, 10, (rows, dim)).astype(np.float32)


def router_of(leaves: int, shards: int, seed: int) -> Router:
    rng = np.random.default_rng(seed)
    shares = np.sort(rng.random(leaves).astype(np.float32) + 0.1)[::-1]
    owners = rng.permutation(np.arange(leaves) % shards).astype(np.int32)
    return Router(grid(leaves, 5, seed), owners, shares / shares.sum(), shards)


def router_for(keys: np.ndarray, shards: int, leaves: int = 0) -> Router:
    return routing.fit(keys, shards, leaves or 16 * shards, keys[:50], 1.0, 10)


@settings(**SIZES)
@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_visits_are_the_nearest_leaves_by_their_owners(shards, more_leaves, queries, seed):
    router = router_of(shards + more_leaves, shards, seed)
    asked = grid(queries, 5, seed + 1)
    many = len(router.centres)
    for leaves in range(1, many + 1):
        visits = router.visits(asked, leaves)
        weights = router.shares[:leaves].astype(np.float64) / router.shares[:leaves].sum(dtype=np.float64)
        for query in range(queries):
            scores = router.centres @ asked[query]
            taken = visits.leaves[query].sum()
            # Equal scores may be taken in any order, so only what is clearly inside or outside is known.
            last = np.sort(scores)[::-1][leaves - 1]
            inside = np.bincount(router.owners[scores > last], minlength=shards)
            possible = np.bincount(router.owners[scores >= last], minlength=shards)
            left_out = visits.leaves[query] == 0
            assert (visits.leaves[query] <= possible).all()
            assert ((visits.leaves[query] >= inside) | left_out).all() and taken <= leaves
            assert ((visits.shares[query] >= routing.MIN_SHARE) | left_out).all() or leaves == many
        assert (visits.shares.sum(axis=1) <= weights.sum() + 1e-5).all()
    # Who scans every leaf visits every shard, and so finds what exact search finds.
    assert (visits.leaves == np.bincount(router.owners, minlength=shards)).all()
    np.testing.assert_allclose(visits.shares.sum(axis=1), 1, rtol=1e-5)


def test_shards_of_no_consequence_are_not_visited():
    centres, owners = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 2], np.int32)
    router = Router(centres, owners, np.array([0.9, 0.08, 0.015, 0.005], np.float32), 3)
    asked = np.array([[0.9, 0.8, 0.7, 0.6], [0.6, 0.7, 0.8, 0.9]], np.float32)
    visits = router.visits(asked, 3)
    np.testing.assert_array_equal(visits.leaves, [[2, 1, 0], [1, 1, 1]])
    np.testing.assert_allclose(visits.shares * 0.995, [[0.98, 0.015, 0], [0.015, 0.08, 0.9]], rtol=1e-5)
    rare = Router(centres, owners, np.array([0.9, 0.098, 0.001, 0.001], np.float32), 3)
    np.testing.assert_array_equal(rare.visits(asked, 3).leaves, [[2, 0, 0], [0, 1, 1]])
    np.testing.assert_array_equal(rare.visits(asked, 4).leaves, [[2, 1, 1], [2, 1, 1]])


def test_more_neighbours_are_in_as_many_times_as_many_leaves():
    centres, owners = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1], np.int32)
    router = Router(centres, owners, np.array([0.6, 0.3, 0.08, 0.02], np.float32), 2)
    asked = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    visits = router.visits(asked, 1, 2.0)
    assert visits.leaves.tolist() == [[2, 0]] and visits.shares.tolist() == [[1, 0]]
    visits = router.visits(asked, 2, 2.0)
    assert visits.leaves.tolist() == [[2, 2]]
    np.testing.assert_allclose(visits.shares, [[1.2 / 1.8, 0.6 / 1.8]], rtol=1e-6)
    assert router.visits(asked, 3, 100.0).leaves.tolist() == [[2, 2]]


def test_steps_cover_the_neighbours():
    shares = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02], np.float32)
    router = Router(grid(7, 5, 0), np.zeros(7, np.int32), shares, 1)
    assert {3, 4, 5, 6, 7} >= set(router.steps) >= {3, 4, 7}
    assert router_of(1, 1, 0).steps == [1]


@settings(**SIZES)
@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_a_key_is_in_a_shard_that_it_would_visit_first(shards, more_leaves, seed):
    router = Router(
        unit(shards + more_leaves, 5, seed), *dataclasses.astuple(router_of(shards + more_leaves, shards, seed))[1:]
    )
    keys = unit(50, 5, seed + 1)
    owners = router.shard_of(keys, np.zeros(50, "S32"))
    assert router.visits(keys, 1).leaves[np.arange(50), owners].all()


@pytest.mark.parametrize("shards", [2, 3, 5, 8, 16])
def test_regions_are_balanced(shards):
    keys = unit(20_000, seed=shards, clusters=200)
    router = router_for(keys[:8000], shards)
    assert len(router.centres) == 16 * shards and set(router.owners) == set(range(shards))
    np.testing.assert_allclose(np.linalg.norm(router.centres, axis=1), 1, atol=1e-5)
    rows = np.bincount(router.shard_of(keys, np.zeros(len(keys), "S32")), minlength=shards)
    assert rows.sum() == len(keys)
    assert rows.max() < 1.25 * len(keys) / shards and rows.min() > 0.75 * len(keys) / shards


def test_regions_are_regions():
    """Near the centre of a shard a query finds its neighbours without the other shards."""
    keys = unit(8000, clusters=40)
    router = router_for(keys, 4)
    owners = router.shard_of(keys, np.zeros(len(keys), "S32"))
    nearest = np.argsort(-(keys[:500] @ keys.T), axis=1)[:, 1:11]
    at_home = (owners[nearest] == owners[:500, None]).mean()
    assert at_home > 0.8
    visited = router.visits(keys[:500], 8).leaves > 0
    assert np.take_along_axis(visited, owners[nearest], 1).mean() > at_home
    assert visited.mean() < 0.75


def test_shares_are_those_of_the_neighbours():
    """A sample tells in which leaves, by rank, the neighbours among all keys are."""
    keys, queries = unit(8000, clusters=40), unit(300, seed=7, clusters=40)
    router = routing.fit(keys[::4], 4, 64, queries, 0.25, 40)
    leaf = np.argmax(keys @ router.centres.T, axis=1)
    rank = np.argsort(np.argsort(-(queries @ router.centres.T), axis=1), axis=1)
    near, _ = brute_force(queries, keys, 40)
    right = np.bincount(np.take_along_axis(rank, leaf[near], 1).ravel(), minlength=64) / near.size
    assert router.shares.sum() == pytest.approx(1, abs=1e-5) and (router.shares > 0).all()
    assert np.abs(np.cumsum(router.shares) - np.cumsum(right)).max() < 0.03


def test_a_row_of_the_sample_is_not_its_own_neighbour():
    keys = unit(2000, clusters=40)
    own = routing.fit(keys, 2, 64, keys[:300], 1.0, 3).shares[0]
    near, _ = brute_force(keys[:300], keys, 4)
    centres = routing.fit(keys, 2, 64, keys[:300], 1.0, 3).centres
    leaf = np.argmax(keys @ centres.T, axis=1)
    assert own == pytest.approx((leaf[near[:, 1:]] == leaf[:300, None]).mean(), abs=0.01)


@settings(**SIZES)
@given(st.integers(1, 7), st.integers(0, 20), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_any_sample_gives_every_shard_a_leaf(shards, more_rows, distinct, seed):
    sample = unit(shards + more_rows, seed=seed)[np.arange(shards + more_rows) % distinct]
    router = routing.fit(sample, shards, 16 * shards, sample[:3], 1.0, 3)
    assert set(router.owners) == set(range(shards))
    assert np.isfinite(router.centres).all() and (router.shares > 0).all()


def test_the_same_sample_gives_the_same_regions():
    first, again, other = (router_for(unit(900, seed=seed), 3) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.centres, again.centres)
    np.testing.assert_array_equal(first.owners, again.owners)
    assert not np.array_equal(first.centres, other.centres)


def test_table_and_back():
    router = router_for(unit(900), 3)
    again = Router.from_table(router.to_table(), 3)
    for name in ("centres", "owners", "shares"):
        np.testing.assert_array_equal(getattr(again, name), getattr(router, name))
    assert again.owners.dtype == np.int32 and again.shares.dtype == np.float32 and again.shards == 3


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
