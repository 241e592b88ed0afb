"""Search among allowed rows against brute force over them, by both ways, whatever share is allowed."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.base import Index as IndexConfig
from index.engines import planner, searcher
from index.engines.exact import ExactSearcher
from index.engines.planner import Parameters
from index.engines.searcher import ArrayKeys
from index.measure.recall import recall_at_k
from index.store import filtered, routing
from index.store.filtered import Allowed, Asked
from index.store.lookup import Lookup
from index.store.reader import Index
from index.store.records import Point, Setting, ShardRecord
from index.store.shard_store import Shard
from pipelines.errors import UserError
from pipelines.schemas import EncoderInfo
from tests.world import brute_force, digests, unit

ROWS, DIM, K = 6000, 16, 10


def images_of(names: object) -> np.ndarray:
    return np.array(digests([str(name) for name in names]), "S32")


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 12), st.booleans(), st.booleans())
def test_lists_are_those_of_the_allowed_rows(seed, rows, k, by_image, by_id):
    rng = np.random.default_rng(seed)
    keys, queries = unit(rows, 4, seed=seed, clusters=3), unit(9, 4, seed=seed + 1, clusters=3)
    keys[rng.random(rows) < 0.3] = keys[:1]
    ids = np.sort(rng.choice(1000, rows, replace=False))
    images, own = images_of(rng.integers(0, 6, rows)), images_of(rng.integers(0, 12, 9))
    asked = rng.choice(ids, 9) if rows else np.zeros(9, np.int64)
    removed, allowed = rng.random(rows) < 0.3, rng.random(rows) < rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    named = rng.permutation([*ids[allowed], *rng.integers(1000, 2000, 5), *ids[allowed][:3]])
    shard = Lookup(Shard(ExactSearcher(keys), ids, images, removed))
    found, scores, excluded = shard.search(
        queries, k, own if by_image else None, asked if by_image and by_id else None, allowed=Allowed(named)
    )
    for query in range(9):
        theirs = by_image & (images == own[query]) & ((ids == asked[query]) | (not by_id))
        kept = np.flatnonzero(~theirs & ~removed & allowed)
        right, right_scores = brute_force(queries[query : query + 1], keys[kept], k)
        assert found[query].tolist() == [*ids[kept][right[0]], *[-1] * (k - right.shape[1])]
        np.testing.assert_array_equal(scores[query, : right.shape[1]], right_scores[0])
        assert np.isneginf(scores[query, right.shape[1] :]).all()
        assert excluded[query] == (theirs & ~removed & allowed).sum()


@pytest.fixture(scope="module", params=["scann bfloat16", "scann float32", "scann int8", "jax bfloat16"])
def tuned(request) -> tuple[Shard, np.ndarray]:
    """A shard with leaves, tuned to some recall of the k nearest of all rows, some of which are removed."""
    name, reorder = request.param.split()
    keys, engine = unit(ROWS, DIM, clusters=200), searcher.kind(name)
    plan = engine.plan(ROWS, DIM, IndexConfig(reorder=reorder))
    built, tuning = engine.build(ArrayKeys(keys), plan), unit(200, DIM, seed=5, clusters=200)
    exact = ExactSearcher(keys).search(tuning, 2 * K)
    measure = lambda tried: recall_at_k(built.with_parameters(tried).search(tuning, K)[0], *exact, k=K)  # noqa: E731
    parameters = planner.frontier(measure, plan, ROWS, K, [0.95])[0.95]
    assert plan.leaves and parameters.leaves_to_search < plan.leaves / 2
    removed = np.random.default_rng(3).random(ROWS) < 0.1
    shard = Shard(
        built.with_parameters(parameters), np.arange(ROWS) * 3, images_of(range(ROWS)), removed, plan, parameters
    )
    return shard, keys


@pytest.mark.parametrize("share", [0.0, 0.0002, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("is_scanned", [True, False, None])
def test_both_ways_find_the_nearest_allowed_rows(tuned, monkeypatch, share, is_scanned):
    shard, keys = tuned
    if is_scanned is not None:
        monkeypatch.setattr(filtered, "is_scanned", lambda *_: is_scanned)
    allowed = np.random.default_rng(1).random(ROWS) < share
    wanted, queries = np.flatnonzero(allowed & ~shard.removed), unit(100, DIM, seed=6, clusters=200)
    ids, scores, _ = Lookup(shard).search(queries, K, allowed=Allowed(shard.ids[allowed]))
    most = min(K, len(wanted))
    assert np.isin(ids[:, :most], shard.ids[wanted]).all() and (ids[:, most:] == -1).all()
    assert (np.diff(np.sort(ids[:, :most], axis=1), axis=1) > 0).all()
    if most:
        products = np.einsum("qd,qkd->qk", queries, keys[ids[:, :most] // 3])
        # Of an int8 the steps are some hundredths of the largest value, of a bfloat16 1 / 256 of the value.
        np.testing.assert_allclose(scores[:, :most], products, atol=2e-2)
        right, right_scores = brute_force(queries, keys[wanted], 2 * K)
        recalls = recall_at_k(ids, shard.ids[wanted][right], right_scores, most)
        assert recalls.mean() >= 0.95


def test_rows_far_from_the_query_are_found_all_the_same(tuned):
    """A filter that goes with the place in space: nothing near the query is allowed."""
    shard, keys = tuned
    queries = keys[:20]
    far = np.argsort(keys @ queries.mean(axis=0))[: ROWS // 2]
    ids, _, _ = Lookup(shard).search(queries, K, allowed=Allowed(shard.ids[far]))
    assert np.isin(ids, shard.ids[far]).all()


def test_own_images_are_left_out_of_allowed_rows(tuned):
    shard, keys = tuned
    asked = np.flatnonzero(~shard.removed)[:40]
    allowed = Allowed(shard.ids[: ROWS // 2])
    lookup = Lookup(shard)
    with_own, _, none = lookup.search(keys[asked], K, allowed=allowed)
    without, _, one = lookup.search(keys[asked], K, shard.content_keys[asked], allowed=allowed)
    assert (with_own[:, 0] == shard.ids[asked]).mean() > 0.9
    assert (without != shard.ids[asked][:, None]).all() and (without >= 0).all()
    assert not none.any() and (one == 1).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(64, 10**7), st.floats(1e-6, 1.0), st.integers(1, 10_000), st.integers(1, 2000), st.integers(1, 2000))
def test_longer_lists_are_no_longer_than_the_shard(rows, share, k, leaves, candidates):
    plan = planner.plan_shard(max(rows, 3000), 64)
    parameters = Parameters(min(leaves, plan.leaves), candidates, 32)
    wider, length = filtered.widened(parameters, share, k, plan, rows)
    assert min(k, rows) <= length <= rows and parameters.leaves_to_search <= wider.leaves_to_search <= plan.leaves
    assert length <= wider.candidates(length, rows) <= rows


def test_few_rows_are_scanned_and_many_are_not():
    plan, parameters = planner.plan_shard(1_000_000, 128), Parameters(60, 300, 100)

    def scanned(share: float, queries: int) -> bool:
        wider, length = filtered.widened(parameters, share, 100, plan, 1_000_000)
        return filtered.is_scanned(int(1e6 * share), queries, 100, wider, length, plan, 1_000_000)

    assert scanned(0.001, 1) and scanned(0.001, 1000) and scanned(0.01, 1000)
    assert not scanned(0.9, 1) and not scanned(0.9, 1000) and not scanned(0.5, 1000)


@pytest.mark.parametrize("ids", [np.zeros((2, 2), int), np.array([0.5]), ["a"], 3, np.array([True])])
def test_what_is_not_ids_is_refused(ids):
    with pytest.raises(UserError, match=r"^allowed: must be ids, whole numbers \[n\], not "):
        Allowed(ids)


def test_a_set_is_not_ids():
    with pytest.raises(UserError, match=r"^allowed: must be ids, whole numbers \[n\], not a set$"):
        Allowed({1, 2})


def test_long_lists_are_complete(tuned):
    """With leaves for ten neighbours a list of thousands would be short."""
    shard, keys = tuned
    queries, live = unit(5, DIM, seed=6, clusters=200), np.flatnonzero(~shard.removed)
    short, _ = shard.search(queries, 3000)
    assert (short < 0).any()
    right, right_scores = brute_force(queries, keys[live], 3100)
    for allowed in (Allowed(), None):
        ids, _, _ = Lookup(shard).search(queries, 3000, allowed=allowed)
        assert (ids >= 0).all() and recall_at_k(ids, shard.ids[live][right], right_scores, 3000).mean() > 0.95
        every, _, _ = Lookup(shard).search(queries, ROWS, allowed=allowed)
        assert (np.sort(every[:, : len(live)], axis=1) == shard.ids[live]).all() and (every[:, len(live) :] == -1).all()


def test_trial_queries_make_up_for_rows_that_are_far_apart():
    """Of tight clusters of 60 rows one row in ten is allowed: the others of a list of ten are in other clusters."""
    keys, engine = unit(ROWS, DIM, clusters=100), searcher.kind("scann")
    keys = keys[: ROWS // 60].repeat(60, axis=0) + 0.02 * np.random.default_rng(0).normal(size=(ROWS, DIM))
    keys = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)
    plan = engine.plan(ROWS, DIM, IndexConfig())
    parameters = Parameters(1, 40, K)
    built = engine.build(ArrayKeys(keys), plan).with_parameters(parameters)
    shard = Shard(built, np.arange(ROWS), images_of(range(ROWS)), np.zeros(ROWS, bool), plan, parameters)
    allowed, queries = np.random.default_rng(1).random(ROWS) < 0.1, keys[5:ROWS:61]
    right, right_scores = brute_force(queries, keys[allowed], 2 * K)
    recalls = {}
    for trial in (None, Asked(keys[::97])):
        lookup = Lookup(shard, lambda trial=trial: trial)
        ids, _, _ = lookup.search(queries, K, allowed=Allowed(np.flatnonzero(allowed)))
        recalls[trial is None] = recall_at_k(ids, np.flatnonzero(allowed)[right], right_scores, K).mean()
    assert recalls[False] >= 0.95 and recalls[False] >= recalls[True]


@pytest.fixture(scope="module")
def regions() -> tuple[Index, np.ndarray]:
    """An index of four regions, of which a query scans some of the leaves."""
    keys, engine = unit(4 * ROWS, DIM, clusters=300), searcher.kind("scann")
    router = routing.fit(keys, 4, 200, unit(200, DIM, seed=5, clusters=300), 1.0, K)
    point = Point(0.0, router.steps[-3], 100, 0.0, 0.0, {})
    parameters = Parameters(point.leaves, point.candidates, K)
    owners, plan = router.shard_of(keys, np.empty(0, "S32")), planner.plan_shard(ROWS, DIM)
    shards, records = [], []
    for number in range(4):
        mine, centres = np.flatnonzero(owners == number), router.leaves_of(number)
        planned = dataclasses.replace(plan, leaves=len(centres), sample_rows=len(mine), quantizer_rows=len(mine))
        built = engine.build(ArrayKeys(keys[mine]), planned, centres=centres).with_parameters(parameters)
        removed = np.zeros(len(mine), bool)
        shards.append(Shard(built, mine, images_of(mine.tolist()), removed, planned, parameters))
        setting = Setting(0.0, parameters, 1.0)
        records.append(ShardRecord(f"s{number}", len(mine), {}, "", "scann", planned, [setting], is_region=True))
    facts = {
        "fingerprint": "f",
        "version": 1,
        "key_encoder": dataclasses.asdict(EncoderInfo("e", DIM, True, "float32")),
        "memory": {"snapshot": "s"},
        "shards": [dataclasses.asdict(record) for record in records],
        "files": {},
        "regions": 4,
    }
    index = Index("nowhere", facts, point)
    index.__dict__["router"] = router
    index.loaded.update({number: Lookup(shard) for number, shard in enumerate(shards)})
    return index, keys


@pytest.mark.parametrize("share", [0.0002, 0.01, 0.1, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("is_scanned", [True, False, None])
def test_allowed_rows_of_regions(regions, monkeypatch, share, is_scanned):
    index, keys = regions
    if is_scanned is not None:
        monkeypatch.setattr(filtered, "is_scanned", lambda *_: is_scanned)
    wanted, queries = np.flatnonzero(np.random.default_rng(1).random(len(keys)) < share), unit(100, DIM, 6, 300)
    found = index.search(queries, K, allowed=wanted).ids
    most = min(K, len(wanted))
    assert np.isin(found[:, :most], wanted).all() and (found[:, most:] == -1).all()
    right, right_scores = brute_force(queries, keys[wanted], 2 * K)
    filtered_recall = recall_at_k(found, wanted[right], right_scores, most).mean()
    right, right_scores = brute_force(queries, keys, 2 * K)
    plain = recall_at_k(index.search(queries, K).ids, right, right_scores, K).mean()
    assert 0.9 < plain < 0.99 and filtered_recall >= plain - 0.01


def test_long_lists_of_regions_are_complete(regions):
    index, keys = regions
    queries = unit(5, DIM, seed=6, clusters=300)
    right, right_scores = brute_force(queries, keys, 3100)
    for allowed in (Allowed(), None):
        ids = index.search(queries, 3000, allowed=allowed).ids
        assert (ids >= 0).all() and recall_at_k(ids, right, right_scores, 3000).mean() > 0.95


def test_a_list_of_regions_is_short_only_if_they_have_no_more_rows(regions):
    index, keys = regions
    lookups, gone = dict(index.loaded), np.random.default_rng(3).random(len(keys)) < 0.998
    live = np.flatnonzero(~gone)
    try:
        for number, one in lookups.items():
            shard = one._shard
            index.loaded[number] = Lookup(dataclasses.replace(shard, removed=gone[shard.ids]))
        index.__dict__["_tombstones"] = {f"s{n}": np.flatnonzero(gone[one._shard.ids]) for n, one in lookups.items()}
        queries = unit(40, DIM, seed=6, clusters=300)
        for k in (K, len(live) + 5):
            hits, most = index.search(queries, k), min(k, len(live))
            assert np.isin(hits.ids[:, :most], live).all() and (hits.ids[:, most:] == -1).all()
        right, _ = brute_force(queries, keys[live], most)
        np.testing.assert_array_equal(np.sort(hits.ids[:, :most], axis=1), np.sort(live[right], axis=1))
    finally:
        index.loaded.update(lookups)
        del index.__dict__["_tombstones"]
