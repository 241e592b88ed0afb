"""The vote against an independent float64 version that walks through the lists."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Names, Train, Vote
from model.data import host_tables, tables
from model.heads import registry
from model.training import preparation
from pipelines.errors import UserError
from tests.model.applied import apply, first
from tests.model.small_task import small_task

_NAMES = Names()


def _standardize(x):
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def _task():
    """The small task with names, short lists and some texts that name nothing."""
    task = small_task()
    rng = np.random.default_rng(1)
    texts = task.values["text"].copy()
    names = np.stack([texts[np.arange(400) % 4 == c].mean(0) for c in range(4)]).astype(np.float32)
    texts[::5] = rng.normal(size=texts[::5].shape)
    splits = {}
    for name, split in task.splits.items():
        mask = split.mask.copy()
        mask[::3, 5:] = False
        mask[7] = False
        scores = np.sort(rng.uniform(0.1, 0.9, mask.shape))[:, ::-1].astype(np.float32) * mask
        splits[name] = dataclasses.replace(split, mask=mask, scores=scores)
    return dataclasses.replace(task, splits=splits, values={"text": texts}, name_vectors={"text": names})


def _says(task):
    """What each row of the memory votes for, `[M, C]`, softly, and the class, -1 for none."""
    cosines = _standardize(task.values["text"]) @ _standardize(task.name_vectors["text"]).T / 16
    powers = np.exp(_NAMES.temperature * (cosines - _NAMES.threshold))
    soft = powers / (1 + powers.sum(-1, keepdims=True))
    return soft, np.where(powers.max(-1) > 1, soft.argmax(-1), -1)


def _wrong(task):
    _, said = _says(task)
    split, counts = task.splits["train"], np.zeros(400, int)
    for label, rows, mask in zip(split.labels, split.neighbors, split.mask, strict=True):
        for row in rows[mask]:
            counts[row] += said[row] not in (-1, label)
    return counts


def _expected(task, vote):
    soft, said = _says(task)
    wrong, split = _wrong(task), task.splits["val"]
    found = np.zeros((len(split.labels), 4))
    for i, (rows, scores, mask) in enumerate(zip(split.neighbors, split.scores, split.mask, strict=True)):
        near = [(row, score) for row, score, there in zip(rows, scores, mask, strict=True) if there]
        if vote.pruning == "hard":
            near = [pair for pair in near if wrong[pair[0]] < vote.most_wrong] or near
        total = 0.0
        for rank, (row, score) in enumerate(near):
            weight = {"rank": 1 / (rank + 2), "plurality": 1.0, "softmax": np.exp(score / vote.temperature)}[
                vote.weights
            ]
            if vote.pruning == "soft" and wrong[row]:
                weight *= 1.75 / (1 + wrong[row])
            total += weight
            found[i] += weight * (np.eye(5)[said[row], :4] if vote.one_class else soft[row])
        found[i] /= total or 1.0
    return np.log(found + _NAMES.smoothing)


@pytest.mark.parametrize("weights", ["rank", "plurality", "softmax"])
@pytest.mark.parametrize("pruning", ["none", "hard", "soft"])
@pytest.mark.parametrize("one_class", [True, False])
def test_votes(weights, pruning, one_class):
    task = _task()
    most = int(np.quantile(_wrong(task), 0.7))
    vote = Vote(weights, 0.1, pruning, most, one_class)
    train = Train(heads=("knn_vote",), vote=vote, similarity="cosine")
    known = preparation.prepare(task, train)
    np.testing.assert_array_equal(known.prepared["knn_vote"].wrong, _wrong(task))
    batch = tables.load(known)["val"].gather(jnp.arange(300), "knn_vote")
    head = registry.get("knn_vote").build(train, 4, batch)
    output = apply(head, first(head, batch), batch)
    np.testing.assert_allclose(output.logits, _expected(task, vote), rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(output.weights.sum(-1)[:7], 1, rtol=1e-5)
    assert not output.weights[7].any()


def test_a_memory_without_classes_is_refused():
    with pytest.raises(UserError, match="knn_vote needs the classes of memory rows"):
        preparation.prepare(small_task(), Train(heads=("knn_vote",)))


def _logits(train, batch):
    head = registry.get("knn_vote").build(train, 4, batch)
    return apply(head, first(head, batch), batch).logits


@pytest.mark.parametrize("pruning", ["hard", "soft"])
def test_a_row_that_was_not_in_the_memory_has_not_been_wrong(pruning):
    task = _task()
    train = Train(heads=("knn_vote",), vote=Vote(pruning=pruning, most_wrong=1), similarity="cosine")
    known = preparation.prepare(task, train)
    batch = tables.load(known)["val"].gather(jnp.arange(7), "knn_vote")
    assert known.prepared["knn_vote"].wrong[batch.memory_rows].any()
    new = batch._replace(memory_rows=jnp.full(batch.mask.shape, -1))
    np.testing.assert_array_equal(_logits(train, new), _logits(Train(), batch))


@pytest.mark.parametrize("pruning", ["none", "hard", "soft"])
def test_a_memory_in_files_has_the_same_votes(tmp_path, pruning):
    train = Train(heads=("knn_vote",), vote=Vote(pruning=pruning, most_wrong=4), similarity="cosine")
    known = preparation.prepare(_task(), train)
    rows = np.arange(300, dtype=np.int32)[None]
    batches = [
        next(iter(source["val"].parts(rows, 1, True)))[0].gather(rows[0], "knn_vote")
        for source in (tables.load(known), host_tables.load(known, "float32", str(tmp_path)))
    ]
    np.testing.assert_array_equal(*(_logits(train, batch) for batch in batches))
