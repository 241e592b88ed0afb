"""Classifiers that start at the names of the classes, against zero-shot classification in NumPy."""

import dataclasses

import numpy as np
import pytest

from configs.base import Train
from model.data import tables
from model.training import preparation
from model.training.trainer import Trainer
from pipelines.errors import UserError
from tests import slow
from tests.model.small_task import small_task

_TRAIN = Train(
    value_scale=0.0,
    heads=("linear", "mlp", "mean_knn", "mam", "rac", "zero_shot"),
    values=("text",),
    attention_dim=4,
    value_dim=8,
    batch_size=16,
    start_at_names=True,
)


def _task(centred: bool = True, classes: int = 4):
    """A task whose queries have entries of mean zero, so that standardizing only scales them, and names of its keys."""
    rng = np.random.default_rng(3)
    names = rng.normal(size=(classes, 24)) + 0.3
    task = small_task(classes=classes)
    for name, split in task.splits.items():
        queries = rng.normal(size=split.queries.shape) + 0.2
        queries -= centred * queries.mean(1, keepdims=True)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        task.splits[name] = dataclasses.replace(split, queries=queries.astype(np.float32))
    unit = (names / np.linalg.norm(names, axis=1, keepdims=True)).astype(np.float32)
    return dataclasses.replace(task, name_vectors={"key": unit})


def _scores(head: str, task, train: Train, split: str = "test") -> np.ndarray:
    """Returns what a head predicts before its first step, as logits without their mean over the classes."""
    task = preparation.prepare(task, train)
    trainer = Trainer(head, task, tables.load(task), train)
    scores, _ = trainer.predict(trainer.start(1).params, split)
    return scores - scores.mean(1, keepdims=True)


@pytest.mark.parametrize("head", ["linear", "mlp", "mean_knn", "mam", "rac"])
@pytest.mark.parametrize("loss", slow.after(1, ["lace", "cross_entropy"]))
def test_before_the_first_step_predictions_are_those_of_zero_shot(head, loss):
    task, train = _task(), dataclasses.replace(_TRAIN, loss=loss)
    queries, names = task.splits["test"].queries.astype(np.float64), task.name_vectors["key"].astype(np.float64)
    logits = 100 * queries @ names.T
    expected = logits - logits.mean(1, keepdims=True)
    found = _scores(head, task, train)
    np.testing.assert_allclose(found, expected, atol=2e-2)
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(_scores("zero_shot", task, train), found, atol=2e-2)
    assert not np.allclose(_scores(head, task, dataclasses.replace(train, start_at_names=False)), expected, atol=1)


def test_of_queries_with_a_mean_the_start_lacks_it_and_zero_shot_does_not():
    task = _task(centred=False)
    queries, names = task.splits["test"].queries.astype(np.float64), task.name_vectors["key"].astype(np.float64)
    centred = queries - queries.mean(1, keepdims=True)
    for head, vectors in (("linear", centred), ("zero_shot", queries)):
        logits = 100 * vectors @ names.T / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(_scores(head, task, _TRAIN), logits - logits.mean(1, keepdims=True), atol=2e-2)


def test_weights_have_the_scale_of_standardized_queries():
    task = preparation.prepare(_task(), _TRAIN)
    assert task.classifier.dtype == np.float32 and task.classifier.shape == (24, 4)
    np.testing.assert_allclose(np.linalg.norm(task.classifier, axis=0), 100 / np.sqrt(24), rtol=1e-6)


def test_trials_may_choose_where_to_start():
    train = dataclasses.replace(_TRAIN, start_at_names=False, space=("start_at_names=false|true",))
    task = preparation.prepare(_task(), train)
    data = tables.load(task)
    kernels = {}
    for start in (False, True):
        trainer = Trainer("linear", task, data, dataclasses.replace(train, start_at_names=start))
        kernels[start] = np.asarray(trainer.start(1).params["head"]["classifier"]["kernel"])
    np.testing.assert_array_equal(kernels[True], task.classifier)
    at_random = Trainer("linear", dataclasses.replace(task, classifier=None), data, train).start(1)
    np.testing.assert_array_equal(kernels[False], at_random.params["head"]["classifier"]["kernel"])


def test_without_names_in_the_space_of_the_keys_the_start_is_refused():
    for train in (
        dataclasses.replace(_TRAIN, heads=("linear",)),
        dataclasses.replace(_TRAIN, heads=("linear",), start_at_names=False, space=("start_at_names=false|true",)),
    ):
        with pytest.raises(UserError, match="--config.train.start_at_names=true compares images with the names of the"):
            preparation.prepare(small_task(), train)
