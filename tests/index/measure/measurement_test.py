import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.base import Index
from index.engines.exact import ExactSearcher
from index.engines.planner import NO_TREE, Parameters
from index.measure import measurement
from index.measure.measurement import Queries, Region
from index.store import keys
from index.store.records import Found, ShardLists
from index.store.routing import Router
from pipelines.manifest import Embeddings
from tests.world import DIM, KEY, World, brute_force, unit


def test_queries_are_drawn_without_replacement(world: World):
    memory = Embeddings(f"{world.folder}/memory")
    drawn = measurement.draw_queries(memory, True, 101, 0)
    assert (len(drawn.keys), drawn.tuning, drawn.of_memory) == (101, 50, True)
    places = np.searchsorted(world.ids, drawn.own_ids)
    assert len(set(places)) == 101
    np.testing.assert_array_equal(drawn.keys, world.keys[places])
    # From all of it, and the halves are not two ends of the memory.
    assert set(places // 134) == {0, 1, 2} and abs(places[:50].mean() - places[50:].mean()) < 80
    again, other = (measurement.draw_queries(memory, True, 101, seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.own_ids, drawn.own_ids)
    assert set(other.own_ids) != set(drawn.own_ids)


def test_queries_of_a_split_are_no_rows_of_the_memory(world: World):
    drawn = measurement.draw_queries(Embeddings(f"{world.folder}/queries/val"), False, 1000, 0)
    assert (len(drawn.keys), drawn.tuning, drawn.of_memory) == (60, 30, False)
    assert (drawn.own_ids == -1).all()
    np.testing.assert_array_equal(np.sort(drawn.keys, 0), np.sort(world.queries["val"], 0))


@pytest.mark.parametrize("of_memory", [True, False])
def test_queries_as_a_table(of_memory):
    own_ids = np.arange(7) << 40 if of_memory else np.full(7, -1)
    queries = Queries(unit(7), own_ids.astype(np.int64), 3, of_memory)
    again = Queries.from_table(queries.to_table())
    np.testing.assert_array_equal(again.keys, queries.keys)
    np.testing.assert_array_equal(again.own_ids, queries.own_ids)
    assert (again.tuning, again.of_memory) == (3, of_memory)


def test_lists_as_tables():
    rng = np.random.default_rng(0)
    exact = rng.integers(0, 99, (5, 4)), rng.random((5, 4), np.float32)
    inf = -np.inf
    found = [
        Found(np.array([0, 3]), np.array([[7, 5], [9, -1]]), np.array([[0.9, 0.5], [0.4, inf]], np.float32)),
        Found(np.array([1, 3]), np.array([[5, 6], [8, 9]]), np.array([[0.7, 0.7], [0.8, 0.4]], np.float32)),
        Found(np.empty(0, np.int64), np.empty((0, 2), np.int64), np.empty((0, 2), np.float32)),
        Found(np.array([0]), np.array([[7, 3]]), np.array([[0.9, 0.3]], np.float32)),
    ]
    lists = ShardLists(exact, found)
    # Each row that some setting finds for a query is written once.
    assert lists.found_table().num_rows == 7
    again = ShardLists.from_tables(lists.exact_table(), lists.found_table(), 4, 2)
    for mine, theirs in zip(
        (exact, *map(dataclasses.astuple, found)), (again.exact, *map(dataclasses.astuple, again.found)), strict=True
    ):
        for values, right in zip(theirs, mine, strict=True):
            np.testing.assert_array_equal(values, right)
            assert values.dtype == right.dtype


def stream_of(vectors: np.ndarray, chunk: int) -> keys.KeyStream:
    """Returns a stream that comes in chunks of a few rows."""

    class Chunked(keys.KeyStream):
        def chunks(self):
            yield from (vectors[i : i + chunk] for i in range(0, len(vectors), chunk))

    return Chunked(len(vectors), KEY, "here", lambda columns: iter(()))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 60), st.integers(1, 25), st.integers(1, 12), st.booleans(), st.integers(0, 2**32 - 1))
def test_exact_lists_are_those_of_brute_force(rows, chunk, depth, of_memory, seed):
    rng = np.random.default_rng(seed)
    vectors = unit(rows, seed=seed)
    ids = np.sort(rng.choice(1000, rows, replace=False)).astype(np.int64)
    # Half of the queries are rows of the shard, the others of no shard or another.
    own = rng.integers(0, rows, 9) if rows and of_memory else np.zeros(0, np.int64)
    asked = np.concatenate([vectors[own], unit(9, seed=seed + 1)])
    own_ids = np.concatenate([ids[own], np.full(9, 5000 if of_memory else -1)]).astype(np.int64)
    queries = Queries(asked, own_ids, len(asked) // 2, of_memory)
    found, scores = measurement.exact_lists(stream_of(vectors, chunk), ids, queries, depth)
    right, right_scores = brute_force(asked, vectors, rows)
    assert found.shape == scores.shape == (len(asked), depth)
    for query in range(len(asked)):
        order = [(ids[row], score) for row, score in zip(right[query], right_scores[query], strict=True)]
        kept = [(id_, score) for id_, score in order if id_ != own_ids[query]][:depth]
        padding = depth - len(kept)
        assert found[query].tolist() == [id_ for id_, _ in kept] + [-1] * padding
        np.testing.assert_array_equal(scores[query], [score for _, score in kept] + [-np.inf] * padding)


def test_only_queries_that_visit_a_region_are_searched():
    vectors, ids = unit(50), np.arange(50, dtype=np.int64)
    queries = Queries(unit(9, seed=2), np.full(9, -1, np.int64), 4, False)
    centres = vectors[:6]
    router = Router(centres, np.array([0, 1, 1, 0, 1, 1], np.int32), np.full(6, 1 / 6, np.float32), 2)
    parameters = [Parameters(1, 9, 5), Parameters(6, 9, 5)]
    settings_, lists, secs = measurement.measure_shard(
        ExactSearcher(vectors),
        stream_of(vectors, 20),
        ids,
        NO_TREE,
        queries,
        Index(searcher="exact", k=5),
        Region(router, 0, parameters),
    )
    assert [setting.parameters for setting in settings_] == parameters
    right, scores = brute_force(queries.keys, vectors, 10)
    near = np.flatnonzero(np.isin((queries.keys @ centres.T).argmax(axis=1), [0, 3]))
    assert 0 < len(near) < 9
    for found, visiting in zip(lists.found, (near, np.arange(9)), strict=True):
        np.testing.assert_array_equal(found.queries, visiting)
        np.testing.assert_array_equal(found.ids, right[visiting, :5])
        np.testing.assert_array_equal(found.scores, scores[visiting, :5])
    np.testing.assert_array_equal(lists.exact[0], right)
    assert len(secs["search"]) == 2 and all(len(secs[name]) == 1 for name in ("tune", "exact"))


def test_a_shard_without_rows():
    queries = Queries(unit(6), np.full(6, -1, np.int64), 3, False)
    empty = np.empty((0, DIM), np.float32)
    settings_, lists, _ = measurement.measure_shard(
        ExactSearcher(empty), stream_of(empty, 1), np.empty(0, np.int64), NO_TREE, queries, Index(searcher="exact", k=3)
    )
    assert len(settings_) == 1 and settings_[0].parameters == Parameters(0, 0, 3)
    assert (lists.exact[0] == -1).all() and (lists.found[0].ids == -1).all()
