"""Discriminant analysis against an independent float64 version that inverts the shrunken covariance."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Lda, Train
from model.data.batch import Batch
from model.heads import registry
from model.training import preparation
from tests.model.applied import apply, first
from tests.model.small_task import small_task


def _standardize(x):
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def _expected(train, labels, queries, shrinkage, pseudo_count, prior):
    x, q, classes = _standardize(train), _standardize(queries), labels.max() + 1
    means = np.stack([x[labels == c].mean(0) for c in range(classes)])
    within = sum((x[labels == c] - means[c]).T @ (x[labels == c] - means[c]) for c in range(classes)) / len(x)
    dim = len(within)
    covariance = (1 - shrinkage) * within + shrinkage * np.trace(within) / dim * np.eye(dim)
    counts = np.bincount(labels)
    shares = counts / len(labels)
    # As if so many images at the mean of all were of every class.
    means = (counts[:, None] * means + pseudo_count * x.mean(0)) / (counts[:, None] + pseudo_count)
    slopes = np.linalg.solve(covariance, means.T)
    logits = q @ slopes - 0.5 * np.einsum("cd,dc->c", means, slopes) + prior * np.log(shares)
    return logits - logits.mean(-1, keepdims=True)


@pytest.mark.parametrize("settings", [Lda(0.1), Lda(0.6, 0, 1.0), Lda(1.0, 3.0, 0.5), Lda(0.3, 50.0)])
def test_logits_are_those_of_shrunken_means_and_covariance(settings):
    task = small_task()
    train = Train(heads=("lda",), lda=settings)
    known = preparation.prepare(task, train).prepared["lda"]
    split = task.splits["val"]
    queries = jnp.asarray(_standardize(split.queries), jnp.float32)
    batch = Batch(queries, queries[:, None], {}, queries[:, :1], queries[:, :1] > 9, known)
    head = registry.get("lda").build(train, 4, batch)
    logits = np.asarray(apply(head, first(head, batch), batch).logits)
    images = task.splits["train"]
    expected = _expected(images.queries, images.labels, split.queries, *dataclasses.astuple(settings))
    np.testing.assert_allclose(logits - logits.mean(-1, keepdims=True), expected, rtol=1e-3, atol=1e-4)


def test_another_division_has_other_means():
    task = small_task()
    train = Train(heads=("lda",))
    other = dataclasses.replace(task, splits={**task.splits, "train": task.splits["val"]})
    counts = np.bincount(other.splits["train"].labels)
    other = dataclasses.replace(other, class_counts=counts)
    made = preparation.again(other, train, "lda")
    x = _standardize(other.splits["train"].queries)
    np.testing.assert_allclose(made.center, x.mean(0), atol=1e-5)
    assert preparation.again(other, train, "linear") is None
