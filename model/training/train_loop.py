"""Trains one head once: checkpoints, metrics, predictions.

A run that was interrupted resumes from its last checkpoint and ends with the same bits, because batches and dropout
depend only on seed and step. `trials` chooses settings and seeds.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from model.data import array_files
from model.data.datasets import Split
from model.data.sampling import batch_rows
from model.measures import metrics, new_classes
from model.measures.events import Events
from model.training import divergence, hyperparameters, run_files
from model.training.checkpoints import Checkpoints
from model.training.divergence import Diverged
from model.training.trainer import Setting, State, Trainer
from pipelines import schemas, storage

_NOTHING = dict.fromkeys((*metrics.GROUPS, "all"), 0.0)


class _Log:
    """`metrics.jsonl` and TensorBoard events of one run; drops lines after the checkpoint that it resumes from."""

    def __init__(self, folder: pathlib.Path, step: int, settings: Mapping[str, Any]) -> None:
        self._file = folder / run_files.METRICS
        kept = run_files.metrics_until(self._file.read_bytes() if self._file.exists() else b"", step)
        with storage.atomic_write(str(self._file)) as file:
            file.write(kept)
        self.events = Events(folder, settings, kept)

    def write(self, step: int, values: dict[str, float]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self.events.write(step, values)


def _hyperparameters(trainer: Trainer, of: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the table of hyperparameters says of a run: what it is, and the value on each axis of the trials."""
    axes = dict.fromkeys([*trainer.kind.space, *(entry.partition("=")[0] for entry in trainer.train.space)])
    chosen = {axis: hyperparameters.field(trainer.train, axis) for axis in axes}
    return {"head": of["head"], "split": of["split"], "seed": of["seed"], **of["setting"], **chosen}


def _write_predictions(folder: str, trainer: Trainer, params: Any, metadata: dict[str, str]) -> dict[str, Any]:
    """Writes the predictions on test and returns how good they are."""
    scores, weights = trainer.predict(params, "test")
    classes, probabilities = metrics.top_classes(scores)
    predicted = classes[:, 0]
    split: Split = trainer.task.splits["test"]
    columns = {
        "query_id": pa.array(split.ids),
        "label": pa.array(split.labels),
        "predicted": pa.array(predicted),
        "top_classes": schemas.fixed_list(classes, pa.field("", pa.list_(pa.int32(), classes.shape[1]))),
        "probabilities": schemas.fixed_list(probabilities, pa.field("", pa.list_(pa.float32(), classes.shape[1]))),
    }
    if weights.shape[-1]:
        field = pa.field("attention", pa.list_(pa.float32(), weights.shape[-1]))
        columns["attention"] = schemas.fixed_list(weights, field)
    path = storage.join(folder, run_files.PREDICTIONS)
    schemas.write(path, pa.table(columns), metadata)
    return {
        "predictions_sha256": storage.sha256(path),
        "accuracy": metrics.accuracy(predicted, split.labels, trainer.groups),
        "top5": metrics.top_accuracy(classes, split.labels),
        "ece": metrics.calibration_error(probabilities[:, 0], predicted == split.labels),
    }


def _new_classes(trainer: Trainer, params: Any) -> dict[str, Any]:
    """Returns what to add to the scores of classes that are known by their names alone, if the head takes such."""
    unlabelled = trainer.kind.unlabelled
    if unlabelled is None:
        return {}
    without = {**params, "head": unlabelled(params["head"])}
    scores, names_alone = (trainer.predict(each, "val")[0] for each in (params, without))
    labels = trainer.task.splits["val"].labels
    return {"new_class_offset": new_classes.offset(scores, names_alone, labels)}


def _cause(trainer: Trainer, seed: int, step: int, setting: Setting) -> str:
    train, labels = trainer.train, trainer.task.splits["train"].labels
    # An input of the previous batch that is not finite reaches this loss through the parameters.
    stages = trainer.objective.stages()
    rows = batch_rows(labels, train.sampling, seed, max(step - 2, 0), step, train.batch_size, stages)
    return divergence.cause(trainer.task, rows.ravel(), setting.learning_rate, trainer.reads_memory)


def _train(
    trainer: Trainer,
    local: pathlib.Path,
    setting: Setting,
    seed: int,
    of: Mapping[str, Any],
    on_steps: Callable[[int], None],
) -> State:
    """Trains to the last step, from the last checkpoint if there is one; it must be `of` the same run."""
    train = trainer.train
    with Checkpoints(local, of) as checkpoints:
        state = checkpoints.restore(trainer.start(seed))
        on_steps(int(state.step))
        log = _Log(local, int(state.step), _hyperparameters(trainer, of))
        while (step := int(state.step)) < train.steps:
            end = min(step + train.checkpoint_every, train.steps)
            state, losses = trainer.steps(state, seed, end, setting)
            if (bad := divergence.first_bad(losses)) is not None or not trainer.is_finite(state):
                log.events.close()
                at = end if bad is None else step + bad + 1
                what = "parameters are not finite after" if bad is None else f"loss is {losses[bad]} at"
                kept = f"the last good checkpoint is that of step {step}, in {local / 'checkpoints'}"
                raise Diverged(
                    f"{local}: the {what} step {at}; {_cause(trainer, seed, at, setting)}; "
                    f"{kept if step else 'there is no checkpoint yet'}"
                )
            accuracies = {f"val_{name}": value for name, value in trainer.accuracy(state.params, "val").items()}
            log.write(end, {"loss": float(losses.mean()), **accuracies})
            checkpoints.save(end, state, local / run_files.METRICS)
            on_steps(end)
        log.events.finish()
    return state


def run(
    trainer: Trainer,
    folder: str,
    setting: Setting,
    seed: int,
    split: str,
    config_hash: str,
    on_steps: Callable[[int], None],
) -> dict[str, Any]:
    """Trains once, resumes from the last checkpoint, or returns the result of a finished run.

    Args:
        trainer: of the head.
        folder: of this run; its `result.json` is written last.
        setting: hyperparameters.
        seed: of first parameters, batches and dropout.
        split: `val` for a trial; `test` to measure on test and write predictions.
        config_hash: of the folder of all runs.
        on_steps: called with the number of steps that are done, first with those that were done before.

    Returns:
        `head`, `seed`, `setting`, `split`, `config_hash`, `accuracy` (fractions), `metrics_sha256`, on test also
        `top5`, `ece`, `parameters_sha256` and `predictions_sha256`, `val_accuracy` and `train_secs` (of an interrupted
        run only those since it resumed). A trial that diverged has accuracies of 0 and the reason in `diverged`.
        `new_class_offset` is that of `measures.new_classes`, of heads that take classes without images. `reading` is
        the speed of reading if batches were read from files (`host_tables.Meter.rates`).

    Raises:
        Diverged: if a run that is no trial diverged.
        UserError: if the checkpoint or the result is damaged or of another run.
    """
    of = {"head": trainer.name, "seed": seed, "setting": dataclasses.asdict(setting), "split": split}
    of["config_hash"] = config_hash
    if run_files.is_done(folder):
        on_steps(trainer.train.steps)
        return run_files.read_result(folder, of)
    begin = time.monotonic()
    local = pathlib.Path(folder).absolute()
    local.mkdir(parents=True, exist_ok=True)
    storage.remove_temporaries(str(local), deep=False)
    result = dict(of)
    try:
        params = _train(trainer, local, setting, seed, of, on_steps).params
    except Diverged as error:
        if split != "val":
            raise
        on_steps(trainer.train.steps)
        result |= {"diverged": str(error), "accuracy": _NOTHING, "val_accuracy": _NOTHING}
    else:
        val = trainer.accuracy(params, "val")
        result |= {"accuracy": val, "val_accuracy": val}
        if split == "test":
            metadata = {"config_hash": config_hash, "head": trainer.name, "seed": str(seed)}
            path = storage.join(folder, run_files.PARAMETERS)
            result |= _new_classes(trainer, params)
            result["parameters_sha256"] = array_files.write(path, params, metadata)
            result |= _write_predictions(folder, trainer, params, metadata)
    if rates := trainer.data["train"].rates():
        result["reading"] = rates
    result["train_secs"] = round(time.monotonic() - begin, 3)
    result["metrics_sha256"] = storage.sha256(str(local / run_files.METRICS))
    storage.write_json(storage.join(folder, run_files.RESULT), result)
    return result
