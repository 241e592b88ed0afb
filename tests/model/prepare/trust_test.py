"""How far rows, votes and a whole memory are believed, on memories whose faults are known."""

import dataclasses

import numpy as np
import pytest

from configs.base import Names, Train
from model.data.datasets import Split, Task
from model.prepare import trust
from model.prepare.trust import Trust

_C, _D, _V = 10, 24, 16
_TRAIN = Train(names=Names(temperature=30.0))


def _unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def _task(seed: int = 0, wrong: float = 0.0, keys_say: bool = True) -> Task:
    """Few labelled images, many memory rows; a share of the captions names any class."""
    rng = np.random.default_rng(seed)
    centres, names = rng.normal(size=(_C, _D)), _unit(rng.normal(size=(_C, _V)))
    shown = rng.integers(_C, size=2000)
    said = np.where(rng.random(2000) < wrong, rng.integers(_C, size=2000), shown)
    keys = _unit(centres[shown] * keys_say + 1.5 * rng.normal(size=(2000, _D)))
    splits = {}
    for name, count in (("train", 3), ("val", 40), ("test", 40)):
        labels = np.repeat(np.arange(_C), count).astype(np.int32)
        queries = _unit(centres[labels] + 1.5 * rng.normal(size=(len(labels), _D)))
        near = np.argsort(-queries @ keys.T, 1)[:, :100].astype(np.int32)
        scores = np.take_along_axis(queries @ keys.T, near, 1).astype(np.float32)
        splits[name] = Split(np.arange(len(labels)), queries, labels, near, scores, np.ones(near.shape, bool))
    counts = np.bincount(splits["train"].labels, minlength=_C)
    texts = _unit(names[said] + 0.05 * rng.normal(size=(2000, _V)))
    return Task(splits, np.arange(2000), keys, {"text": texts}, counts, ["c"] * _C, {"text": names}, "f")


def _standardized(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def _right(task: Task, classifier: np.ndarray, found: Trust | None = None) -> float:
    """Share of the test images that a classifier, and the votes if given, are right about."""
    test, names = task.splits["test"], _TRAIN.names
    logits = _standardized(test.queries) @ classifier[:-1] + classifier[-1]
    if found:
        keys, texts = (_standardized(rows)[test.neighbors] for rows in (task.keys, task.values["text"]))
        named, seen = trust.said(keys, texts, found.names, found.judge, names)
        shares = named * trust.believed(seen, found.doubt)
        votes, _ = trust.votes(shares, test.scores, test.mask, found.scale)
        logits = logits + found.vote * np.log(votes + names.smoothing)
    return float((np.argmax(logits, 1) == test.labels).mean())


def test_a_sound_memory_is_used_and_helps():
    task = _task()
    found = trust.make(task, _TRAIN)
    assert found.classifier.shape == (_D + 1, _C) and found.names.shape == (_C, _V)
    assert found.doubt.max() < 0.5
    assert _right(task, found.classifier) > _right(task, found.judge) + 0.05


def test_of_a_memory_of_another_domain_the_votes_are_used():
    # Its images look different, but those that are found for an image are of its class.
    task = _task()
    order = np.random.default_rng(2).permutation(_D)
    moved = dataclasses.replace(task, keys=task.keys[:, order])
    found = trust.make(moved, _TRAIN)
    assert found.vote > 0
    assert _right(moved, found.classifier, found) > _right(moved, found.judge) + 0.02


@pytest.mark.parametrize("faults", [{"wrong": 1.0}, {"keys_say": False}])
def test_a_memory_that_says_nothing_does_no_harm(faults):
    task = _task(**faults)
    found = trust.make(task, _TRAIN)
    assert _right(task, found.classifier, found) > _right(task, found.judge) - 0.01


def test_half_of_the_captions_wrong_keep_most_of_the_gain():
    clean, half = _task(), _task(wrong=0.5)
    first, second = trust.make(clean, _TRAIN), trust.make(half, _TRAIN)
    alone = _right(clean, first.judge)
    gain = _right(clean, first.classifier) - alone
    assert _right(half, second.classifier) - alone > 0.6 * gain > 0


def test_doubt_is_the_share_of_wrong_captions_and_higher_for_a_class_that_others_are_pulled_to():
    rng = np.random.default_rng(0)
    shown, rows = rng.integers(_C, size=6000), np.arange(6000)
    wrong = rng.random(6000) < 0.3
    said = np.where(wrong, rng.integers(_C, size=6000), shown)
    pulled = (shown == 2) & (rng.random(6000) < 0.9)
    said = np.where(pulled, 7, said)
    # The image tells its class with these odds.
    seen = np.full((6000, _C), 0.02)
    seen[rows, np.where(rng.random(6000) < 0.82, shown, rng.integers(_C, size=6000))] = 0.82
    found = trust.doubts(said, np.ones(6000), seen[rows, said], _C)
    others = np.delete(found, (2, 7))
    # A wrong caption names the right class by chance, once in ten.
    np.testing.assert_allclose(others, 0.3, atol=0.09)
    actual = (shown != 7)[said == 7].mean()
    assert actual > 0.5 and abs(found[7] - actual) < 0.12
    # Of a class that no caption names nothing is known but the share of all.
    rare = trust.doubts(said[said != 4], np.ones((said != 4).sum()), seen[rows, said][said != 4], _C)
    assert 0.2 < rare[4] < 0.5


def test_belief_is_bayes_rule():
    plausible, doubt = np.array([0.7, 0.2, 0.1]), np.array([0.0, 0.5, 1.0])
    expected = [1.0, 0.5 * 0.2 / (0.5 * 0.2 + 0.5 / 3), 0.0]
    np.testing.assert_allclose(trust.believed(plausible, doubt), expected, rtol=1e-6)


def test_votes_are_weighed_by_scores_and_padding_has_none():
    shares = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    scores = np.log(np.arange(1, 5, dtype=np.float32))[None].repeat(3, 0)
    mask = np.array([[True] * 4, [True, False, True, False], [False] * 4])
    found, weights = trust.votes(shares, scores, mask, 2.0)
    np.testing.assert_allclose(weights[0], np.array([1, 4, 9, 16]) / 30, rtol=1e-5)
    np.testing.assert_allclose(weights[1], [0.1, 0, 0.9, 0], rtol=1e-5)
    np.testing.assert_allclose(found[1], shares[1, 0] * 0.1 + shares[1, 2] * 0.9, rtol=1e-5)
    assert not np.asarray(found[2]).any() and not np.asarray(weights[2]).any()


def test_test_images_and_rows_that_no_training_image_retrieved_change_nothing():
    task = _task()
    found = trust.make(task, _TRAIN)
    test = task.splits["test"]
    other = dataclasses.replace(test, labels=test.labels[::-1].copy(), queries=-test.queries)
    keys = np.array(task.keys)
    known = np.union1d(task.splits["train"].retrieved, task.splits["val"].retrieved)
    keys[np.setdiff1d(np.arange(len(keys)), known)] += 1
    changed = dataclasses.replace(task, splits=task.splits | {"test": other}, keys=keys)
    for one, same in zip(found, trust.make(changed, _TRAIN), strict=True):
        np.testing.assert_array_equal(one, same)


def test_empty_lists_leave_the_labels():
    task = _task()
    splits = {
        name: dataclasses.replace(split, mask=np.zeros_like(split.mask), neighbors=0 * split.neighbors)
        for name, split in task.splits.items()
    }
    found = trust.make(dataclasses.replace(task, splits=splits), _TRAIN)
    np.testing.assert_array_equal(found.classifier, found.judge)
    assert found.vote == 0 and (found.doubt == 1).all()
