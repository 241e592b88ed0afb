"""Rows that name classes, against a walk through all captions."""

import dataclasses

import numpy as np
import pytest

from configs.base import Names
from model.prepare import named_rows
from pipelines.errors import UserError
from tests.model.small_task import small_task


def _unit(x):
    x = np.asarray(x, np.float64)
    x = x - x.mean(-1, keepdims=True)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_rows_belong_to_the_most_similar_name_the_most_similar_first():
    task = small_task(rows=60)
    rng = np.random.default_rng(3)
    texts = rng.normal(size=(400, 16)).astype(np.float32)
    names = rng.normal(size=(5, 16)).astype(np.float32)
    # Nothing names the last class.
    names[4] = -texts.mean(0)
    task = dataclasses.replace(task, values={"text": texts}, name_vectors={"text": names})
    found = named_rows.find(task, 7, Names(threshold=0.3))
    expected = {c: [] for c in range(5)}
    for row in np.unique(task.splits["train"].neighbors):
        cosines = _unit(names) @ _unit(texts[row])
        if cosines.max() >= 0.3:
            expected[cosines.argmax()].append((-cosines.max(), row))
    assert any(len(rows) > 7 for rows in expected.values())
    for label, rows in expected.items():
        np.testing.assert_array_equal(found.rows[found.labels == label], [row for _, row in sorted(rows)[:7]])
    assert (np.diff(found.labels) >= 0).all()
    first, counts = named_rows.classes(found.labels, 5)
    np.testing.assert_array_equal(counts, np.bincount(found.labels, minlength=5))
    for label in range(5):
        assert (found.labels[first[label] : first[label] + counts[label]] == label).all()


def test_missing_names_are_worded():
    with pytest.raises(UserError, match="swat takes memory rows whose captions name a class, and no names are embed"):
        named_rows.check(small_task(), "swat")
