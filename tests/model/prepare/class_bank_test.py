import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.datasets import Split, Task
from model.prepare import class_bank


def _split(seed: int, queries: int, k: int, memory: int, classes: int) -> Split:
    rng = np.random.default_rng(seed)
    # Few different cosines, so that sums tie.
    scores = rng.integers(1, 4, size=(queries, k)).astype(np.float32) / 4
    mask = rng.random((queries, k)) < 0.8
    neighbors = np.array([rng.permutation(memory)[:k] for _ in range(queries)], np.int32).reshape(queries, k)
    labels = rng.integers(classes, size=queries).astype(np.int32)
    return Split(np.arange(queries), np.zeros((queries, 2), np.float32), labels, neighbors * mask, scores * mask, mask)


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 4), st.integers(1, 6))
@settings(deadline=None)
def test_the_rows_with_the_largest_sums_ties_by_row(seed, queries, k, size):
    split = _split(seed, queries, k, memory=9, classes=3)
    rows, mask = class_bank.rows(split, 3, size)
    for label in range(3):
        sums: dict[int, float] = {}
        for query, neighbors in enumerate(split.neighbors):
            for place, row in enumerate(neighbors.tolist()):
                if split.labels[query] == label and split.mask[query, place]:
                    sums[row] = sums.get(row, 0.0) + float(split.scores[query, place])
        expected = sorted(sums, key=lambda row: (-sums[row], row))[:size]
        assert rows[label][mask[label]].tolist() == expected
        assert mask[label].tolist() == [place < len(expected) for place in range(size)]


def test_names_come_first_and_texts_are_standardized():
    split = _split(0, 30, 3, memory=9, classes=3)
    rng = np.random.default_rng(1)
    texts, names = rng.normal(size=(9, 5)).astype(np.float32), rng.normal(size=(3, 5)).astype(np.float32)
    task = Task({"train": split}, np.arange(9), texts, {"text": texts}, np.full(3, 10), ["a", "b", "c"], {}, "f")
    rows, mask = class_bank.rows(split, 3, 4)
    standardized = lambda x: (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)  # noqa: E731
    bare = class_bank.make(task, 4)
    np.testing.assert_allclose(bare.texts, standardized(texts[rows]), atol=1e-4)
    np.testing.assert_array_equal(bare.mask, mask)
    named = class_bank.make(dataclasses.replace(task, name_vectors={"text": names}), 4)
    np.testing.assert_allclose(named.texts[:, 0], standardized(names), atol=1e-4)
    np.testing.assert_array_equal(named.texts[:, 1:], bare.texts)
    assert named.mask[:, 0].all()
