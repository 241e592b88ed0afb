import dataclasses

import numpy as np
import pytest

from configs.base import Train
from model.prepare import whitening
from model.training import preparation
from tests.model.small_task import small_task


def _padded_task():
    task = small_task()
    rng = np.random.default_rng(3)

    def padded(split):
        mask = np.arange(8) < rng.integers(0, 9, len(split.labels))[:, None]
        return dataclasses.replace(
            split,
            neighbors=np.where(mask, split.neighbors, 0).astype(np.int32),
            scores=np.where(mask, split.scores, 0).astype(np.float32),
            mask=mask,
        )

    return dataclasses.replace(task, splits={name: padded(split) for name, split in task.splits.items()})


def _wanted(task, split):
    """By eigenvalues, in float64: cosine in the metric (S + s I)^-1, s the mean variance."""
    train = task.splits["train"]
    seen = task.keys[np.unique(train.neighbors[train.mask])].astype(np.float64)
    variances, directions = np.linalg.eigh(np.cov(seen.T, bias=True))
    scale = directions / np.sqrt(variances + variances.mean())
    keys, queries = (task.keys - seen.mean(0)) @ scale, (split.queries - seen.mean(0)) @ scale
    products = np.einsum("nd,nkd->nk", queries, keys[split.neighbors])
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(keys, axis=1)[split.neighbors]
    return np.where(split.mask, products / lengths, 0)


@pytest.mark.parametrize("chunk_rows", [7, 1000])
@pytest.mark.parametrize("entries", [5, 1 << 14])
def test_scores_are_cosines_of_white_vectors(monkeypatch, chunk_rows, entries):
    monkeypatch.setattr("model.data.vectors.CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr(whitening, "BLOCK_ENTRIES", entries)
    task = _padded_task()
    scored = whitening.rescore(task)
    for name, split in task.splits.items():
        found = scored.splits[name]
        np.testing.assert_allclose(found.whitened, _wanted(task, split), atol=1e-5)
        assert not found.whitened[~split.mask].any()
        np.testing.assert_array_equal(found.neighbors, split.neighbors)


def test_what_all_vectors_share_does_not_count():
    task = small_task()
    moved = {name: dataclasses.replace(s, queries=2 * s.queries + 3) for name, s in task.splits.items()}
    other = dataclasses.replace(task, keys=2 * task.keys + 3, splits=moved)
    scores, others = (whitening.rescore(x).splits["test"].whitened for x in (task, other))
    np.testing.assert_allclose(others, scores, atol=1e-3)


def test_val_and_test_lists_have_no_part_in_it():
    task = small_task()
    test = task.splits["test"]
    other = dataclasses.replace(test, neighbors=np.full_like(test.neighbors, 7))
    changed = whitening.rescore(dataclasses.replace(task, splits={**task.splits, "test": other}))
    np.testing.assert_array_equal(changed.splits["val"].whitened, whitening.rescore(task).splits["val"].whitened)


def test_the_configuration_says_which_similarity():
    task = small_task()
    assert preparation.prepare(task, Train(heads=("linear",))) is task
    scores = preparation.prepare(task, Train(similarity="whitened")).splits["val"].whitened
    np.testing.assert_array_equal(scores, whitening.rescore(task).splits["val"].whitened)


@pytest.mark.parametrize("seen", [0, 1])
def test_lists_of_one_row_stay(seen):
    task = small_task()
    short = {
        name: dataclasses.replace(s, mask=np.full_like(s.mask, seen), neighbors=np.zeros_like(s.neighbors))
        for name, s in task.splits.items()
    }
    task = dataclasses.replace(task, splits=short)
    assert whitening.rescore(task) is task


def test_rows_that_are_all_the_same_are_near_their_mean_whatever_the_rounding():
    rng = np.random.default_rng(0)
    row = np.append(rng.normal(size=12), 1.0)
    gram = 5000 * np.outer(row, row)
    errors = rng.normal(size=gram.shape) * 1e-5 * np.abs(gram)
    mean, matrix = whitening.solve(gram + errors + errors.T, 1.0)
    np.testing.assert_allclose(mean, row[:-1], rtol=1e-3)
    assert np.isfinite(matrix).all() and np.abs((row[:-1] - mean) @ matrix).max() < 1


def test_rows_of_zeros_have_a_whitening_that_leaves_them():
    gram = np.zeros((4, 4))
    gram[-1, -1] = 247
    mean, matrix = whitening.solve(gram, 0.1)
    assert np.isfinite(matrix).all() and not mean.any()
