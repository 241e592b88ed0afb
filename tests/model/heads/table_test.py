"""All heads in one table on a small task; where an answer is known without training ours, it is computed again."""

import numpy as np
import pytest

from configs.base import Names, Train
from model.data import tables
from model.data.datasets import Split, Task
from model.heads import registry
from model.training import preparation
from model.training.trainer import Setting, Trainer

_D, _C, _M, _K = 24, 5, 300, 12
_STEPS = 150


def _unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def _standardize(x):
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


@pytest.fixture(scope="module")
def task() -> Task:
    """Images, captions and names in one space; classes overlap, and a fifth of the captions are of another class."""
    rng = np.random.default_rng(0)
    names = _unit(rng.normal(size=(_C, _D)))
    shown = np.arange(_M) % _C
    said = np.where(rng.random(_M) < 0.2, rng.integers(_C, size=_M), shown)
    keys = _unit(names[shown] + 0.35 * rng.normal(size=(_M, _D)))
    texts = _unit(names[said] + 0.1 * rng.normal(size=(_M, _D)))
    splits = {}
    for name, count in {"train": 60, "val": 400}.items():
        labels = np.concatenate([np.arange(_C), rng.choice(_C, count - _C, p=[0.4, 0.3, 0.15, 0.1, 0.05])])
        queries = _unit(names[labels] + 0.35 * rng.normal(size=(count, _D)))
        cosines = queries @ keys.T
        near = np.argsort(-cosines, axis=1)[:, :_K]
        scores = np.take_along_axis(cosines, near, 1)
        mask = np.ones((count, _K), bool)
        splits[name] = Split(np.arange(count), queries, labels.astype(np.int32), near.astype(np.int32), scores, mask)
    counts = np.bincount(splits["train"].labels, minlength=_C)
    named = {"text": names, "key": names}
    return Task(splits, np.arange(_M), keys, {"text": texts}, counts, [f"class {c}" for c in range(_C)], named, "f")


@pytest.fixture(scope="module")
def table(task) -> dict[str, np.ndarray]:
    """What each head predicts of val."""
    found = {}
    for name in registry.HEADS:
        train = Train(
            heads=(name,), similarity="cosine", steps=_STEPS, batch_size=60, checkpoint_every=_STEPS, value_dim=_D
        )
        known = preparation.prepare(task, train)
        trainer = Trainer(name, known, tables.load(known), train)
        state, _ = trainer.steps(trainer.start(0), 0, _STEPS, Setting(0.01, 10.0, 0.0))
        found[name] = trainer.predict(state.params, "val")[0].argmax(-1)
    return found


def _says(task):
    """The class that each caption names, -1 for none."""
    cosines = _standardize(task.values["text"]) @ _standardize(task.name_vectors["text"]).T / _D
    return np.where(cosines.max(1) > Names().threshold, cosines.argmax(1), -1)


def _zero_shot(task):
    return (task.splits["val"].queries.astype(np.float64) @ task.name_vectors["key"].T).argmax(1)


def _lda(task):
    settings, split = Train().lda, task.splits["train"]
    x, q = _standardize(split.queries), _standardize(task.splits["val"].queries)
    means = np.stack([x[split.labels == c].mean(0) for c in range(_C)])
    within = (x - means[split.labels]).T @ (x - means[split.labels]) / len(x)
    g = settings.shrinkage
    slopes = np.linalg.solve((1 - g) * within + g * np.trace(within) / _D * np.eye(_D), means.T)
    return (q @ slopes - 0.5 * (means.T * slopes).sum(0)).argmax(1)


def _knn_vote(task):
    said, found = _says(task), []
    for near in task.splits["val"].neighbors:
        votes = np.zeros(_C)
        for rank, row in enumerate(near):
            if said[row] >= 0:
                votes[said[row]] += 1 / (rank + 2)
        found.append(votes.argmax())
    return np.array(found)


def _tip_adapter(task):
    tip, split = Train().tip, task.splits["train"]
    q = task.splits["val"].queries.astype(np.float64)
    cached = np.exp(-tip.beta * (1 - q @ split.queries.T)) @ np.eye(_C)[split.labels]
    return (100 * q @ task.name_vectors["key"].T + tip.alpha * cached).argmax(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [("zero_shot", _zero_shot), ("lda", _lda), ("knn_vote", _knn_vote), ("tip_adapter", _tip_adapter)],
)
def test_heads_without_steps_predict_what_their_formula_says(task, table, name, expected):
    assert (table[name] == expected(task)).mean() > 0.995


@pytest.mark.slow
def test_all_heads_in_one_table(task, table):
    labels = task.splits["val"].labels
    reached = {name: (predicted == labels).mean() for name, predicted in table.items()}
    print("\n".join(f"{name:15}{value:.3f}" for name, value in reached.items()))
    assert len(reached) >= 14
    # Classes overlap; the largest is two fifths.
    assert min(reached.values()) > 0.65, reached
    # Rows that name classes are more images of them.
    assert reached["real_linear"] > reached["linear"] + 0.05, reached
