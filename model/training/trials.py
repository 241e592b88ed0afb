"""The trials of one head on val, and the setting that they choose: shared by `train` and `sweep`.

`hyperparameters` proposes settings, `train_loop` runs one. Nothing here reads test, except `Runs.seed`.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from configs.base import Places, Train
from model.data import host_tables, parallel, tables
from model.data.datasets import Task
from model.data.tables import Source
from model.heads import registry
from model.training import hyperparameters, preparation, run_files, train_loop
from model.training.hyperparameters import Point
from model.training.trainer import Setting, Trainer
from pipelines import fields, manifest, storage
from pipelines.errors import UserError
from pipelines.progress import Stage


def check(places: Places, train: Train) -> None:
    """Raises a `UserError` for what the fields cannot know: devices, storage, and the number of trials."""
    if "://" in places.runs:
        raise UserError(f"--config.workdir={places.workdir}: must be a local folder to train in")
    parallel.check(train.batch_size, "train.batch_size")
    hyperparameters.budget(train)


def count(train: Train, seeds: bool = True) -> int:
    """Returns the number of runs of all heads: their trials and, with `seeds`, a run of each seed."""
    tried = sum(hyperparameters.budget(_tuned(name, train)) for name in train.heads)
    return tried + (len(train.heads) * len(train.seeds) if seeds else 0)


def foresee(places: Places, seed: int, train: Train, seeds: bool = True) -> dict[str, str]:
    """Returns which runs of each head are finished and which would be trained, in words; writes nothing.

    Args:
        places: of the lists and of the runs.
        seed: of the configuration.
        train: the training configuration.
        seeds: whether the runs of the seeds are wanted, and not the trials alone.

    Raises:
        UserError: as `check`, or if the lists are not finished or the folder is of another configuration.
    """
    check(places, train)
    folder, identity = run_files.identity(places, seed, train, manifest.Neighbors.open(places.neighbors).fingerprint)
    manifest.check_claim(folder, run_files.TRAIN, identity)
    found = {}
    for name in train.heads:
        runs = [f"trial-{number}" for number in range(hyperparameters.budget(_tuned(name, train)))]
        runs += [f"seed-{number}" for number in train.seeds] if seeds else []
        done = sum(run_files.is_done(storage.join(folder, name, run)) for run in runs)
        left = len(runs) - done
        would = f"would train {left:,} of {train.steps:,} steps" if left else "nothing to train"
        found[name] = f"{done:,} of {len(runs):,} runs are done; {would}"
    return {**found, "output": folder}


def _tuned(name: str, train: Train) -> Train:
    """Returns the training configuration of a head: one trial if settings do not change what it predicts."""
    return train if registry.get(name).tuned else hyperparameters.first(train)


def open_runs(
    places: Places, seed: int, train: Train, task: Task, splits: Sequence[str]
) -> tuple[Task, Mapping[str, Source], str]:
    """Claims the folder of the runs, and prepares the task for them.

    Args:
        places: of the runs.
        seed: of the configuration.
        train: the training configuration.
        task: from `datasets.load`.
        splits: the splits that the runs may read.

    Returns:
        The task and the source of its batches, of these splits only, and the folder.

    Raises:
        UserError: if the folder has runs of another configuration, or a head cannot learn the task.
    """
    folder, identity = run_files.identity(places, seed, train, task.fingerprint)
    manifest.claim(folder, run_files.TRAIN, identity)
    manifest.write_config(folder, places.config)
    seen = {name: task.splits[name] for name in splits}
    task = preparation.prepare(dataclasses.replace(task, splits=seen), train)
    if train.table == "host":
        return task, host_tables.load(task, train.dtype, storage.join(places.runs, "tables")), folder
    return task, tables.load(task, train.dtype), folder


@dataclasses.dataclass(frozen=True)
class Trial:
    """A setting and its result on val.

    Attributes:
        number: from 0.
        point: value of each axis.
        result: from `train_loop.run`.
    """

    number: int
    point: Point
    result: dict[str, Any]

    @property
    def value(self) -> float:
        """Overall val accuracy, 0 to 1; 0 if the run diverged."""
        return 0.0 if self.diverged else self.result["accuracy"]["all"]

    @property
    def diverged(self) -> bool:
        """Whether the loss became NaN or infinite."""
        return bool(self.result.get("diverged"))


def best_of(trials: list[Trial]) -> Trial:
    """Returns the trial with the best val accuracy, the first of ties; a `UserError` if all diverged."""
    sound = [trial for trial in trials if not trial.diverged]
    if not sound:
        why = trials[0].result["diverged"]
        raise UserError(f"all {len(trials)} trials of {trials[0].result['head']} diverged, the first: {why}")
    return max(sound, key=lambda trial: trial.value)


class Progress:
    """Reports runs and steps to the stage."""

    def __init__(self, stage: Stage, runs: int) -> None:
        """Nothing is done yet.

        Args:
            stage: shows the progress.
            runs: number of runs in all.
        """
        self._stage, self._runs, self._done, self._steps = stage, runs, 0, 0
        stage.update(0.0, 0)

    def run(self, run: Callable[[Callable[[int], None]], dict[str, Any]], steps: int) -> dict[str, Any]:
        """Calls a run of `steps` steps with a function that reports how many are done; returns its result."""
        first = True

        def on_steps(done: int) -> None:
            nonlocal first
            # What a run begins with was done before it was interrupted.
            self._stage.update((self._done + done / steps) / self._runs, self._steps + done, ours=not (first and done))
            first = False

        result = run(on_steps)
        self._done, self._steps = self._done + 1, self._steps + steps
        return result


class Runs:
    """The runs of one head; settings that change no shape share one compilation.

    Attributes:
        folder: of these runs.
        trainer: the trainer of a training configuration, cached.
    """

    def __init__(
        self,
        name: str,
        train: Train,
        seed: int,
        task: Task,
        data: Mapping[str, Source],
        folder: str,
        progress: Progress,
    ) -> None:
        """Runs nothing yet.

        Args:
            name: of the head.
            train: the training configuration.
            seed: of the trials.
            task: the task to learn.
            data: source of the batches of its splits.
            folder: of the runs of all heads.
            progress: counts the runs.
        """
        self._name, self._seed, self._task, self._data = name, seed, task, data
        self._train = _tuned(name, train)
        self.folder, self._progress = storage.join(folder, name), progress
        self._config_hash = manifest.fingerprint(manifest.read_identity(folder))
        self.trainer = functools.cache(self._trainer)

    def _trainer(self, train: Train) -> Trainer:
        fields.check(train, "train.")
        parallel.check(train.batch_size, "train.batch_size")
        return Trainer(self._name, self._task, self._data, train)

    def _run(self, name: str, point: Point, seed: int, split: str) -> dict[str, Any]:
        train = hyperparameters.with_fields(self._train, point)
        setting = Setting(**{name: point[name] for name in hyperparameters.SETTING})
        run = functools.partial(
            train_loop.run, self.trainer(train), storage.join(self.folder, name), setting, seed, split
        )
        return self._progress.run(functools.partial(run, self._config_hash), train.steps)

    def trials(self) -> list[Trial]:
        """Runs the trials that are not done, each measured on val, and returns all."""
        train, seed = self._train, self._seed
        done: list[Trial] = []
        for number in range(hyperparameters.budget(train)):
            point = hyperparameters.propose(train, seed, [(trial.point, trial.value) for trial in done])
            path = storage.join(self.folder, f"trial-{number}", run_files.TRIAL)
            _write_once(path, {"number": number, "point": point}, "other trials")
            done.append(Trial(number, point, self._run(f"trial-{number}", point, seed, "val")))
        return done

    def choose(self, trials: list[Trial]) -> Trial:
        """Returns the best trial and writes it down.

        Raises:
            UserError: if another one was chosen before, since test may have been measured with it.
        """
        best = best_of(trials)
        note = {"number": best.number, "point": best.point, "val_accuracy": best.value, "trials": len(trials)}
        _write_once(storage.join(self.folder, run_files.CHOSEN), note, "a setting that was chosen from other trials")
        return best

    def seed(self, chosen: Trial, seed: int) -> dict[str, Any]:
        """Runs the chosen setting with a seed and returns its result on test."""
        return self._run(f"seed-{seed}", chosen.point, seed, "test")


def _write_once(path: str, note: dict[str, Any], what: str) -> None:
    note = json.loads(json.dumps(note))
    if not storage.exists(path):
        storage.write_json(path, note)
    elif differs := fields.difference(run_files.read(path, run_files.PROPOSAL), note):
        raise UserError(f"{path}: is of {what}, {differs}; name another --config.workdir or remove the folder")
