"""The trials of one head on val, and the setting that they choose: shared by `train` and `sweep`.

`hyperparameters` proposes settings, `train_loop` runs one. Nothing here reads test, except `Runs.seed`.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from configs.base import Places, Train
from model.data import datasets, host_tables, parallel, sampling, tables
from model.data.datasets import Task
from model.data.tables import Source
from model.heads import registry
from model.measures import metrics
from model.training import hyperparameters, preparation, run_files, train_loop
from model.training.hyperparameters import Point, Search
from model.training.trainer import Setting, Trainer
from pipelines import fields, manifest, storage
from pipelines.errors import UserError
from pipelines.progress import Stage, counted

# With so many val images an accuracy is certain to half a point, which is about what settings differ by.
_MANY_VAL = 10_000


def check(places: Places, train: Train) -> None:
    """Raises a `UserError` for what the fields cannot know: devices, storage, and the axes of the trials."""
    if "://" in places.runs:
        raise UserError(f"--config.workdir={places.workdir}: must be a local folder to train in")
    parallel.check(train.batch_size, "train.batch_size")
    lengths(train)


def search(name: str, train: Train, longest: int = 0, fixed: str = "") -> Search:
    """Returns what the trials of a head vary.

    Args:
        name: of the head.
        train: the training configuration.
        longest: length of the neighbour lists; 0 if it is not known yet.
        fixed: as of `Search`.
    """
    head = registry.get(name)
    return Search(train, head.space, head.trained, longest, fixed)


def lengths(train: Train, longest: int = 0, seeds: bool = True, fixed: str = "") -> list[int]:
    """Returns the steps of all runs that are certain: the trials of each head and, with `seeds`, a run of each seed."""
    found = []
    for name in train.heads:
        found += search(name, train, longest, fixed).lengths
        found += [train.steps] * len(train.seeds) if seeds else []
    return found


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
    lists = manifest.Neighbors.open(places.neighbors)
    folder, identity = run_files.identity(places, seed, train, lists.fingerprint)
    manifest.check_claim(folder, run_files.TRAIN, identity)
    found = {}
    for name in train.heads:
        steps = {
            f"trial-{number}": steps for number, steps in enumerate(search(name, train, train.k or lists.k).lengths)
        }
        steps |= {f"seed-{number}": train.steps for number in train.seeds} if seeds else {}
        left = [steps[run] for run in steps if not run_files.is_done(storage.join(folder, name, run))]
        would = f"would train {len(left):,} of {sum(left):,} steps in all" if left else "nothing to train"
        found[name] = f"{len(steps) - len(left):,} of {counted(len(steps), 'run')} done; {would}"
    return {**found, "output": folder}


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
        """What trials are compared by, see `metrics.balanced`, 0 to 1; 0 if the run diverged."""
        return 0.0 if self.diverged else metrics.balanced(self.result["accuracy"])

    @property
    def accuracy(self) -> float:
        """Overall val accuracy, 0 to 1; 0 if the run diverged."""
        return 0.0 if self.diverged else self.result["accuracy"]["all"]

    @property
    def steps(self) -> int:
        """Steps of the run; 0 where all runs have the same number."""
        return self.point.get("steps", 0)

    @property
    def divisions(self) -> int:
        """Divisions of the train and val images that the result is the mean of."""
        return int(self.result.get("divisions", 1))

    @property
    def diverged(self) -> bool:
        """Whether the loss became NaN or infinite."""
        return bool(self.result.get("diverged"))


def best_of(trials: list[Trial]) -> Trial:
    """Returns the best of the trials with all steps, the first of ties; a `UserError` if all of them diverged."""
    longest = max(trial.steps for trial in trials)
    whole = [trial for trial in trials if trial.steps == longest]
    sound = [trial for trial in whole if not trial.diverged]
    if not sound:
        first = whole[0].result
        raise UserError(f"all {len(whole)} trials of {first['head']} diverged, the first: {first['diverged']}")
    return max(sound, key=lambda trial: trial.value)


def _joined(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the first result with the mean accuracies of all and how many they are; one that diverged, if any did."""
    for result in results:
        if result.get("diverged"):
            return result
    means = {name: sum(r["accuracy"][name] for r in results) / len(results) for name in results[0]["accuracy"]}
    return {**results[0], "accuracy": means, "divisions": len(results)}


def read_trials(folder: str, count: int) -> list[Trial]:
    """Returns the trials of a head that still have their files.

    Args:
        folder: of the runs of the head.
        count: number of trials.
    """
    found = []
    for number in range(count):
        place = storage.join(folder, f"trial-{number}")
        folds = [place]
        while run_files.is_done(storage.join(place, f"fold-{len(folds)}")):
            folds.append(storage.join(place, f"fold-{len(folds)}"))
        if run_files.is_done(place):
            point = run_files.read(storage.join(place, run_files.TRIAL), run_files.PROPOSAL)["point"]
            read = [run_files.read(storage.join(fold, run_files.RESULT), {"accuracy": dict}) for fold in folds]
            found.append(Trial(number, point, _joined(read)))
    return found


class Progress:
    """Reports runs and steps to the stage."""

    def __init__(self, stage: Stage, steps: int) -> None:
        """Nothing is done yet.

        Args:
            stage: shows the progress.
            steps: of all runs that are certain.
        """
        self._stage, self._expected, self._done = stage, steps, 0
        stage.update(0.0, 0)

    def expect(self, steps: int) -> None:
        """Adds the steps of a run that was not certain."""
        self._expected += steps

    def run(self, run: Callable[[Callable[[int], None]], dict[str, Any]], steps: int) -> dict[str, Any]:
        """Calls a run of `steps` steps with a function that reports how many are done; returns its result."""
        first = True

        def on_steps(done: int) -> None:
            nonlocal first
            # What a run begins with was done before it was interrupted.
            total = self._done + done
            self._stage.update(total / self._expected, total, ours=not (first and done))
            first = False

        result = run(on_steps)
        self._done += steps
        return result


class Runs:
    """The runs of one head; settings that change no shape share one compilation.

    Attributes:
        folder: of these runs.
        trainer: the trainer of a training configuration with all steps, cached.
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
        fixed: str = "",
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
            fixed: as of `Search`.
        """
        self._name, self._seed, self._task, self._data = name, seed, task, data
        self._train = train
        longest = 0 if task is None else task.splits["train"].neighbors.shape[1]
        self._search = search(name, train, longest, fixed)
        self.folder, self._progress = storage.join(folder, name), progress
        self._folds = train.folds if task is not None and _can_divide(task, train) else 1
        self._division = functools.cache(self._divided)
        self._config_hash = manifest.fingerprint(manifest.read_identity(folder))
        self.trainer = functools.cache(self._trainer)

    def _trainer(self, train: Train) -> Trainer:
        fields.check(train, "train.")
        parallel.check(train.batch_size, "train.batch_size")
        return Trainer(self._name, self._task, self._data, train)

    def _divided(self, fold: int) -> tuple[Task, Mapping[str, Any]]:
        splits = self._task.splits
        data: Any = self._data
        rows = sampling.divide(splits["train"].labels, splits["val"].labels, self._seed, fold)
        task, own = datasets.divided(self._task, *rows), tables.divided(data, *rows)
        made = preparation.again(task, self._train, self._name)
        if made is not None:
            made = jax.tree.map(jnp.asarray, made)
            own = {split: each._replace(prepared={**each.prepared, self._name: made}) for split, each in own.items()}
        return task, own

    def _run(self, name: str, point: Point, seed: int, split: str, fold: int = 0) -> dict[str, Any]:
        train = hyperparameters.with_fields(self._train, point)
        setting = Setting(**{name: point[name] for name in hyperparameters.SETTING})
        # Steps change no choice of a head that they do not train.
        steps = train.steps if self._search.trained or split == "test" else 1
        trainer = self.trainer(dataclasses.replace(train, steps=self._train.steps)).shortened(steps)
        trainer = trainer.divided(*self._division(fold)) if fold else trainer
        run = functools.partial(train_loop.run, trainer, storage.join(self.folder, name), setting, seed, split)
        return self._progress.run(functools.partial(run, self._config_hash), train.steps)

    def trials(self) -> list[Trial]:
        """Runs the trials that are not done, each measured on val, and returns all."""
        done: list[Trial] = []
        while point := self._search.propose(self._seed, [(trial.point, trial.value) for trial in done]):
            name, number = f"trial-{len(done)}", len(done)
            if number >= len(self._search.lengths):
                self._progress.expect(point["steps"])
            path = storage.join(self.folder, name, run_files.TRIAL)
            _write_once(path, {"number": number, "point": point}, "other trials")
            results = [self._run(name, point, self._seed, "val")]
            # Only the last trials: the others are there to be dropped.
            folds = self._folds if point.get("steps", self._train.steps) == self._train.steps else 1
            for fold in range(1, folds):
                self._progress.expect(self._train.steps)
                results.append(self._run(f"{name}/fold-{fold}", point, self._seed, "val", fold))
            done.append(Trial(number, point, _joined(results)))
        return done

    def choose(self, trials: list[Trial]) -> Trial:
        """Returns the best trial and writes it down.

        Raises:
            UserError: if another one was chosen before, since test may have been measured with it.
        """
        best = best_of(trials)
        note = {
            "number": best.number,
            "point": best.point,
            "val_accuracy": best.accuracy,
            "val_score": best.value,
            "trials": len(trials),
        }
        _write_once(storage.join(self.folder, run_files.CHOSEN), note, "a setting that was chosen from other trials")
        return best

    def seed(self, chosen: Trial, seed: int) -> dict[str, Any]:
        """Runs the chosen setting with a seed and returns its result on test."""
        return self._run(f"seed-{seed}", chosen.point, seed, "test")


def _can_divide(task: Task, train: Train) -> bool:
    """Whether val is so small that its choice would be noise, and the tables can be divided again."""
    return len(task.splits["val"].labels) < _MANY_VAL and train.table == "device"


def _write_once(path: str, note: dict[str, Any], what: str) -> None:
    note = json.loads(json.dumps(note))
    if not storage.exists(path):
        storage.write_json(path, note)
        return
    written = run_files.read(path, run_files.PROPOSAL)
    # An older version wrote less.
    if differs := fields.difference(written, {name: value for name, value in note.items() if name in written}):
        raise UserError(f"{path}: is of {what}, {differs}; name another --config.workdir or remove the folder")
