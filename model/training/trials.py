"""The trials of one head on val, and the setting that they choose: what `train` and `sweep` share.

Which settings there are is left to `search`, one run to `train_loop`. Nothing here looks at test.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from configs.base import Config, Train
from model.data import datasets, host_tables, parallel, tables
from model.data.datasets import Task
from model.data.tables import Source
from model.training import hyperparameters, preparation, run_files, train_loop
from model.training.hyperparameters import Point
from model.training.trainer import Setting, Trainer
from pipelines import fields, manifest, storage
from pipelines.errors import UserError
from pipelines.progress import Stage


def check(config: Config) -> None:
    """Raises a `UserError` for what the fields cannot know: devices, storage, and how many trials there are."""
    if "://" in config.runs_dir:
        raise UserError(f"--config.workdir={config.workdir}: must be a local folder to train in")
    parallel.check(config.train.batch_size, "train.batch_size")
    hyperparameters.budget(config.train)


def load(config: Config, splits: Sequence[str]) -> tuple[Task, Mapping[str, Source], str]:
    """Loads the task and claims the folder of its runs.

    Args:
        config: the whole configuration.
        splits: that runs may look at.

    Returns:
        The task and where its batches come from, of these splits only, and the folder.

    Raises:
        UserError: if an earlier stage has not finished, or its outputs are not what the configuration says.
    """
    task = datasets.load(config)
    folder, identity = run_files.identity(config, task.fingerprint)
    manifest.claim(folder, "model.train", identity)
    storage.write_json(storage.join(folder, "config.json"), dataclasses.asdict(config))
    seen = {name: task.splits[name] for name in splits}
    task = preparation.prepare(dataclasses.replace(task, splits=seen), config.train)
    if config.train.table == "host":
        return task, host_tables.load(task, config.train.dtype, storage.join(config.runs_dir, "tables")), folder
    return task, tables.load(task, config.train.dtype), folder


@dataclasses.dataclass(frozen=True)
class Trial:
    """A setting and what it reached on val.

    Attributes:
        number: from 0.
        point: value of each axis.
        result: as `train_loop.run` returns it.
    """

    number: int
    point: Point
    result: dict[str, Any]

    @property
    def value(self) -> float:
        """Overall val accuracy, 0 to 1; 0 of a run whose loss became no number."""
        return 0.0 if self.diverged else self.result["accuracy"]["all"]

    @property
    def diverged(self) -> bool:
        """Whether the loss became no number."""
        return bool(self.result.get("diverged"))


def best_of(trials: list[Trial]) -> Trial:
    """Returns the trial with the best val accuracy, the first of equals; a `UserError` if all diverged."""
    sound = [trial for trial in trials if not trial.diverged]
    if not sound:
        why = trials[0].result["diverged"]
        raise UserError(f"all {len(trials)} trials of {trials[0].result['head']} diverged, the first: {why}")
    return max(sound, key=lambda trial: trial.value)


class Progress:
    """Counts runs and steps for the stage."""

    def __init__(self, stage: Stage, runs: int) -> None:
        """Nothing is done yet.

        Args:
            stage: is shown it.
            runs: that there will be.
        """
        self._stage, self._runs, self._done, self._steps = stage, runs, 0, 0
        stage.update(0.0, 0)

    def run(self, run: Callable[[Callable[[int], None]], dict[str, Any]], steps: int) -> dict[str, Any]:
        """Calls a run with a function that is told its steps, of `steps`; returns its result."""

        def on_steps(done: int) -> None:
            self._stage.update((self._done + done / steps) / self._runs, self._steps + done)

        result = run(on_steps)
        self._done, self._steps = self._done + 1, self._steps + steps
        return result


class Runs:
    """The runs of one head; settings that change no shape share one compilation."""

    def __init__(
        self, name: str, config: Config, task: Task, data: Mapping[str, Source], folder: str, progress: Progress
    ) -> None:
        """Runs nothing yet.

        Args:
            name: of the head.
            config: the whole configuration.
            task: that is learned.
            data: where the batches of its splits come from.
            folder: of all runs.
            progress: is told what was done.
        """
        self._name, self._config, self._task, self._data, self._progress = name, config, task, data, progress
        self._folder = storage.join(folder, name)
        self._config_hash = manifest.fingerprint(storage.read_json(storage.join(folder, manifest.STAGE_FILE)))
        self.trainer = functools.cache(self._trainer)

    def _trainer(self, train: Train) -> Trainer:
        fields.check(train, "train.")
        parallel.check(train.batch_size, "train.batch_size")
        return Trainer(self._name, self._task, self._data, train)

    def _run(self, name: str, point: Point, seed: int, split: str) -> dict[str, Any]:
        train = hyperparameters.with_fields(self._config.train, point)
        setting = Setting(**{name: point[name] for name in hyperparameters.SETTING})
        run = functools.partial(
            train_loop.run, self.trainer(train), storage.join(self._folder, name), setting, seed, split
        )
        return self._progress.run(functools.partial(run, self._config_hash), train.steps)

    def trials(self) -> list[Trial]:
        """Runs the trials that are not done, each judged on val, and returns all."""
        train, seed = self._config.train, self._config.seed
        done: list[Trial] = []
        for number in range(hyperparameters.budget(train)):
            point = hyperparameters.propose(train, seed, [(trial.point, trial.value) for trial in done])
            path = storage.join(self._folder, f"trial-{number}", run_files.TRIAL)
            _write_once(path, {"number": number, "point": point}, "another search")
            done.append(Trial(number, point, self._run(f"trial-{number}", point, seed, "val")))
        return done

    def choose(self, trials: list[Trial]) -> Trial:
        """Returns the best trial and notes it.

        Raises:
            UserError: if another one was chosen before: test may have been looked at with it.
        """
        best = best_of(trials)
        note = {"number": best.number, "point": best.point, "val_accuracy": best.value, "trials": len(trials)}
        _write_once(storage.join(self._folder, run_files.CHOSEN), note, "a setting that was chosen from other trials")
        return best

    def seed(self, chosen: Trial, seed: int) -> dict[str, Any]:
        """Runs the chosen setting with a seed and returns what it reached on test."""
        return self._run(f"seed-{seed}", chosen.point, seed, "test")


def _write_once(path: str, note: dict[str, Any], what: str) -> None:
    note = json.loads(json.dumps(note))
    if not storage.exists(path):
        storage.write_json(path, note)
    elif (found := storage.read_json(path)) != note:
        name = next(name for name in note if found.get(name) != note[name])
        raise UserError(
            f"{path}: is of {what}, {name} was {found.get(name)!r} and is now {note[name]!r}; "
            "name another --config.workdir or remove the folder"
        )
