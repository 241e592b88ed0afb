"""An index of an array, from the public door: built, searched, saved and opened by another process."""

import pathlib
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index import Index
from pipelines.errors import UserError
from tests.docs_test import example
from tests.world import REPOSITORY, brute_force, unit

ROWS, WIDTH = 4000, 24
# Lengths matter, and what is said of one that float32 has no dot products of.
DOTS, SCALE = {"normalise": False}, "scale the vectors, or let them be normalised"


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Vectors of many lengths."""
    lengths = np.random.default_rng(5).uniform(0.5, 2, (ROWS, 1)).astype(np.float32)
    return unit(ROWS, WIDTH, clusters=100) * lengths


@pytest.fixture(scope="module")
def built(vectors) -> Index:
    return Index.build(vectors, recall=0.9, k=10)


def cosines(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_its_recall_is_the_one_that_it_says(vectors, built):
    queries = unit(300, WIDTH, seed=3, clusters=100) * 5
    hits = built.search(queries, 10)
    right, scores = brute_force(cosines(queries), cosines(vectors), 10)
    recall = np.mean([len(set(a) & set(b)) for a, b in zip(hits.ids.tolist(), right.tolist(), strict=True)]) / 10
    assert built.facts["recall"]["mean"] >= 0.9 and recall == pytest.approx(built.facts["recall"]["mean"], abs=0.04)
    same = hits.ids == right
    np.testing.assert_allclose(hits.scores[same], scores[same], atol=6e-3)
    assert repr(built) == f"Index(4,000 x 24, scann, recall@10 {built.facts['recall']['mean']:.4f} (target 0.9))"
    assert built.rows == ROWS and built.shards[0].plan.leaves


@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(1, 60),
    width=st.integers(1, 9),
    k=st.integers(1, 70),
    dtype=st.sampled_from(["float16", "float32", "float64", ">f4"]),
    normalise=st.booleans(),
    named=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_exact_lists_are_those_of_brute_force(rows, width, k, dtype, normalise, named, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.choice([-2, -1, -0.5, 0.5, 1, 3], (rows, width)).astype(dtype)
    queries = rng.choice([-2, -1, 0.5, 1], (5, width)).astype(np.float32)
    ids = rng.choice(2**62, rows, replace=False) if named else np.arange(rows)
    index = Index.build(vectors, searcher="exact", k=k, normalise=normalise, ids=ids if named else None)
    hits = index.search(queries, k)
    order = np.argsort(ids)
    wide = vectors[order].astype(np.float32)
    right, scores = brute_force(*((cosines(queries), cosines(wide)) if normalise else (queries, wide)), k)
    most = min(k, rows)
    assert (hits.ids[:, most:] == -1).all()
    np.testing.assert_allclose(hits.scores[:, :most], scores, atol=1e-6)
    if not normalise:
        # Sums of such numbers are not rounded, so that ties are ties.
        np.testing.assert_array_equal(hits.ids[:, :most], ids[order][right])


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", 1e20), ("float32", 1e-20), ("float64", 1e-50), ("float64", 1e300)]
)
def test_vectors_of_any_length_are_searched_by_direction(vectors, dtype, scale):
    """Their squares are no numbers of float32; a few of an ordinary length are among them."""
    far = vectors.astype(dtype)
    far[: ROWS // 2] *= scale
    index, queries = Index.build(far, searcher="exact"), unit(30, WIDTH, seed=3, clusters=100)
    right, scores = brute_force(queries, cosines(vectors), 10)
    for factor in (1, scale, 1e-30):
        hits = index.search(queries.astype(dtype) * np.asarray(factor, dtype), 10)
        np.testing.assert_array_equal(hits.ids, right)
        np.testing.assert_allclose(hits.scores, scores, atol=1e-6)
    assert index.fingerprint != Index.build(vectors, searcher="exact").fingerprint


def test_recall_of_long_vectors_is_what_brute_force_says(vectors, built):
    index = Index.build(vectors * np.float32(1e20), recall=0.9, k=10)
    queries = unit(300, WIDTH, seed=3, clusters=100) * np.float32(1e20)
    np.testing.assert_array_equal(index.search(queries, 10).ids, built.search(queries, 10).ids)
    assert index.facts["recall"]["mean"] == pytest.approx(built.facts["recall"]["mean"], abs=1e-3)


def test_the_recall_of_few_queries_says_so(vectors):
    few, more = (Index.build(vectors[:500], searcher="exact", queries=vectors[:n]) for n in (1, 100))
    assert repr(few) == "Index(500 x 24, exact, recall@10 1.0000 (target 0.95; measured on few queries: 1))"
    assert repr(more) == "Index(500 x 24, exact, recall@10 1.0000 (target 0.95))"


def test_saved_and_opened_by_a_path(tmp_path, vectors):
    index = Index.build(vectors[:90], searcher="exact")
    index.save(tmp_path / "saved")
    assert Index.open(tmp_path / "saved").fingerprint == index.fingerprint
    for work in (index.save, Index.open):
        with pytest.raises(UserError, match="^folder: must be a path, not a int$"):
            work(5)


def test_what_is_no_folder_is_not_written_over(tmp_path, built):
    (tmp_path / "x.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name, what in (("x.txt", "file"), ("link", "link")):
        with pytest.raises(UserError, match=f"^{tmp_path}/{name}: is a {what}, and a folder would take its place; "):
            built.save(tmp_path / name)
    assert (tmp_path / "x.txt").read_text() == "mine" and (tmp_path / "link").is_symlink()
    built.save(tmp_path / "empty")
    assert Index.open(tmp_path / "empty").fingerprint == built.fingerprint


def test_a_mapped_file_of_half_precision(tmp_path, vectors):
    stored = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float16, vectors.shape)
    stored[:] = vectors
    index = Index.build(np.load(tmp_path / "x.npy", mmap_mode="r"), k=5, queries=unit(200, WIDTH, seed=9))
    assert index.facts["recall"]["k"] == 5 and index.facts["recall"]["queries"] == 100
    assert (index.search(vectors[:50], 1).ids[:, 0] == np.arange(50)).mean() > 0.9


@pytest.mark.parametrize("k", [100, 1000, ROWS])
@pytest.mark.parametrize("kind", ["scann", "jax"])
def test_lists_may_be_longer_than_those_that_it_was_tuned_for(vectors, built, kind, k):
    index = built if kind == "scann" else Index.build(vectors, recall=0.9, searcher=kind)
    queries = unit(20, WIDTH, seed=3, clusters=100)
    ids, (right, _) = index.search(queries, k).ids, brute_force(queries, cosines(vectors), k)
    assert (ids >= 0).all()
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ids.tolist(), right.tolist(), strict=True)]) > 0.9 * k


def test_equal_rows_fill_lists():
    queries = np.random.default_rng(1).normal(size=(200, WIDTH)).astype(np.float32)
    for vectors in (np.repeat(unit(40, WIDTH), 100, axis=0), np.repeat(unit(1, WIDTH), 3500, axis=0)):
        hits = Index.build(vectors).search(queries, 10)
        assert (hits.ids >= 0).all() and all(len(set(ids)) == 10 for ids in hits.ids.tolist())


def test_a_target_that_is_missed_is_said_with_what_helps():
    vectors = np.random.default_rng(0).normal(size=(4000, 32)).astype(np.float32)
    rough = "since int8 vectors do not reach it even if all are compared; set reorder=.float32."
    with pytest.warns(UserWarning, match=f"recall@10 is 0.9[0-9]+, below the target 0.99, {rough}$") as said:
        assert Index.build(vectors, recall=0.99, reorder="int8").facts["recall"]["mean"] < 0.99
    assert [one.filename for one in said if one.category is UserWarning] == [__file__]
    ends = "since the search of scann ends there; set searcher=.exact., which finds all"
    with pytest.warns(UserWarning, match=f"recall@10 is 0.99[0-9]+, below the target 1, {ends}$"):
        Index.build(vectors, recall=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for options in ({"reorder": "float32", "recall": 0.99}, {"searcher": "exact", "recall": 1.0}, {"k": 1}):
            index = Index.build(vectors, **options)
            assert index.facts["recall"]["mean"] >= options.get("recall", 0.95)


def test_only_allowed_ids(vectors, built):
    allowed = np.arange(7, ROWS, 400)
    hits = built.search(vectors[:20], 20, allowed=allowed)
    assert (np.sort(hits.ids[:, :10], axis=1) == allowed).all() and (hits.ids[:, 10:] == -1).all()


@pytest.mark.slow
def test_saved_and_opened_by_another_process(tmp_path, vectors, built):
    folder = tmp_path / "new" / "saved"
    built.save(str(folder))
    np.save(tmp_path / "queries.npy", vectors[:40])
    code = (
        "import sys, numpy as np; from index import Index; index = Index.open(sys.argv[1]); print(index);"
        "np.save(sys.argv[3], index.search(np.load(sys.argv[2]), 7).ids)"
    )
    files = [str(folder), f"{tmp_path}/queries.npy", f"{tmp_path}/found.npy"]
    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert repr(built) in done.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), built.search(vectors[:40], 7).ids)
    assert Index.open(str(folder)).fingerprint == built.fingerprint
    assert Index.open(str(folder), recall=0.99).search(vectors[:5], 3).ids.shape == (5, 3)


def test_fingerprints_are_those_of_the_vectors(vectors):
    first, again = (Index.build(vectors[:90], searcher="exact") for _ in range(2))
    other = vectors[:90].copy()
    other[7, 3] += 1
    assert first.fingerprint == again.fingerprint != Index.build(other, searcher="exact").fingerprint


def test_a_folder_with_something_in_it_is_not_written_over(tmp_path, built):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=f"^{tmp_path}: is not empty; save the index in a new folder$"):
        built.save(str(tmp_path))
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_the_example_of_the_docs(tmp_path, monkeypatch, capsys, vectors):
    monkeypatch.chdir(tmp_path)
    np.save("vectors.npy", vectors)
    names: dict[str, object] = {}
    exec(example("docs/scale.md", "array"), names)
    assert capsys.readouterr().out.startswith("Index(4,000 x 24, scann, recall@10 0.9")
    assert (names["hits"].ids[:, 0] == np.arange(100)).mean() > 0.9
    assert names["again"].fingerprint == names["index"].fingerprint
    assert (names["some"].ids % 7 == 0).all()


def test_an_index_that_is_not_saved_leaves_nothing(vectors):
    index = Index.build(vectors[:50], searcher="exact")
    home = pathlib.Path(index.folder)
    assert (home / "manifest.json").exists()
    del index
    assert not home.exists()


def test_damage_is_named(tmp_path, vectors):
    Index.build(vectors[:60], searcher="exact").save(f"{tmp_path}/saved")
    files = [path.relative_to(f"{tmp_path}/saved") for path in pathlib.Path(f"{tmp_path}/saved").rglob("*.*")]
    files = [file for file in files if (tmp_path / "saved" / file).is_file()]
    assert len(files) >= 8
    # These are read to measure a later version, not to search.
    unread = ("exact.parquet", "found.parquet", "queries.parquet")
    for file in files:
        folder = tmp_path / "broken"
        shutil.copytree(tmp_path / "saved", folder)
        data = bytearray((folder / file).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / file).write_bytes(data)
        if file.name in unread or (file.name == "stage.json" and file.parent.name):
            Index.open(str(folder)).search(vectors[:3], 2)
        else:
            with pytest.raises(UserError) as raised:
                Index.open(str(folder)).search(vectors[:3], 2)
            assert file.name in str(raised.value), file
            assert "web-memory" not in str(raised.value), file
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("vectors", "options", "sentence"),
    [
        (np.ones(5, np.float32), {}, "the array: must be vectors of shape [n, d], not [5]"),
        (np.ones((5, 0), np.float32), {}, "the array: must be vectors of shape [n, d], not [5, 0]"),
        (np.ones((0, 5), np.float32), {}, "the array: has no rows"),
        (np.ones((5, 5), int), {}, "the array: must be of float16, float32 or float64, not int64"),
        ([["a"]], {}, "the array: must be of float16, float32 or float64, not <U1"),
        (np.diag([1.0, 1.0, 0.0, np.nan]), {}, "the array: row 2 has no direction, it is zero"),
        (np.diag([1.0, np.inf, 0.0]), {}, "the array: row 1 has a value that is not finite as float32"),
        (np.diag([1.0, 1e300]), DOTS, "the array: row 1 has a value that is not finite as float32"),
        (np.diag([1e12, 1e13]), DOTS, f"the array: row 1 has a length above 1e+12; {SCALE}"),
        (np.diag([1e-11, 1e-13]), DOTS, f"the array: row 1 has a length below 1e-12; {SCALE}"),
        (np.diag([1e-11, 0]), DOTS, "the array: row 1 has no direction, it is zero"),
        (np.eye(3), DOTS | {"queries": np.diag([1, 1, 1e13])}, f"queries: row 2 has a length above 1e+12; {SCALE}"),
        ([[1.0], [1.0, 2.0]], {}, "the array: must be vectors of shape [n, d] ("),
        (np.eye(3, dtype=np.longdouble), {}, "the array: must be of float16, float32 or float64, not float128"),
        (np.eye(3), {"recall": 0}, "recall=0: must be a number above 0 and at most 1"),
        (np.eye(3), {"recall": 1.5}, "recall=1.5: must be a number above 0 and at most 1"),
        (np.eye(3), {"recall": "a"}, "recall='a': must be a number above 0 and at most 1"),
        (np.eye(3), {"k": 0}, "k=0: must be a whole number of at least 1"),
        (np.eye(3), {"k": 2.5}, "k=2.5: must be a whole number of at least 1"),
        (np.eye(3), {"reorder": "fp16"}, "reorder='fp16': unknown; did you mean 'bfloat16'?"),
        (
            np.eye(3),
            {"reorder": "nonsense", "searcher": "exact"},
            "reorder='nonsense': unknown; known are bfloat16, float32, int8",
        ),
        (
            np.eye(3),
            {"reorder": "int8", "searcher": "jax"},
            "reorder=int8: the JAX searcher keeps bfloat16 or float32; choose one of them",
        ),
        (np.eye(3), {"searcher": "scan"}, "searcher='scan': unknown; did you mean 'scann'?"),
        (np.eye(3), {"ids": [1, 2]}, "ids: must be whole numbers of shape [3], not int64 [2]"),
        (np.eye(3), {"ids": [1.0, 2.0, 3.0]}, "ids: must be whole numbers of shape [3], not float64 [3]"),
        (np.eye(3), {"ids": [1, 2, 1]}, "ids: must be different from each other, at least 0 and below 2**63"),
        (np.eye(3), {"ids": [1, 2, -1]}, "ids: must be different from each other, at least 0 and below 2**63"),
        (np.eye(3), {"queries": np.eye(2)}, "queries: must be vectors of shape [n, 3], not [2, 2]"),
        (np.eye(3), {"queries": np.zeros((2, 3))}, "queries: row 0 has no direction, it is zero"),
        (np.eye(3), {"queries": np.diag([1.0, 1.0, 0.0])}, "queries: row 2 has no direction, it is zero"),
    ],
)
def test_what_cannot_be_indexed(vectors, options, sentence):
    with pytest.raises(UserError) as raised:
        Index.build(vectors, **options)
    assert str(raised.value) == sentence or (sentence.endswith("(") and str(raised.value).startswith(sentence))
