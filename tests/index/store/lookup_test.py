import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.engines import planner, searcher
from index.engines.exact import ExactSearcher
from index.engines.planner import Parameters
from index.engines.searcher import ArrayKeys
from index.store import lookup
from index.store.lookup import Lookup
from index.store.shard_store import Shard
from tests.world import brute_force, digests, unit

K = 7


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 12), st.booleans())
def test_lists_are_those_of_the_rows_that_are_left(seed, rows, k, by_id):
    rng = np.random.default_rng(seed)
    keys, queries = unit(rows, 4, seed=seed, clusters=3), unit(9, 4, seed=seed + 1, clusters=3)
    keys[rng.random(rows) < 0.3] = keys[:1]
    ids = np.sort(rng.choice(1000, rows, replace=False))
    images = np.array(digests([f"{i}" for i in rng.integers(0, 6, rows)]), "S32")
    own = np.array(digests([f"{i}" for i in rng.integers(0, 12, 9)]), "S32")
    asked = rng.choice(ids, 9) if rows else np.zeros(9, np.int64)
    removed = rng.random(rows) < 0.3
    shard = Lookup(Shard(ExactSearcher(keys), ids, images, removed))
    found, scores, excluded = shard.search(queries, k, own, asked if by_id else None)
    for query in range(9):
        theirs = (images == own[query]) & ((ids == asked[query]) | (not by_id))
        kept = np.flatnonzero(~theirs & ~removed)
        right, right_scores = brute_force(queries[query : query + 1], keys[kept], k)
        assert found[query].tolist() == [*ids[kept][right[0]], *[-1] * (k - right.shape[1])]
        np.testing.assert_array_equal(scores[query, : right.shape[1]], right_scores[0])
        assert np.isneginf(scores[query, right.shape[1] :]).all()
        assert excluded[query] == (theirs & ~removed).sum()


def test_removed_rows_leave_the_rest_of_a_list_as_it_was():
    keys, queries = unit(300), unit(20, seed=1)
    images = np.array(digests([f"{i % 50}" for i in range(300)]), "S32")
    own = np.array(digests([f"{i}" for i in range(20)]), "S32")
    removed = np.random.default_rng(0).random(300) < 0.5
    whole = Lookup(Shard(ExactSearcher(keys), np.arange(300), images, np.zeros(300, bool)))
    ids, _, _ = whole.search(queries, 294, own)
    rest, _, _ = Lookup(Shard(ExactSearcher(keys), np.arange(300), images, removed)).search(queries, K, own)
    for query in range(20):
        assert rest[query].tolist() == [row for row in ids[query].tolist() if not removed[row]][:K]


def test_content_keys_with_the_same_head_are_told_apart():
    keys = unit(4)
    images = np.array([b"12345678" + name * 24 for name in (b"a", b"b", b"a", b"c")], "S32")
    shard = Lookup(Shard(ExactSearcher(keys), np.arange(4), images, np.zeros(4, bool)))
    ids, _, excluded = shard.search(keys[:2], 4, np.array([b"12345678" + b"a" * 24, b"12345678" + b"d" * 24], "S32"))
    assert set(ids[0].tolist()) == {1, 3, -1} and set(ids[1].tolist()) == {0, 1, 2, 3} and excluded.tolist() == [2, 0]


def test_lookup_when_all_rows_are_the_own_image():
    keys = unit(4)
    images = np.array(digests(["same"] * 4), "S32")
    few = Lookup(Shard(ExactSearcher(keys), np.arange(4), images, np.zeros(4, bool)))
    ids, scores, excluded = few.search(keys[:2], 3, np.array(digests(["same", "other"]), "S32"))
    assert ids[0].tolist() == [-1, -1, -1] and np.isneginf(scores[0]).all() and (ids[1] >= 0).all()
    assert excluded.tolist() == [4, 0]


def test_many_copies_of_an_image_are_searched_a_few_queries_at_a_time(monkeypatch):
    keys, queries = unit(400), unit(40, seed=1)
    names = ["many"] * 300 + ["some"] * 20 + ["once"] + [f"memory {i}" for i in range(79)]
    asked = (["many", "none", "some", "once", "none"] * 8)[:40]
    images, own = np.array(digests(names), "S32"), np.array(digests(asked), "S32")
    searched = []

    class Watched(ExactSearcher):
        def search(self, queries, k, more=0, **scanned):
            searched.append((len(queries), k + more))
            return super().search(queries, k, more, **scanned)

    monkeypatch.setattr(lookup, "LIST_ENTRIES", 600)
    ids, scores, excluded = Lookup(Shard(Watched(keys), np.arange(400), images, np.zeros(400, bool))).search(
        queries, K, own
    )
    assert max(rows * k for rows, k in searched) <= 600
    assert excluded.tolist() == [{"many": 300, "some": 20, "once": 1, "none": 0}[name] for name in asked]
    for query in range(40):
        kept = np.flatnonzero(images != own[query])
        right, right_scores = brute_force(queries[query : query + 1], keys[kept], K)
        np.testing.assert_array_equal(ids[query], kept[right[0]])
        np.testing.assert_array_equal(scores[query], right_scores[0])


@pytest.fixture(scope="module", params=["memory", "disk", "jax"])
def clumps(request) -> tuple[Shard, np.ndarray]:
    """A shard that scans the nearest leaf alone, and its keys: some leaves have no row."""
    keys = np.repeat(unit(40, 16), 100, axis=0)
    name, plan = "scann", planner.plan_shard(len(keys), 16, reorder="float32", reorder_on=request.param)
    if request.param == "jax":
        name, plan = "jax", planner.plan_tiles(len(keys), 16, reorder="float32")
    parameters = Parameters(1, 10, K)
    built = searcher.kind(name).build(ArrayKeys(keys), plan).with_parameters(parameters)
    images = np.array(digests([f"{row}" for row in range(len(keys))]), "S32")
    return Shard(built, np.arange(len(keys)), images, np.zeros(len(keys), bool), plan, parameters), keys


@pytest.mark.parametrize("left", [1.0, 0.01, 0.001])
def test_a_list_is_short_only_if_the_shard_has_no_more_rows(clumps, left):
    shard, keys = clumps
    rows = np.flatnonzero(np.random.default_rng(2).random(len(keys)) < left)
    removed = ~np.isin(np.arange(len(keys)), rows)
    queries = np.random.default_rng(1).normal(size=(60, 16)).astype(np.float32)
    # Half of the queries are rows, which leave themselves out.
    queries[::2], own = keys[rows[:1]], np.array(digests(["none"] * 60), "S32")
    own[::2] = shard.content_keys[rows[0]]
    made = Lookup(dataclasses.replace(shard, removed=removed))
    for k in (K, 300):
        ids, scores, excluded = made.search(queries, k, own)
        most = np.minimum(k, len(rows) - excluded)
        np.testing.assert_array_equal((ids >= 0).sum(axis=1), most)
        assert (excluded == np.arange(60) % 2 ^ 1).all() and (np.isin(ids, rows) == (ids >= 0)).all()
        assert all(len(set(listed[:n])) == n for listed, n in zip(ids.tolist(), most.tolist(), strict=True))
        right = np.take_along_axis(queries @ keys.T, np.maximum(ids, 0), 1)
        atol = 0.03 if shard.plan.tile_rows else 1e-4
        np.testing.assert_allclose(np.where(ids >= 0, scores, 0), np.where(ids >= 0, right, 0), atol=atol)
    # Each list is the same whatever is asked beside it.
    alone = [made.search(queries[q : q + 1], K, own[q : q + 1])[0][0] for q in range(4)]
    np.testing.assert_array_equal(alone, made.search(queries, K, own)[0][:4])
