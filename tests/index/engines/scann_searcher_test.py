import ctypes
import dataclasses
import hashlib
import itertools
import os
import pathlib
import shutil
import sys
import threading

import numpy as np
import pytest

from benchmarks import index_data
from configs.base import Index
from configs.schema.search import PRECISIONS
from index.engines import kept_keys, scann_coder, scann_searcher, searcher
from index.engines.planner import NO_TREE, Parameters, full_search, plan_shard
from index.engines.searcher import ArrayKeys
from index.measure.recall import recall_at_k
from pipelines.errors import UserError
from tests.world import brute_force, unit

ROWS, K = 3000, 10
PLAN = scann_searcher.plan(ROWS, 33, Index(leaves=40, reorder="float32"))


@pytest.fixture(scope="module")
def keys() -> np.ndarray:
    return unit(ROWS, dim=33)


@pytest.fixture(scope="module")
def engine(keys: np.ndarray) -> scann_searcher.ScannSearcher:
    return scann_searcher.build(ArrayKeys(keys), PLAN)


def recall(engine, keys, queries, k=K) -> float:
    right, scores = brute_force(queries, keys, 2 * k)
    return float(recall_at_k(engine.search(queries, k)[0], right, scores, k).mean())


def test_full_search_finds_what_brute_force_finds(engine, keys):
    queries = unit(100, dim=33, seed=1)
    rows, scores = engine.search(queries, K)
    right, right_scores = brute_force(queries, keys, K)
    assert (rows == right).mean() > 0.999
    # ScaNN sums in float32: not the exactly rounded score, but within a few units of its last place.
    assert np.abs(scores - right_scores).max() < 5e-7
    assert (np.diff(scores) <= 0).all()
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)


def test_parameters_trade_recall(engine, keys):
    queries = unit(200, dim=33, seed=1)
    recalls = [
        recall(engine.with_parameters(Parameters(leaves, reorder, K)), keys, queries)
        for leaves, reorder in [(1, 10), (8, 20), (40, ROWS)]
    ]
    assert recalls[0] < recalls[1] < recalls[2]
    assert recalls[2] == 1


def test_longer_lists_than_tuned_for_are_full(engine):
    tuned = engine.with_parameters(Parameters(40, 10, K))
    rows, scores = tuned.search(unit(5, dim=33, seed=1), 50)
    assert (rows >= 0).all() and np.isfinite(scores).all()


def test_short_lists_are_padded(engine):
    rows, scores = engine.with_parameters(Parameters(1, ROWS, K)).search(unit(5, dim=33, seed=1), 2000)
    valid = rows >= 0
    assert 0 < valid.sum() < valid.size
    np.testing.assert_array_equal(np.isfinite(scores), valid)
    assert (np.diff(valid.astype(int), axis=1) <= 0).all()
    for row, real in zip(rows, valid, strict=True):
        assert len(np.unique(row[real])) == real.sum()


@pytest.mark.parametrize("rows", [1, 2, 63])
def test_tiny_shards(rows, tmp_path):
    keys, queries = unit(rows), unit(4, seed=1)
    built = scann_searcher.build(ArrayKeys(keys), scann_searcher.plan(rows, 12, Index()))
    built.save(str(tmp_path))
    loaded = scann_searcher.load(str(tmp_path), NO_TREE)
    for engine in (built, loaded, loaded.with_parameters(full_search(NO_TREE, rows, 5))):
        found, scores = engine.search(queries, 70)
        np.testing.assert_array_equal(found[:, :rows], brute_force(queries, keys, 70)[0])
        assert (found[:, rows:] == -1).all() and (scores[:, rows:] == -np.inf).all()
    assert loaded.search(queries[:0], 3)[0].shape == (0, 3)


def test_saved_searcher_can_be_moved_and_named_relatively(engine, keys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("here/deep").mkdir(parents=True)
    engine.save("here/deep")
    assert str(tmp_path) not in pathlib.Path("here/deep/scann_assets.pbtxt").read_text()
    shutil.move("here/deep", "there")
    queries = unit(20, dim=33, seed=1)
    loaded = scann_searcher.load("there", PLAN)
    for found, right in zip(loaded.search(queries, K), engine.search(queries, K), strict=True):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("dim", [33, 512, 600, 1280])
def test_leaves_share_a_list_of_candidates_at_any_width(dim, tmp_path):
    keys, queries = unit(500, dim=dim), unit(20, dim=dim, seed=1)
    plan = scann_searcher.plan(len(keys), dim, Index(leaves=20, reorder="float32"))
    scann_searcher.build(ArrayKeys(keys), plan).save(str(tmp_path))
    from scann.proto.scann_pb2 import ScannConfig

    config = ScannConfig.FromString((tmp_path / "scann_config.pb").read_bytes())
    assert config.hash.asymmetric_hash.use_global_topn
    found = scann_searcher.load(str(tmp_path), plan).search(queries, K)[0]
    assert (found == brute_force(queries, keys, K)[0]).mean() > 0.999


def test_two_builds_give_the_same_bytes(engine, keys, tmp_path):
    again = scann_searcher.build(ArrayKeys(keys), PLAN)
    contents = []
    for name, built in (("a", engine), ("b", again)):
        folder = tmp_path / name
        folder.mkdir()
        built.save(str(folder))
        contents.append({f: hashlib.sha256((folder / f).read_bytes()).hexdigest() for f in os.listdir(folder)})
    assert contents[0] == contents[1] and len(contents[0]) >= 6


@pytest.mark.parametrize("pca_dims", [0, 16])
def test_chunks_do_not_show_and_keys_are_in_the_partition_that_scann_would_choose(
    keys, tmp_path, monkeypatch, pca_dims
):
    plan = dataclasses.replace(plan_shard(ROWS, 33, 40), pca_dims=pca_dims)
    monkeypatch.setattr(searcher, "CHUNK_ROWS", 700)
    for name in ("joined", "work", "coded"):
        (tmp_path / name).mkdir()
    scann_coder.write(ArrayKeys(keys), plan, str(tmp_path / "joined"))
    # Partitions a few at a time, too, do not show.
    coder = scann_coder.Coder(keys, plan, str(tmp_path / "work"))
    whole = coder.code(keys, coder.leaves(keys))
    coder.leaves_at_a_time = 7
    for name, part in coder.code(keys, coder.leaves(keys)).items():
        np.testing.assert_array_equal(part, whole[name])
    coder.write_partitioner()
    np.save(tmp_path / "work" / "chunk.npy", keys)
    assets = scann_coder.assets_text({**scann_coder.TRAINED, **scann_coder.CHUNK})
    scann = scann_coder.library().scann_pybind.ScannNumpy(str(tmp_path / "work"), assets)
    scann.serialize(str(tmp_path / "coded"), True)
    rows_at = np.load(tmp_path / "joined" / "rows.npy")
    for name in ("datapoint_to_token.npy", "hashed_dataset.npy", "bfloat16_dataset.npy"):
        joined, by_scann = np.load(tmp_path / "joined" / name), np.load(tmp_path / "coded" / name)
        # Keys that are as near to two centres may go to either.
        assert (joined == by_scann[rows_at]).mean() > 0.999
        np.testing.assert_array_equal(joined, whole[name][rows_at])
    # In the order of the partitions, and of rows in each.
    tokens = np.load(tmp_path / "joined" / "datapoint_to_token.npy")
    np.testing.assert_array_equal(rows_at, np.lexsort((np.arange(ROWS), whole["datapoint_to_token.npy"])))
    assert (np.diff(tokens) >= 0).all()


@pytest.mark.parametrize(
    ("reorder", "least", "error"), [("float32", 1, 5e-7), ("bfloat16", 0.97, 4e-3), ("int8", 0.9, 2e-2)]
)
def test_precision_of_what_is_scored_anew(keys, reorder, least, error):
    plan = plan_shard(ROWS, 33, 40, reorder)
    found = scann_searcher.build(ArrayKeys(keys), plan)
    queries = unit(100, dim=33, seed=1)
    assert recall(found, keys, queries) >= least
    rows, scores = found.search(queries, K)
    assert np.abs(scores - np.einsum("qd,qkd->qk", queries, keys[rows])).max() < error


def on_disk(plan):
    return dataclasses.replace(plan, reorder_on="disk")


@pytest.mark.parametrize("reorder", PRECISIONS)
def test_keys_on_disk_find_what_keys_in_memory_find(keys, reorder, monkeypatch):
    plan, queries = plan_shard(ROWS, 33, 40, reorder), unit(100, dim=33, seed=1)
    # A few queries at a time.
    monkeypatch.setattr(kept_keys, "BATCH_BYTES", 40 * 25 * 33)
    in_memory, in_file = (scann_searcher.build(ArrayKeys(keys), each) for each in (plan, on_disk(plan)))
    for parameters in (Parameters(6, 25, K), Parameters(1, ROWS, K), full_search(plan, ROWS, K)):
        left, right = in_memory.with_parameters(parameters), in_file.with_parameters(parameters)
        for more in (0, 20):
            rows, scores = right.search(queries, K, more)
            others, other_scores = left.search(queries, K, more)
            # Where two scores differ by less than their rounding, rows may change places.
            assert (rows == others).mean() > 0.999 and (rows.dtype, scores.dtype) == (np.int64, np.float32)
            np.testing.assert_array_equal(np.isfinite(scores), np.isfinite(other_scores))
            assert np.abs(scores[rows >= 0] - other_scores[rows >= 0]).max() < 5e-7
    assert recall(right, keys, queries) >= {"float32": 1, "bfloat16": 0.97, "int8": 0.9}[reorder]


def test_keys_on_disk_are_the_same_bytes_and_not_loaded_by_scann(engine, keys, tmp_path):
    built = scann_searcher.build(ArrayKeys(keys), on_disk(PLAN))
    for name, each in (("memory", engine), ("disk", built)):
        each.save(str(tmp_path / name))
    same = [name for name in os.listdir(tmp_path / "memory") if name not in ("scann_assets.pbtxt", "scann_config.pb")]
    assert sorted(os.listdir(tmp_path / "disk")) == sorted(os.listdir(tmp_path / "memory"))
    for name in same:
        assert (tmp_path / "disk" / name).read_bytes() == (tmp_path / "memory" / name).read_bytes()
    shutil.move(tmp_path / "disk" / "dataset.npy", tmp_path / "aside.npy")
    with pytest.raises(UserError, match="dataset.npy"):
        scann_searcher.load(str(tmp_path / "disk"), on_disk(PLAN))
    shutil.move(tmp_path / "aside.npy", tmp_path / "disk" / "dataset.npy")
    loaded, queries = scann_searcher.load(str(tmp_path / "disk"), on_disk(PLAN)), unit(20, dim=33, seed=1)
    for threads in (0, 1):
        for found, right in zip(loaded.with_threads(threads).search(queries, K), built.search(queries, K), strict=True):
            np.testing.assert_array_equal(found, right)


def test_trained_on_a_sample_it_finds_as_much(engine, keys):
    sampled = scann_searcher.build(ArrayKeys(keys), dataclasses.replace(PLAN, sample_rows=2000))
    queries, parameters = unit(200, dim=33, seed=1), Parameters(8, 20, K)
    of_all = recall(engine.with_parameters(parameters), keys, queries)
    assert abs(recall(sampled.with_parameters(parameters), keys, queries) - of_all) < 0.03


@pytest.mark.slow
def test_built_in_chunks_it_finds_as_much_as_what_scann_builds_at_once(monkeypatch):
    keys, queries = index_data.clustered(20_000, 2000, 64)
    plan = plan_shard(len(keys), 64)
    scann = scann_coder.library()
    builder = scann.builder(keys, K, "dot_product")
    builder = builder.tree(plan.leaves, 1, training_sample_size=len(keys), min_partition_size=1)
    builder = builder.score_ah(plan.dims_per_block, scann_coder.ANISOTROPIC_THRESHOLD)
    once = builder.reorder(K, quantize=scann.scann_builder.ReorderType.BFLOAT16).build()
    monkeypatch.setattr(searcher, "CHUNK_ROWS", 3000)
    chunked = scann_searcher.build(ArrayKeys(keys), plan)
    for parameters in (Parameters(4, 20, K), Parameters(12, 40, K), Parameters(40, 80, K)):
        others = dataclasses.replace(chunked, scann=once, parameters=parameters)
        ours = recall(chunked.with_parameters(parameters), keys, queries)
        assert ours > recall(others, keys, queries) - 0.005
    assert ours > 0.95


@pytest.mark.slow
def test_codes_of_unequal_width_in_the_principal_axes_need_fewer_candidates():
    keys, queries = index_data.clustered(20_000, 1000, 64)
    plan, recalls = plan_shard(len(keys), 64), []
    for pca_dims in (0, plan.pca_dims):
        built = scann_searcher.build(ArrayKeys(keys), dataclasses.replace(plan, pca_dims=pca_dims))
        recalls.append(recall(built.with_parameters(Parameters(plan.leaves, 20, K)), keys, queries))
    assert recalls[1] > recalls[0] + 0.003


def test_places_after_k_do_not_change_those_before(keys):
    doubled = np.concatenate([keys, keys[:1000]])
    found = scann_searcher.build(ArrayKeys(doubled), plan_shard(4000, 33, 40))
    found = found.with_parameters(Parameters(6, 25, K))
    queries = unit(100, dim=33, seed=1)
    rows, scores = found.search(queries, K)
    for more in (1, 7, 15, 40):
        longer = found.search(queries, K, more)
        assert longer[0].shape == (100, K + more)
        np.testing.assert_array_equal(longer[0][:, :K], rows)
        np.testing.assert_array_equal(longer[1][:, :K], scores)
        assert (longer[0][:, 25:] == -1).all()
    assert (found.search(queries, K, 15)[0] >= 0).all()


def test_one_thread_finds_what_all_find(engine):
    tuned, queries = engine.with_parameters(Parameters(8, 20, K)), unit(700, dim=33, seed=1)
    for found, right in zip(tuned.with_threads(1).search(queries, K), tuned.search(queries, K), strict=True):
        np.testing.assert_array_equal(found, right)


def test_overlapping_builds_keep_standard_error():
    kept, before = os.dup(2), os.fstat(2)
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with scann_coder.quiet():
            entered.set()
            left.wait()

    thread = threading.Thread(target=other)
    try:
        with scann_coder.quiet():
            thread.start()
            assert not entered.wait(0.1)
        left.set()
        thread.join()
        assert os.path.samestat(os.fstat(2), before)
    finally:
        left.set()
        os.dup2(kept, 2)
        os.close(kept)


def test_processor_without_avx(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nflags\t\t: fpu sse sse2 avxnot\nbugs\t\t: avx\n")
    monkeypatch.setattr(scann_coder, "CPU_INFO", str(info))
    with pytest.raises(UserError, match="AVX.*--config.index.searcher=exact"):
        scann_searcher.build(ArrayKeys(unit(5)), NO_TREE)
    info.write_text("processor\t: 0\nflags\t\t: fpu sse sse2 avx\n")
    assert scann_searcher.build(ArrayKeys(unit(5)), NO_TREE).search(unit(1), 1)[0].shape == (1, 1)


def test_kernels_are_switched_on_where_the_processor_has_them_and_find_the_same(engine, tmp_path, monkeypatch):
    binding = ctypes.CDLL(scann_coder.library().scann_pybind.__file__)
    switches = [ctypes.c_bool.in_dll(binding, name) for name in scann_coder.SWITCHES]
    as_here = [switch.value for switch in switches]
    needed = list(itertools.accumulate(scann_coder.SWITCHES.values(), set.union))
    tuned, queries, found = engine.with_parameters(Parameters(8, 20, K)), unit(200, dim=33, seed=1), []
    here = scann_coder.processor_flags() or set()
    for number, flags in enumerate([{"avx2"}, *needed]):
        info = tmp_path / "cpuinfo"
        info.write_text(f"flags\t\t: fpu avx {' '.join(sorted(flags))}\n")
        monkeypatch.setattr(scann_coder, "CPU_INFO", str(info))
        scann_coder.turn_on.cache_clear()
        for switch in switches:
            switch.value = False
        scann_coder.library()
        assert [switch.value for switch in switches] == [True] * number + [False] * (len(switches) - number)
        if not number or flags <= here:
            found.append(tuned.search(queries, K))
    # A kernel that this processor lacks would end the process in the next search.
    scann_coder.turn_on.cache_clear()
    monkeypatch.undo()
    for switch in switches:
        switch.value = False
    scann_coder.library()
    assert [switch.value for switch in switches] == as_here
    for (rows, scores), (others, other_scores) in itertools.combinations(found, 2):
        assert (rows == others).mean() > 0.999
        assert np.abs(scores - other_scores).max() < 5e-7


def test_scann_that_cannot_be_imported(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("scann.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="ScaNN cannot be imported.*--config.index.searcher=exact"):
        scann_searcher.build(ArrayKeys(unit(5)), NO_TREE)


def test_folder_that_is_no_index(tmp_path):
    (tmp_path / "scann_assets.pbtxt").write_text("nonsense {")
    with pytest.raises(UserError, match="ScaNN does not read this index"):
        scann_searcher.load(str(tmp_path), NO_TREE)


def test_given_centres_are_the_leaves(keys):
    """A shard with some leaves of a whole index finds what the whole index finds in them."""
    centres = unit(12, dim=33, seed=5)
    plan = dataclasses.replace(PLAN, leaves=12)
    built = scann_searcher.build(ArrayKeys(keys), plan, centres=centres)
    queries = unit(50, dim=33, seed=1)
    leaf = np.argmax(keys @ centres.T, axis=1)
    near = np.argsort(-(queries @ centres.T), axis=1)
    scanned = np.arange(50) % 12 + 1
    # Counts above six are rounded up to eight and twelve, so that queries are searched in few groups.
    rounded = np.array([1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12])[scanned - 1]
    shares = np.ones(50, np.float32)
    asked = built.with_parameters(Parameters(12, ROWS, K))
    found, scores = asked.search(queries, ROWS, leaves=scanned, shares=shares)
    for query, (rows, count) in enumerate(zip(found, rounded, strict=True)):
        inside = np.flatnonzero(np.isin(leaf, near[query, :count]))
        assert set(rows[rows >= 0]) == set(inside)
    alone = [asked.search(queries[[q]], ROWS, leaves=scanned[[q]], shares=shares[[q]]) for q in range(50)]
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in alone]), found)
    np.testing.assert_array_equal(np.concatenate([values for _, values in alone]), scores)


def test_a_share_of_the_candidates_is_scored(engine):
    tuned, queries = engine.with_parameters(Parameters(40, 100, K)), unit(30, dim=33, seed=1)
    leaves = np.full(30, 40)
    whole, _ = engine.with_parameters(Parameters(40, 1000, K)).search(queries, 500)
    for share, least, most in ((0.01, 4, 4), (0.25, 40, 63), (1.0, 130, 195)):
        rows, _ = tuned.search(queries, K, more=490, leaves=leaves, shares=np.full(30, share, np.float32))
        counts = (rows >= 0).sum(axis=1)
        assert counts.min() >= least and counts.max() <= most
        # The first of them are nearly all right.
        assert np.mean([np.isin(a[:4], b[:30]).mean() for a, b in zip(rows, whole, strict=True)]) > 0.9
