"""Trains one head once: jitted steps over tables in device memory, checkpoints, metrics, predictions.

Which settings and seeds are run is left to `train`. A run that was killed goes on from its last checkpoint and
ends with the same bits: batches and dropout depend on seed and step only.
"""

import dataclasses
import functools
import json
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pyarrow as pa
from tensorboardX import SummaryWriter

from configs.base import Train
from model import heads, losses, metrics
from model.datasets import Split, Task
from model.heads import Batch
from model.memory_attention import standardize
from pipelines import schemas, storage
from pipelines.errors import UserError

RESULT_FILE = "result.json"
PREDICTIONS_FILE = "predictions.parquet"


@dataclasses.dataclass(frozen=True)
class Setting:
    """The hyperparameters that trials choose among."""

    learning_rate: float
    weight_decay: float
    dropout: float


class State(NamedTuple):
    """What a checkpoint holds."""

    params: Any
    opt_state: Any
    step: jax.Array


class Tables(NamedTuple):
    """The task in device memory, standardized once."""

    queries: jax.Array
    labels: jax.Array
    neighbors: jax.Array
    scores: jax.Array
    mask: jax.Array
    keys: jax.Array
    values: dict[str, jax.Array]

    def gather(self, rows: jax.Array) -> Batch:
        """Returns the queries of `rows` `[B]` with what they retrieved."""
        near = self.neighbors[rows]
        values = {kind: value[near] for kind, value in self.values.items()}
        return Batch(self.queries[rows], self.keys[near], values, self.scores[rows], self.mask[rows])


def tables(task: Task) -> dict[str, Tables]:
    """Puts a task into device memory; the splits share the memory's rows."""
    device_standardize = jax.jit(standardize)
    keys = device_standardize(jnp.asarray(task.keys))
    values = {kind: device_standardize(jnp.asarray(value)) for kind, value in task.values.items()}
    return {
        name: Tables(
            queries=device_standardize(jnp.asarray(split.queries)),
            labels=jnp.asarray(split.labels),
            neighbors=jnp.asarray(split.neighbors),
            scores=jnp.asarray(split.scores),
            mask=jnp.asarray(split.mask),
            keys=keys,
            values=values,
        )
        for name, split in task.splits.items()
    }


def batch_rows(seed: int, begin: int, end: int, rows: int, batch_size: int) -> np.ndarray:
    """Returns the rows of the batches of steps `begin` to `end`, int32 `[end - begin, B]`.

    Each epoch goes through a permutation of its own, drawn from `(seed, epoch)`; batches run on over its end.
    """
    first, last = begin * batch_size, end * batch_size
    epochs = range(first // rows, math.ceil(last / rows))
    order = np.concatenate([np.random.default_rng((seed, epoch)).permutation(rows) for epoch in epochs])
    offset = first - epochs[0] * rows
    return order[offset : offset + last - first].astype(np.int32).reshape(end - begin, batch_size)


class Trainer:
    """The jitted functions of one head; settings and seeds are traced, so that all runs share one compilation."""

    def __init__(self, name: str, task: Task, data: dict[str, Tables], train: Train) -> None:
        """Builds the head.

        Args:
            name: of the head.
            task: the counts of its classes.
            data: the splits in device memory.
            train: loss, widths, steps.
        """
        self.name, self.task, self.data, self.train = name, task, data, train
        self._sample = data["train"].gather(jnp.zeros(1, jnp.int32))
        self.head: nn.Module = heads.build(name, train, len(task.class_counts), self._sample)
        self._log_prior = losses.log_prior(task.class_counts)
        warmup = round(train.warmup_share * train.steps)
        self._shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, train.steps)
        self._init = jax.jit(functools.partial(heads.init, self.head))
        self._steps = jax.jit(self._run_steps, donate_argnums=0)
        self._predict = jax.jit(self._forward)

    def _optimizer(self, learning_rate: jax.Array, weight_decay: jax.Array) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(),
            # Matrices decay, biases and scales do not.
            optax.add_decayed_weights(weight_decay, lambda params: jax.tree.map(lambda p: p.ndim > 1, params)),
            optax.scale_by_learning_rate(lambda step: learning_rate * self._shape(step)),
        )

    def start(self, seed: int) -> State:
        """Returns the state before the first step."""
        params = self._init(self._sample, seed)
        return State(params, self._optimizer(0.0, 0.0).init(params), jnp.zeros((), jnp.int32))

    def _loss(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        if self.train.loss == "lace":
            return losses.lace(logits, labels, self._log_prior, self.train.tau)
        return losses.cross_entropy(logits, labels, self.train.label_smoothing)

    def _run_steps(
        self, state: State, rows: jax.Array, data: Tables, setting: jax.Array, seed: jax.Array
    ) -> tuple[State, jax.Array]:
        learning_rate, weight_decay, rate = setting
        optimizer = self._optimizer(learning_rate, weight_decay)

        def step(state: State, batch_rows: jax.Array) -> tuple[State, jax.Array]:
            rng = jax.random.fold_in(jax.random.key(seed), state.step)
            batch = data.gather(batch_rows)

            def loss_of(params: Any) -> jax.Array:
                logits, _ = self.head.apply({"params": params}, batch, rate, rng)
                return self._loss(logits, data.labels[batch_rows])

            loss, gradients = jax.value_and_grad(loss_of)(state.params)
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            return State(optax.apply_updates(state.params, updates), opt_state, state.step + 1), loss

        return jax.lax.scan(step, state, rows)

    def steps(self, state: State, seed: int, end: int, setting: Setting) -> tuple[State, float]:
        """Runs up to step `end`; returns the new state and the mean loss of these steps."""
        begin, labels = int(state.step), self.data["train"].labels
        rows = batch_rows(seed, begin, end, len(labels), self.train.batch_size)
        traced = jnp.array([setting.learning_rate, setting.weight_decay, setting.dropout], jnp.float32)
        state, step_losses = self._steps(state, rows, self.data["train"], traced, seed)
        return state, float(step_losses.mean())

    def _forward(self, params: Any, data: Tables, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, weights = self.head.apply({"params": params}, data.gather(rows), 0.0, None)
        return logits.argmax(-1), weights

    def predict(self, params: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns predicted classes int32 `[N]` and attention weights `[N, K]` (`[N, 0]` without attention)."""
        data, size = self.data[split], self.train.batch_size
        count = len(data.labels)
        classes, weights = [], []
        for first in range(0, count, size):
            # The last batch is filled up with row 0, so that there is one shape to compile.
            rows = np.arange(first, first + size)
            part = self._predict(params, data, np.where(rows < count, rows, 0).astype(np.int32))
            classes.append(np.asarray(part[0], np.int32))
            weights.append(np.asarray(part[1], np.float32))
        return np.concatenate(classes)[:count], np.concatenate(weights)[:count]

    def accuracy(self, params: Any, split: str) -> dict[str, float]:
        """Returns the accuracies on a split, overall and by shot group."""
        return metrics.accuracy(self.predict(params, split)[0], self.task.splits[split].labels, self.groups)

    @property
    def groups(self) -> np.ndarray:
        """Shot group of each class."""
        return metrics.shot_groups(self.task.class_counts, self.train.many_over, self.train.few_under)


class _Log:
    """`metrics.jsonl` and TensorBoard events of one run, without what came after the checkpoint it goes on from."""

    def __init__(self, folder: pathlib.Path, step: int) -> None:
        self._file = folder / "metrics.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        # A line that a kill cut short cannot be parsed, and its step is run again.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        with storage.atomic_write(str(self._file)) as file:
            file.write("".join(line + "\n" for line in kept).encode())
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._events.close()


def _write_predictions(
    path: str, trainer: Trainer, params: Any, split_name: str, metadata: dict[str, str]
) -> np.ndarray:
    predicted, weights = trainer.predict(params, split_name)
    split: Split = trainer.task.splits[split_name]
    columns = {"query_id": pa.array(split.ids), "label": pa.array(split.labels), "predicted": pa.array(predicted)}
    if weights.shape[-1]:
        field = pa.field("attention", pa.list_(pa.float32(), weights.shape[-1]))
        columns["attention"] = schemas.fixed_list(weights, field)
    schemas.write(path, pa.table(columns), metadata)
    return predicted


def run(
    trainer: Trainer,
    folder: str,
    setting: Setting,
    seed: int,
    split: str,
    config_hash: str,
    on_steps: Callable[[int], None],
) -> dict[str, Any]:
    """Trains once, or goes on from the last checkpoint, or returns the result of a run that is done.

    Args:
        trainer: of the head.
        folder: of this run; its `result.json` is written last.
        setting: hyperparameters.
        seed: of first parameters, batches and dropout.
        split: the result is measured on; predictions are written if it is `test`.
        config_hash: of the folder of all runs.
        on_steps: is told the number of steps done.

    Returns:
        `head`, `seed`, `setting`, `accuracy` (fractions), `val_accuracy` and `train_secs`, which of a run that was
        interrupted are those of its last part.

    Raises:
        UserError: if the loss is not a number.
    """
    result_path = storage.join(folder, RESULT_FILE)
    train = trainer.train
    if storage.exists(result_path):
        on_steps(train.steps)
        return storage.read_json(result_path)
    begin = time.monotonic()
    local = pathlib.Path(folder).absolute()
    local.mkdir(parents=True, exist_ok=True)
    state = trainer.start(seed)
    with ocp.CheckpointManager(
        local / "checkpoints", options=ocp.CheckpointManagerOptions(max_to_keep=1)
    ) as checkpoints:
        if (latest := checkpoints.latest_step()) is not None:
            try:
                state = checkpoints.restore(latest, args=ocp.args.StandardRestore(state))
            except Exception as error:
                # Orbax lets through whatever the reader of the broken file raises.
                reason = str(error).partition("\n")[0][:200]
                raise UserError(f"{local / 'checkpoints'}: cannot be read ({reason}); remove {local}") from error
        log = _Log(local, int(state.step))
        while (step := int(state.step)) < train.steps:
            end = min(step + train.checkpoint_every, train.steps)
            state, loss = trainer.steps(state, seed, end, setting)
            if not math.isfinite(loss):
                raise UserError(
                    f"{folder}: the loss became {loss} between steps {step} and {end}; "
                    f"the likely cause is the learning rate {setting.learning_rate:g}; take a smaller one"
                )
            log.write(end, {"loss": loss, **{f"val_{k}": v for k, v in trainer.accuracy(state.params, "val").items()}})
            checkpoints.save(end, args=ocp.args.StandardSave(state))
            on_steps(end)
        log.close()
    val = trainer.accuracy(state.params, "val")
    measured = val
    if split == "test":
        metadata = {"config_hash": config_hash, "head": trainer.name, "seed": str(seed)}
        path = storage.join(folder, PREDICTIONS_FILE)
        predicted = _write_predictions(path, trainer, state.params, split, metadata)
        measured = metrics.accuracy(predicted, trainer.task.splits[split].labels, trainer.groups)
    result = {
        "head": trainer.name,
        "seed": seed,
        "setting": dataclasses.asdict(setting),
        "split": split,
        "accuracy": measured,
        "val_accuracy": val,
        "train_secs": round(time.monotonic() - begin, 3),
    }
    storage.write_json(result_path, result)
    return result
