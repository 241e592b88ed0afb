"""Search over any layout of shards against brute force over all rows."""

import copy
import dataclasses
import json
import pickle
import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.building import build_job, publication
from index.building.claim import claim_build
from index.engines.exact import ExactSearcher
from index.engines.planner import NO_TREE, Parameters
from index.store import index_manifest, reader, routing, shard_store
from index.store.filtered import Allowed
from index.store.lookup import Lookup
from index.store.reader import Index
from index.store.records import Point, Setting, ShardRecord
from index.store.routing import Router
from index.store.shard_store import Shard
from pipelines import options, schemas, storage
from pipelines.errors import UserError
from pipelines.runner import Runner
from tests.world import DIM, KEY, World, brute_force, everywhere, snapshot, unit

SIZES = {"max_examples": 60, "deadline": None}
IMAGES = np.array([bytes([i + 1]) * 32 for i in range(12)], "S32")


def integers(rows: int, seed: int) -> np.ndarray:
    """Returns keys of few whole numbers: there are ties, and no sum is ever rounded."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, DIM)).astype(np.float32)


@dataclasses.dataclass
class Layout:
    """Rows dealt out to shards, some of them deltas, some rows removed, and the index over them."""

    keys: np.ndarray
    ids: np.ndarray
    images: np.ndarray
    owners: np.ndarray
    removed: np.ndarray
    deltas: np.ndarray
    router: Router
    index: Index


def layout(rows: int, regions: int, deltas: int, removed: float, seed: int) -> Layout:
    rng = np.random.default_rng(seed)
    keys, ids = integers(rows, seed), np.sort(rng.choice(10_000, rows, replace=False)).astype(np.int64)
    images, gone = IMAGES[rng.integers(len(IMAGES), size=rows)], rng.random(rows) < removed
    cells = regions + int(rng.integers(4))
    shares = np.full(cells, 1 / cells, np.float32)
    owned = rng.permutation(np.arange(cells) % regions).astype(np.int32)
    router = Router(integers(cells, seed + 1), owned, shares, regions)
    # Which of the shards are deltas is mixed: an index that was updated has them in any place.
    is_delta = rng.permutation(np.arange(regions + deltas) >= regions)
    places = np.empty(regions + deltas, np.int64)
    places[~is_delta], places[is_delta] = np.arange(regions), regions + np.arange(deltas)
    owners = router.shard_of(keys, images)
    later = rng.random(rows) < 0.3 * (deltas > 0)
    owners[later] = regions + rng.integers(max(deltas, 1), size=int(later.sum()))
    owners = np.argsort(places)[owners]
    records = [
        ShardRecord(
            f"s{n}",
            int((owners == n).sum()),
            {},
            "",
            "exact",
            NO_TREE,
            [Setting(1.0, Parameters(0, 1, 1), 1.0)],
            is_delta=bool(d),
            is_region=not d,
        )
        for n, d in enumerate(is_delta)
    ]
    facts = {
        "fingerprint": "f",
        "version": 1,
        "key_encoder": dataclasses.asdict(KEY),
        "memory": {"snapshot": "s"},
        "shards": [dataclasses.asdict(record) for record in records],
        "files": {},
        "regions": regions,
    }
    index = Index("nowhere", facts, Point(1.0, cells, 1, 0.0, 0.0, {}))
    index.__dict__["router"] = router
    for number in range(len(records)):
        mine = np.flatnonzero(owners == number)
        index.loaded[number] = Lookup(Shard(ExactSearcher(keys[mine]), ids[mine], images[mine], gone[mine]))
    return Layout(keys, ids, images, owners, gone, is_delta, router, index)


def expected(made: Layout, queries: np.ndarray, k: int, own: np.ndarray | None, visits: np.ndarray):
    """Returns ids and scores of brute force over the rows that a query may find."""
    ids, scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
    products = (queries @ made.keys.T).tolist()
    for q, row in enumerate(products):
        live = [
            (-score, int(id_))
            for score, id_, owner, gone, image in zip(
                row, made.ids, made.owners, made.removed, made.images, strict=True
            )
            if not gone and visits[q, owner] and (own is None or image != own[q])
        ]
        for place, (score, id_) in enumerate(sorted(live)[:k]):
            ids[q, place], scores[q, place] = id_, -score
    return ids, scores


@settings(**SIZES)
@given(
    rows=st.integers(0, 60),
    regions=st.integers(1, 6),
    deltas=st.integers(0, 3),
    removed=st.sampled_from([0.0, 0.2, 0.9, 1.0]),
    k=st.integers(1, 40),
    images=st.booleans(),
    seed=st.integers(0, 2**32 - 2),
)
def test_every_leaf_scanned_is_exact_search(rows, regions, deltas, removed, k, images, seed):
    made = layout(rows, regions, deltas, removed, seed)
    queries = integers(7, seed + 1)
    own = IMAGES[np.random.default_rng(seed + 1).integers(len(IMAGES), size=7)] if images else None
    hits = made.index.search(queries, k, own)
    ids, scores = expected(made, queries, k, own, np.ones((7, regions + deltas), bool))
    np.testing.assert_array_equal(hits.ids, ids)
    np.testing.assert_array_equal(hits.scores, scores)
    assert hits.ids.dtype == np.int64 and hits.scores.dtype == np.float32
    same = [
        0 if own is None else int(((made.images == image) & ~made.removed).sum())
        for image in (own if images else range(7))
    ]
    assert hits.excluded.tolist() == same


def test_lists_are_padded_but_not_without_end():
    made = layout(30, 3, 1, 0.1, 5)
    queries = integers(4, 6)
    hits, right = made.index.search(queries, 4096), made.index.search(queries, 30)
    np.testing.assert_array_equal(hits.ids[:, :30], right.ids)
    assert hits.ids.shape == (4, 4096) and (hits.ids[:, 30:] == -1).all() and (hits.scores[:, 30:] == -np.inf).all()
    asked = []
    for lookup in made.index.loaded.values():
        lookup.search = lambda q, k, own, search=lookup.search, **more: asked.append(k) or search(q, k, own, **more)
    made.index.search(queries, 4096)
    assert max(asked) == max(shard.rows for shard in made.index.shards)
    for k in (4097, 10**15, -1, 2.5, "3", None):
        with pytest.raises(UserError) as raised:
            made.index.search(queries, k)
        assert str(raised.value) == f"k={k!r}: must be a whole number from 0 to 4,096"
    assert made.index.search(queries, np.int64(3)).ids.shape == (4, 3)


@pytest.mark.parametrize("allowed", [None, np.arange(5000)])
def test_lists_of_no_rows(allowed):
    hits = layout(30, 3, 1, 0.1, 5).index.search(integers(4, 6), 0, IMAGES[:4], allowed=allowed)
    assert hits.ids.shape == hits.scores.shape == (4, 0) and hits.excluded.shape == (4,)


@settings(**SIZES)
@given(
    st.integers(0, 60),
    st.integers(1, 6),
    st.integers(0, 3),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(0, 2**32 - 2),
)
def test_fewer_leaves_are_exact_search_of_the_shards_visited(rows, regions, deltas, leaves, k, seed):
    made = layout(rows, regions, deltas, 0.1, seed)
    made.index.point = dataclasses.replace(made.index.point, leaves=leaves)
    queries = integers(7, seed + 1)
    visits = np.zeros((7, regions + deltas), bool)
    # What was added later has no region: everyone looks there.
    visits[:, made.deltas] = True
    sizes = np.bincount(made.owners, minlength=regions + deltas) > 0
    visits[:, ~made.deltas] = made.router.visits(queries, leaves).leaves > 0
    np.testing.assert_array_equal(made.index.visits(queries).leaves > 0, visits & sizes)
    # The index was tuned for lists of one row.
    visits[:, ~made.deltas] = made.router.visits(queries, leaves, k).leaves > 0
    # Regions that have too few rows are not enough.
    live = np.bincount(made.owners[~made.removed], minlength=regions + deltas) * ~made.deltas
    visits[(visits & sizes) @ live < k] |= ~made.deltas
    hits = made.index.search(queries, k)
    ids, scores = expected(made, queries, k, None, visits)
    np.testing.assert_array_equal(hits.ids, ids)
    np.testing.assert_array_equal(hits.scores, scores)


def test_blocks_of_queries_do_not_matter(monkeypatch):
    made = layout(60, 4, 1, 0.1, 5)
    queries, own = integers(50, 6), IMAGES[np.arange(50) % len(IMAGES)]
    whole = made.index.search(queries, 6, own)
    monkeypatch.setattr(reader, "BLOCK_QUERIES", 7)
    for left, right in zip(
        dataclasses.astuple(made.index.search(queries, 6, own)), dataclasses.astuple(whole), strict=True
    ):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("queries", [np.zeros((3, DIM + 1)), np.zeros(DIM), np.zeros((2, 2, DIM)), np.zeros((0, 1))])
def test_queries_of_another_shape(queries):
    with pytest.raises(UserError, match=r"^queries: must be vectors of shape \[n, 12\], not \["):
        layout(9, 1, 0, 0, 0).index.search(queries, 3)


@pytest.mark.parametrize("allowed", [None, np.arange(5000)])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (np.nan, "queries: row 2 has a value that is not finite as float32"),
        (-np.inf, "queries: row 2 has a value that is not finite as float32"),
        (1e39, "queries: row 2 has a value that is not finite as float32"),
        (1e13, "queries: row 2 has a length above 1e+12; scale the vectors, or let them be normalised"),
    ],
)
def test_queries_without_dot_products(allowed, value, sentence):
    queries = integers(4, 6).astype(np.float64)
    queries[2, 3], queries[3, 0] = value, np.nan
    with pytest.raises(UserError) as raised:
        layout(30, 3, 1, 0.1, 5).index.search(queries, 3, allowed=allowed)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("queries", "found"),
    [
        (np.ones((2, DIM), np.int8), "int8"),
        (np.ones((2, DIM), bool), "bool"),
        (np.ones((2, DIM), complex), "complex128"),
        (np.ones((2, DIM), np.longdouble), str(np.dtype(np.longdouble))),
        (np.full((2, DIM), "1"), "<U1"),
        (np.ones((2, DIM), object), "object"),
    ],
)
def test_queries_of_other_types(queries, found):
    with pytest.raises(UserError) as raised:
        layout(9, 1, 0, 0, 0).index.search(queries, 3)
    assert str(raised.value) == f"queries: must be of float16, float32 or float64, not {found}"


@pytest.mark.parametrize("images", [IMAGES[:3], IMAGES[:5], [b"x"], ["x"] * 4, [None] * 4, [b"x" * 33] * 4, 3])
def test_images_that_are_no_content_keys_of_the_queries(images):
    with pytest.raises(UserError, match=r"^images: must be content keys, 32 bytes each, of shape \[4\], not "):
        layout(9, 1, 0, 0, 0).index.search(integers(4, 6), 3, images)


def test_an_open_index_is_not_pickled():
    sentence = "^an open index cannot be pickled; save it, and open its folder in each process$"
    for work in (pickle.dumps, copy.copy):
        with pytest.raises(UserError, match=sentence):
            work(layout(9, 1, 0, 0, 0).index)


def test_no_queries():
    hits = layout(9, 2, 0, 0, 0).index.search(np.zeros((0, DIM), np.float32), 3)
    assert hits.ids.shape == hits.scores.shape == (0, 3) and hits.excluded.shape == (0,)


def exactly(folder: object) -> Index:
    """Opens an index so that every shard is visited."""
    return everywhere(Index.open(str(folder)))


@pytest.mark.parametrize("sharding", ["routed", "hash"])
def test_one_shard_or_seven_find_the_same(tmp_path, sharding):
    queries = unit(40, seed=3)
    found = {}
    for shards in (1, 7):
        world = World(tmp_path / str(shards)).write()
        assert world.build(f"--config.index.shards={shards}", f"--config.index.sharding={sharding}") == 0
        index = exactly(world.index)
        assert (index.rows, len(index.shards)) == (400, shards)
        found[shards] = index.search(queries, 30), index.search(world.keys[:40], 30, np.array(world.images[:40], "S32"))
    for one, seven in zip(found[1], found[7], strict=True):
        for left, right in zip(dataclasses.astuple(one), dataclasses.astuple(seven), strict=True):
            np.testing.assert_array_equal(left, right)
    rows, scores = brute_force(queries, world.keys, 30)
    np.testing.assert_array_equal(found[7][0].ids, world.ids[rows])
    np.testing.assert_array_equal(found[7][0].scores, scores)
    assert (found[7][1].excluded == 1).all() and (found[7][1].ids != world.ids[:40, None]).all()


@pytest.mark.parametrize("sharding", ["routed", "hash"])
def test_every_row_is_in_one_shard_of_about_the_same_size(tmp_path, sharding):
    world = World(tmp_path, rows=4000).write()
    assert world.build("--config.index.shards=5", f"--config.index.sharding={sharding}") == 0
    index = Index.open(str(world.index))
    loaded = [index.load(number) for number in range(5)]
    np.testing.assert_array_equal(np.sort(np.concatenate([shard.ids for shard in loaded])), world.ids)
    sizes = [len(shard.ids) for shard in loaded]
    assert sizes == [record.rows for record in index.shards]
    # Regions are cut by 16 cells a shard, fifteen clumps of rows are few for 80 cells.
    assert max(sizes) < (1.3 if sharding == "routed" else 1.1) * 800
    images = dict(zip(world.ids.tolist(), world.images, strict=True))
    for shard in loaded:
        assert shard.content_keys.tobytes() == b"".join(images[id_] for id_ in shard.ids.tolist())
        assert (np.diff(shard.ids) > 0).all()


def test_an_opened_index_goes_on_while_another_version_is_built(world: World):
    assert world.build() == 0
    opened, queries = Index.open(str(world.index)), unit(20, seed=4)
    right, before = Index.open(str(world.index)).search(queries, 9), snapshot(world.index)
    config = options.load(str(world.config_file))
    failed: list[BaseException] = []

    def build_again() -> None:
        try:
            job = claim_build(config.places, config.index, config.seed, number=2)
            build_job.build_missing(job, Runner(["--runner=FnApiRunner"]))
            publication.publish(job)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=build_again)
    thread.start()
    searched = 0
    while thread.is_alive() or searched < 3:
        # What stays loaded is no proof: every time a reader of its own, of the version that was opened.
        index = Index(opened.folder, opened.facts, opened.point)
        hits = index.search(queries, 9)
        np.testing.assert_array_equal(hits.ids, right.ids)
        np.testing.assert_array_equal(hits.scores, right.scores)
        searched += 1
    thread.join()
    assert not failed
    newer = Index.open(str(world.index))
    assert (opened.version, newer.version) == (1, 2)
    np.testing.assert_array_equal(newer.search(queries, 9).ids, right.ids)
    after = snapshot(world.index)
    assert {name for name in before if after.get(name) != before[name]} == {"manifest.json"}


def test_removed_rows_and_deltas_as_an_update_writes_them(world: World):
    """A version by hand, through the contracts: rows of one shard are removed, another shard is a delta."""
    assert world.build() == 0
    facts = index_manifest.read(str(world.index))
    index = Index.open(str(world.index))
    gone = index.load(1).ids[[0, 7]]
    table = pa.table(
        {
            "shard": [facts["shards"][1]["path"]] * 2,
            "row": pa.array([0, 7], pa.int64()),
            "id": pa.array(gone, pa.int64()),
            "content_key": pa.array([b"\1" * 32] * 2, pa.binary(32)),
        }
    )
    path = storage.join(str(world.index), "builds/00002/tombstones.parquet")
    schemas.write(path, table, {"config_hash": facts["config_hash"]})
    kept = {name: value for name, value in facts.items() if name not in ("fingerprint", "rates")}
    kept["files"] = {**facts["files"], "builds/00002/tombstones.parquet": shard_store.file_facts(path)}
    index_manifest.write(str(world.index), {**kept, "version": 2}, {})
    newer = exactly(world.index)
    assert (newer.version, newer.rows) == (2, 398)
    assert [len(newer.removed(number)) for number in range(3)] == [0, 2, 0]
    live = ~np.isin(world.ids, gone)
    queries = unit(30, seed=2)
    rows, scores = brute_force(queries, world.keys[live], 12)
    hits = newer.search(queries, 12)
    np.testing.assert_array_equal(hits.ids, world.ids[live][rows])
    np.testing.assert_array_equal(hits.scores, scores)


def test_manifest_without_a_field(world: World):
    assert world.build() == 0
    facts = json.loads((world.index / "manifest.json").read_text())
    for field in ("version", "key_encoder", "shards", "files", "regions", "memory"):
        less = {name: value for name, value in facts.items() if name != field}
        with pytest.raises(UserError, match="manifest.json: is not a manifest of this version"):
            Index(str(world.index), less, Point(1.0, 0, 0, 0.0, 0.0, {}))


def test_router_of_an_index_without_regions(world: World):
    assert world.build("--config.index.sharding=hash") == 0
    index = Index.open(str(world.index))
    assert index.point.leaves == 0 and not (world.index / "builds/00001/router.parquet").exists()
    np.testing.assert_array_equal(index.router.centres, routing.without_regions(3, DIM).centres)
    assert index.visits(unit(4)).leaves.all()


@settings(**SIZES)
@given(
    rows=st.integers(0, 60),
    regions=st.integers(1, 6),
    deltas=st.integers(0, 3),
    removed=st.sampled_from([0.0, 0.2, 0.9]),
    share=st.sampled_from([0.0, 0.05, 0.3, 0.9, 1.0]),
    leaves=st.integers(1, 10),
    k=st.integers(1, 40),
    images=st.booleans(),
    seed=st.integers(0, 2**32 - 2),
)
def test_allowed_rows(rows, regions, deltas, removed, share, leaves, k, images, seed):
    made = layout(rows, regions, deltas, removed, seed)
    queries, rng = integers(7, seed + 1), np.random.default_rng(seed + 2)
    own = IMAGES[rng.integers(len(IMAGES), size=7)] if images else None
    allowed = rng.random(rows) < share
    only = dataclasses.replace(made, removed=made.removed | ~allowed)
    everywhere = expected(only, queries, k, own, np.ones((7, regions + deltas), bool))
    made.index.point = dataclasses.replace(made.index.point, leaves=leaves)
    hits = made.index.search(queries, k, own, allowed=rng.permutation(made.ids[allowed]))
    # However few regions a query visits first: the list is short only if there are no more rows.
    np.testing.assert_array_equal((hits.ids >= 0).sum(axis=1), (everywhere[0] >= 0).sum(axis=1))
    assert np.isin(hits.ids, [-1, *made.ids[allowed & ~made.removed]]).all()
    if leaves >= len(made.router.centres):
        np.testing.assert_array_equal(hits.ids, everywhere[0])
        np.testing.assert_array_equal(hits.scores, everywhere[1])


def test_every_row_allowed_loads_no_more_shards_than_are_visited():
    made = layout(60, 6, 0, 0.0, 5)
    made.index.point, loaded = dataclasses.replace(made.index.point, leaves=1), dict(made.index.loaded)
    visited: set[int] = set()
    made.index.lookup = lambda number: visited.add(number) or loaded[number]
    few = int((made.index.visits(integers(1, 9)).leaves > 0).sum())
    hits = made.index.search(integers(1, 9), 1, allowed=Allowed())
    assert len(visited) == few < 6 and (hits.ids >= 0).all()
