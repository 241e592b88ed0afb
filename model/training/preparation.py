"""What heads need of a task before the first step, made once and shared by all trials and seeds."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from configs.base import Train
from model.data.datasets import Task
from model.heads import registry
from model.heads.base import Head
from model.prepare import name_start, whitening
from model.training import hyperparameters
from model.training.hyperparameters import Search
from pipelines.errors import UserError


def prepare(task: Task, train: Train) -> Task:
    """Returns the task with what its heads read besides lists and memory, and with the scores that they read.

    Args:
        task: from `datasets.load`.
        train: the heads and their settings.

    Raises:
        UserError: if a head cannot learn this task, or there are no names to start at.
    """
    heads = [registry.get(name) for name in train.heads]
    whitened = any(settings.similarity == "whitened" for settings in _settings(train))
    if whitened and any(head.needs_neighbors for head in heads):
        task = whitening.rescore(task)
    made: dict[Any, Any] = {}
    prepared = {}
    for head in heads:
        _check(head, task, train)
        if head.prepare:
            if head.prepare not in made:
                made[head.prepare] = _made(head, task, train)
            prepared[head.name] = made[head.prepare]
    prepared = {name: arrays for name, arrays in prepared.items() if arrays is not None}
    task = dataclasses.replace(task, prepared=prepared) if prepared else task
    if any(settings.start_at_names for settings in _settings(train)):
        name_start.check(task, "--config.train.start_at_names=true")
        task = dataclasses.replace(task, classifier=name_start.classifier(task))
    return task


def again(task: Task, train: Train, name: str) -> Any:
    """Returns what a head prepares of other training images; None if it does not depend on their labels."""
    head = registry.get(name)
    return _made(head, task, train) if head.of_labels else None


def _check(head: Head, task: Task, train: Train) -> None:
    if head.needs_text and "text" not in task.values:
        raise UserError(f"--config.train.values={','.join(train.values)}: {head.name} reads texts; add text")
    if head.check:
        head.check(task, train)


def _made(head: Head, task: Task, train: Train) -> Any:
    """Returns what a head prepares: under the configured settings, or under the first trial's that need anything."""
    found = (head.prepare(task, settings) for settings in _settings(train) if head.prepare)
    return next((arrays for arrays in found if arrays is not None), None)


def _settings(train: Train) -> Iterator[Train]:
    """Yields the configured settings, then those with each value of each axis of the trials of any head."""
    yield train
    for head in map(registry.get, train.heads):
        for name, values in Search(train, head.space, head.trained).axes.items():
            if name not in hyperparameters.SETTING:
                yield from (hyperparameters.with_fields(train, {name: value}) for value in values)
