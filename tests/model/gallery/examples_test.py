"""Which runs, test images and neighbours the gallery shows."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.gallery import examples
from model.measures.kept import kept
from model.reports.runs import Runs
from pipelines import schemas
from tests.model.gallery import made


def _runs(tmp_path, *heads, weigh=("mam", "mean_knn")):
    """Returns runs of two seeds; those of `weigh` keep weights."""
    runs = []
    for number, head in enumerate(heads):
        for seed in (3, 4):
            path = str(tmp_path / f"{head}-{seed}.parquet")
            column = "attention" if head in weigh else "nothing"
            schemas.write(path, _table(column), {})
            one = made.run(head, np.zeros(2), seed, val_accuracy={"all": 0.1 * number + 0.01 * seed})
            runs.append(dataclasses.replace(one, path=path))
    return Runs("", np.zeros(2, np.int32), np.ones(1), runs)


def _table(column):
    return pa.table({column: schemas.fixed_list(np.ones((2, 3), np.float32), pa.field("", pa.list_(pa.float32(), 3)))})


@pytest.mark.parametrize(
    ("heads", "head", "baseline"),
    [
        (("linear", "mlp", "mean_knn", "mam"), "mam", "linear"),
        (("mlp", "zero_shot", "mam", "mam_names"), "mam", "zero_shot"),
        (("mlp", "mean_knn"), "mean_knn", "mlp"),
        (("linear", "rac"), "rac", "linear"),
        # It reads the memory's texts, though no neighbours.
        (("vl_ltr", "mam"), "mam", None),
        (("mam",), "mam", None),
        (("linear", "mlp"), "linear", None),
        (("mam + FT", "linear", "mam"), "mam", "linear"),
    ],
)
def test_a_head_with_attention_is_compared_with_one_without_memory_of_the_same_seed(tmp_path, heads, head, baseline):
    found = examples.choose(_runs(tmp_path, *heads))
    assert (found.run.head, found.run.seed) == (head, 3)
    assert (found.baseline and (found.baseline.head, found.baseline.seed)) == (baseline and (baseline, 3))
    assert found.reads_memory == (head != "linear")


def test_all_images_are_shown_or_a_sample_that_the_seed_decides():
    assert examples.sample(5, 0).tolist() == [0, 1, 2, 3, 4]
    some = examples.sample(1000, 7, most=100)
    assert len(set(some.tolist())) == 100 and (np.diff(some) > 0).all() and some.max() > 900 and some.min() < 100
    assert np.array_equal(some, examples.sample(1000, 7, most=100))
    assert not np.array_equal(some, examples.sample(1000, 8, most=100))


def test_of_a_long_list_the_largest_that_are_kept_and_the_smallest_that_are_not():
    # 0.9 of the weight: 6 of 10 neighbours. Of 5 places, 4 are for the smallest of those filtered out.
    weights = np.array([[0.01, 0.2, 0.02, 0.2, 0.03, 0.15, 0.15, 0.04, 0.1, 0.1]])
    shown = examples.show(np.array([0]), np.ones((1, 10), bool), weights, most=5)
    assert shown.places.tolist() == [[1, 7, 4, 2, 0]] and shown.kept.tolist() == [[True, *[False] * 4]]
    assert (shown.keeps[0], shown.listed[0]) == (6, 10) and shown.kept_weight[0] == pytest.approx(0.9)
    whole = examples.show(np.array([0]), np.ones((1, 10), bool), weights, most=10)
    assert whole.places.tolist() == [[1, 3, 5, 6, 8, 9, 7, 4, 2, 0]]
    assert whole.kept.tolist() == [[True] * 6 + [False] * 4]
    assert whole.weights[0].tolist() == sorted(weights[0], reverse=True)


@given(st.data())
def test_what_is_shown_is_in_order_and_never_kept_without_weight(data):
    size = data.draw(st.integers(1, 12))
    counts = data.draw(st.lists(st.lists(st.integers(0, 9), min_size=size, max_size=size), min_size=1, max_size=3))
    weights = np.array(counts, np.float32) ** 3
    mask = np.arange(size)[None] < np.array(data.draw(st.lists(st.integers(0, size), min_size=3)))[: len(counts), None]
    most = data.draw(st.integers(1, 12))
    shown = examples.show(np.arange(len(counts)), mask, weights, most)
    keeps = kept(np.where(mask, weights, 0))
    for row, places in enumerate(shown.places):
        found = places[places >= 0]
        assert len(found) == min(mask[row].sum(), most, size) == len(set(found.tolist())) and mask[row, found].all()
        assert (np.diff(weights[row, found]) <= 0).all() and (places[len(found) :] == -1).all()
        assert shown.kept[row, : len(found)].tolist() == keeps[row, found].tolist()
        assert (shown.weights[row][shown.kept[row]] > 0).all() and not shown.kept[row, len(found) :].any()
        others = (~shown.kept[row, : len(found)]).sum()
        assert others >= min((mask[row] & ~keeps[row]).sum(), examples.MOST_FILTERED, most)


def test_without_weights_the_nearest_are_shown():
    mask = np.array([[True] * 5, [True, True, False, False, False]])
    shown = examples.show(np.array([1, 0]), mask, None, most=3)
    assert shown.places.tolist() == [[0, 1, -1], [0, 1, 2]] and shown.listed.tolist() == [2, 5]
    assert shown.weights is None and shown.kept is None
