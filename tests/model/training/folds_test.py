"""Trials that are measured on several divisions of train and val."""

import numpy as np
import pytest

from configs.base import Train
from model.data import datasets, sampling, tables
from model.training import trials
from pipelines import manifest, storage
from tests.model.small_task import small_task

_TRAIN = Train(values=("text",), steps=8, batch_size=16, learning_rates=(0.01, 0.03), weight_decays=(0.1,), folds=3)


class _Stage:
    share = 0.0

    def update(self, share, units, ours=True):
        self.share = share


@pytest.fixture
def runs(tmp_path):
    task, folder, stage = small_task(rows=40), str(tmp_path / "runs"), _Stage()
    manifest.claim(folder, "model.train", {})

    def make(name="linear"):
        progress = trials.Progress(stage, sum(trials.search(name, _TRAIN).lengths))
        return trials.Runs(name, _TRAIN, 0, task, tables.load(task), folder, progress)

    make.stage = stage
    return make


def test_whole_trials_are_the_mean_over_divisions_and_resume(runs):
    tried = runs().trials()
    whole = [trial for trial in tried if trial.steps == 8]
    assert whole and len(whole) < len(tried) and runs.stage.share == pytest.approx(1)
    for trial in tried:
        place = f"{runs().folder}/trial-{trial.number}"
        folds = [place, *(f"{place}/fold-{fold}" for fold in (1, 2))] if trial in whole else [place]
        reached = [storage.read_json(f"{fold}/result.json")["accuracy"]["all"] for fold in folds]
        assert trial.accuracy == pytest.approx(np.mean(reached))
        assert len(folds) == 1 or len(set(reached)) > 1
    read = trials.read_trials(runs().folder, len(tried))
    assert read == tried == runs().trials()


def test_a_divided_task_has_the_same_images_with_their_lists():
    task = small_task(rows=40)
    loaded = tables.load(task)
    rows = sampling.divide(task.splits["train"].labels, task.splits["val"].labels, 0, 1)
    divided, arrays = datasets.divided(task, *rows), tables.divided(loaded, *rows)
    both = {
        name: np.concatenate([getattr(task.splits[split], name) for split in ("train", "val")])
        for name in ("queries", "labels", "neighbors")
    }
    for split, chosen in zip(("train", "val"), rows, strict=True):
        for name, whole in both.items():
            np.testing.assert_array_equal(getattr(divided.splits[split], name), whole[chosen])
        np.testing.assert_array_equal(arrays[split].labels, divided.splits[split].labels)
        np.testing.assert_array_equal(arrays[split].neighbors, divided.splits[split].neighbors)
        np.testing.assert_allclose(arrays[split].queries, tables.standardize_rows(divided.splits[split].queries))
    np.testing.assert_array_equal(arrays["test"].queries, loaded["test"].queries)
    np.testing.assert_array_equal(divided.class_counts, task.class_counts)
