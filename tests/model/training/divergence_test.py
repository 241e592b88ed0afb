"""Runs that diverge: the step, the cause, and the checkpoint."""

import dataclasses
import json

import numpy as np
import pytest

from configs.base import Train
from model.data import sampling, tables
from model.training import divergence, train_loop
from model.training.divergence import Diverged
from model.training.trainer import Setting, Trainer
from pipelines import storage
from tests.model.small_task import small_task

_TRAIN = Train(steps=12, batch_size=8, checkpoint_every=5, values=("text",), attention_dim=4, value_dim=8)
_SETTING = Setting(0.01, 0.0, 0.0)


def _run(task, folder, head="linear", setting=_SETTING, split="test"):
    trainer = Trainer(head, task, tables.load(task), _TRAIN)
    return train_loop.run(trainer, str(folder), setting, 0, split, "h", lambda _: None)


def _broken_query(task, step):
    """The task with a query that is not finite and is first drawn in the batch of `step`, and its id."""
    split = task.splits["train"]
    rows = sampling.batch_rows(split.labels, "uniform", 0, 0, _TRAIN.steps, _TRAIN.batch_size)
    row = rows[step - 1, 0]
    queries = split.queries.copy()
    queries[row] = np.nan
    return dataclasses.replace(task, splits=task.splits | {"train": dataclasses.replace(split, queries=queries)}), row


@pytest.mark.parametrize(
    ("step", "kept"), [(3, "there is no checkpoint yet"), (8, "the last good checkpoint is that of step 5")]
)
def test_the_step_the_cause_and_the_checkpoint_are_named(tmp_path, step, kept):
    task, row = _broken_query(small_task(), step)
    with pytest.raises(
        Diverged, match=f"the loss is nan at step {step}; the query {row} of train is not finite.*{kept}"
    ):
        _run(task, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(5, step, 5))


def test_a_trial_that_diverges_is_a_result(tmp_path):
    task, _ = _broken_query(small_task(), 3)
    result = _run(task, tmp_path / "run", split="val")
    assert "at step 3" in result["diverged"] and set(result["accuracy"].values()) == {0.0}
    assert storage.read_json(str(tmp_path / "run" / "result.json")) == result


def test_what_is_not_finite_is_found_only_where_it_is_read():
    task, rows = small_task(), np.arange(4)
    split = task.splits["train"]
    unread = np.setdiff1d(np.arange(400), split.neighbors[rows])[0]
    read = split.neighbors[2, 1]
    for place, found in ((unread, False), (read, True)):
        texts = task.values["text"].copy()
        texts[place, 3] = np.inf
        words = divergence.cause(dataclasses.replace(task, values={"text": texts}), rows, 0.5, True)
        assert (f"the text value of memory row {place} is not finite" in words) == found
        assert ("the learning rate 0.5" in words) != found


def test_empty_lists_are_named_where_a_head_reads_them():
    task = small_task()
    split = task.splits["train"]
    mask = split.mask.copy()
    mask[[0, 2, 9]] = False
    task = dataclasses.replace(task, splits=task.splits | {"train": dataclasses.replace(split, mask=mask)})
    assert "the 2 empty neighbour lists" in divergence.cause(task, np.arange(4), 0.5, True)
    assert "empty" not in divergence.cause(task, np.arange(4), 0.5, False)


def test_the_first_bad_loss():
    assert divergence.first_bad(np.array([1.0, np.inf, np.nan])) == 1
    assert divergence.first_bad(np.array([1.0, 2.0])) is None
