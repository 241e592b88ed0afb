import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.base import Train
from model import train_loop
from model.datasets import Split, Task


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 60), st.integers(1, 30), st.integers(0, 3))
@settings(deadline=None)
def test_batches_go_through_every_row_once_an_epoch(rows, batch_size, begin, steps, seed):
    flat = train_loop.batch_rows(seed, 0, begin + steps, rows, batch_size).ravel()
    for first in range(0, len(flat) - rows + 1, rows):
        assert sorted(flat[first : first + rows]) == list(range(rows))
    part = train_loop.batch_rows(seed, begin, begin + steps, rows, batch_size)
    np.testing.assert_array_equal(part.ravel(), flat[begin * batch_size :])


def test_seeds_and_epochs_shuffle_differently():
    first, second = train_loop.batch_rows(0, 0, 2, 50, 50), train_loop.batch_rows(1, 0, 2, 50, 50)
    assert not np.array_equal(first[0], first[1]) and not np.array_equal(first, second)


def _task(rows: int = 300, k: int = 8, classes: int = 4, dim: int = 24) -> Task:
    """Queries that say nothing of their label; of their neighbours the similar half says it in its text."""
    rng = np.random.default_rng(0)
    unit = lambda x: (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)  # noqa: E731
    names = unit(rng.normal(size=(classes, 16)))
    memory_labels = np.arange(400) % classes
    keys = unit(rng.normal(size=(400, dim)))
    splits = {}
    for split in ("train", "val", "test"):
        labels = rng.integers(classes, size=rows).astype(np.int32)
        relevant = np.stack([rng.choice(np.flatnonzero(memory_labels == c), k // 2) for c in labels])
        neighbors = np.concatenate([relevant, rng.integers(400, size=(rows, k // 2))], 1).astype(np.int32)
        scores = np.repeat([[0.9] * (k // 2) + [0.5] * (k // 2)], rows, 0).astype(np.float32)
        queries = unit(rng.normal(size=(rows, dim)))
        splits[split] = Split(np.arange(rows), queries, labels, neighbors, scores, np.ones((rows, k), bool))
    texts = unit(names[memory_labels] + 0.1 * rng.normal(size=(400, 16)))
    counts = np.bincount(splits["train"].labels, minlength=classes)
    return Task(splits, np.arange(400), keys, {"text": texts}, counts, ["c"] * classes, "f")


def test_attention_learns_what_linear_cannot_see_and_beats_the_mean():
    task = _task()
    data = train_loop.tables(task)
    train = Train(values=("text",), steps=100, batch_size=100, attention_dim=8, value_dim=16)
    reached = {}
    for head in ("linear", "mean_knn", "mam"):
        trainer = train_loop.Trainer(head, task, data, train)
        state, _ = trainer.steps(trainer.start(0), 0, train.steps, train_loop.Setting(0.01, 0.01, 0.0))
        reached[head] = trainer.accuracy(state.params, "test")["all"]
    assert reached["linear"] < 0.35
    assert reached["mam"] > 0.95
    assert reached["linear"] + 0.2 < reached["mean_knn"] < reached["mam"]


def test_a_split_that_fills_no_whole_batch_is_predicted_row_by_row_the_same():
    task = _task(rows=37)
    data = train_loop.tables(task)
    found = []
    for batch_size in (16, 37, 64):
        train = Train(values=("text",), batch_size=batch_size, attention_dim=8, value_dim=16)
        trainer = train_loop.Trainer("mam", task, data, train)
        found.append(trainer.predict(trainer.start(0).params, "test"))
        assert found[-1][0].shape == (37,) and found[-1][1].shape == (37, 8)
    for classes, weights in found[1:]:
        np.testing.assert_array_equal(classes, found[0][0])
        np.testing.assert_allclose(weights, found[0][1], atol=1e-5)
