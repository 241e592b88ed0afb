"""The jitted functions of one head and one objective: first parameters, training steps, predictions.

`train_loop` writes checkpoints and files, `trials` chooses settings.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs.base import Train
from model import objectives
from model.data import parallel
from model.data.batch import Batch, Output
from model.data.datasets import Task
from model.data.sampling import batch_rows
from model.data.tables import Source, Tables
from model.heads import registry
from model.measures import metrics


@dataclasses.dataclass(frozen=True)
class Setting:
    """The hyperparameters that trials choose among."""

    learning_rate: float
    weight_decay: float
    dropout: float


def rate_shape(step: jax.Array, total: jax.Array | int, warmup_share: float) -> jax.Array:
    """Returns the learning rate at a step, as a share of its peak: a linear warm-up, then a cosine to 0.

    Args:
        step: steps done before, int32 scalar.
        total: steps of the run; may be traced.
        warmup_share: share of the steps that warm up.
    """
    warmup = jnp.round(warmup_share * total)
    done = jnp.clip((step - warmup) / jnp.maximum(total - warmup, 1), 0, 1)
    return jnp.where(step < warmup, step / jnp.maximum(warmup, 1), 0.5 * (1 + jnp.cos(jnp.pi * done)))


def _decays(path: Any, parameter: jax.Array) -> bool:
    """Whether weight decay applies: to matrices, not to biases and scales.

    Nor to what values add: its start is a regression over the memory, which decay would undo.
    """
    names = "/".join(str(key) for key in path)
    return parameter.ndim > 1 and not any(f"'{kind}_" in names for kind in ("project", "output"))


class State(NamedTuple):
    """The contents of a checkpoint.

    Attributes:
        params: of the `head` and of the `objective`.
        opt_state: of the optimiser.
        objective: state of the objective.
        step: steps done, int32.
    """

    params: Any
    opt_state: Any
    objective: Any
    step: jax.Array


def predictor(
    name: str, head: nn.Module, objective: objectives.Objective, k: int = 0, similarity: str = "cosine"
) -> Any:
    """Returns the jitted prediction of a head, the same for test images and for new photographs.

    Args:
        name: of the head.
        head: its module.
        objective: that it was trained with.
        k: see `Tables.gather`.
        similarity: see `Tables.gather`.

    Returns:
        A function of parameters, tables and their rows `[B]`, to log-probabilities up to a constant `[B, C]` and the
        neighbours' weights `[B, K]`.
    """

    def predict(params: Any, data: Tables, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = head.apply(
            {"params": params["head"]}, data.gather(parallel.split(rows), name, k, similarity), 0.0, None
        )
        return objective.scores(params["objective"], output), output.weights

    return jax.jit(predict)


class Trainer:
    """The jitted functions of one head; settings and seeds are traced, so that all runs share one compilation.

    Attributes:
        name: of the runs: that of the head, and whether it was fine-tuned.
        kind: of the head.
    """

    def __init__(self, name: str, task: Task, data: Mapping[str, Source], train: Train) -> None:
        """Builds the head.

        Args:
            name: of the head.
            task: the task to learn.
            data: source of the batches of each split.
            train: loss, widths, steps.
        """
        self.name, self.task, self.data, self.train = name, task, data, train
        self.kind = registry.get(name)
        self._sample = self._first(data["train"])
        self.head: nn.Module = self.kind.build(train, len(task.class_counts), self._sample)
        facts = objectives.Facts(task.class_counts, data["train"].queries, data["train"].labels)
        self.objective = objectives.build(train, facts)
        self._chunk = min(train.checkpoint_every, train.steps)
        self._init = jax.jit(self._start, out_shardings=parallel.whole())
        self._steps = jax.jit(self._run_steps, donate_argnums=0, out_shardings=parallel.whole())
        self._predict = predictor(name, self.head, self.objective, train.k, train.similarity)
        self._is_finite = jax.jit(
            lambda params: jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
        )

    @property
    def reads_memory(self) -> bool:
        """Whether the head reads neighbours."""
        return self.kind.needs_neighbors

    def _first(self, source: Source) -> Batch:
        """Returns a batch of one query, which has the shapes."""
        (part, rows, _), *_ = source.parts(np.zeros((1, 1), np.int32), 1, False)
        return self._gather(part, jnp.asarray(rows[0]))

    def _gather(self, data: Tables, rows: jax.Array) -> Batch:
        batch = data.gather(rows, self.kind.name, self.train.k, self.train.similarity)
        # Among the trials may be some that start at random.
        return batch if self.train.start_at_names else batch._replace(classifier=None)

    def shortened(self, steps: int) -> "Trainer":
        """Returns a trainer of runs of another length, which shares what was compiled."""
        other = copy.copy(self)
        other.train = dataclasses.replace(self.train, steps=steps)
        other.objective = objectives.build(other.train, self.objective.facts)
        return other

    def divided(self, task: Task, data: Mapping[str, Source]) -> "Trainer":
        """Returns a trainer on other images of the same classes and numbers, which shares what was compiled."""
        if self.objective.stages():
            # Which images come in when was compiled, too.
            return Trainer(self.name, task, data, self.train)
        other = copy.copy(self)
        other.task, other.data = task, data
        other._sample = other._first(data["train"])
        return other

    def _rate(self, learning_rate: jax.Array, total: jax.Array | int) -> optax.GradientTransformation:
        share = self.train.warmup_share
        return optax.scale_by_learning_rate(lambda step: learning_rate * rate_shape(step, total, share))

    @staticmethod
    def _adam(weight_decay: jax.Array, rate: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(),
            optax.add_decayed_weights(weight_decay, lambda params: jax.tree_util.tree_map_with_path(_decays, params)),
            rate,
        )

    def _optimizer(
        self, learning_rate: jax.Array, weight_decay: jax.Array, total: jax.Array | int
    ) -> optax.GradientTransformation:
        return self._adam(weight_decay, self._rate(learning_rate, total))

    def start(self, seed: int) -> State:
        """Returns the state before the first step."""
        return self._init(self._sample, seed)

    def _start(self, sample: Batch, seed: jax.Array) -> State:
        head = registry.init(self.head, sample, seed)
        own, state = self.objective.init(
            jax.random.fold_in(jax.random.key(seed), 1), head, self._apply(head, sample, 0.0, None)
        )
        params = {"head": head, "objective": own}
        return State(params, self._optimizer(0.0, 0.0, 1).init(params), state, jnp.zeros((), jnp.int32))

    def _apply(self, head: Any, batch: Batch, rate: jax.Array | float, rng: jax.Array | None) -> Output:
        return self.head.apply({"params": head}, batch, rate, rng)

    def _descend(
        self,
        state: State,
        optimizer: optax.GradientTransformation,
        rate: jax.Array,
        seen: Callable[[Any], objectives.Step],
    ) -> tuple[State, jax.Array]:
        """Takes one step down the gradient of the loss; `seen` maps parameters to the input of the objective."""

        def forward(head: Any, batch: Batch, rng: jax.Array | None) -> Output:
            return self._apply(head, batch, rate, rng)

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            return self.objective.loss(forward, seen(params))

        (loss, objective), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return State(optax.apply_updates(state.params, updates), opt_state, objective, state.step + 1), loss

    def _run_steps(
        self,
        state: State,
        rows: jax.Array,
        count: jax.Array,
        data: Tables,
        setting: jax.Array,
        seed: jax.Array,
        total: jax.Array,
    ) -> tuple[State, jax.Array]:
        """Runs the first `count` of the given steps; the numbers are traced, so that no value compiles again."""
        learning_rate, weight_decay, rate = setting
        optimizer = self._optimizer(learning_rate, weight_decay, total)

        def step(number: jax.Array, carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
            (state, losses), batch_rows = carry, parallel.split(rows[number])
            rng = jax.random.fold_in(jax.random.key(seed), state.step)
            batch, labels = self._gather(data, batch_rows), data.labels[batch_rows]
            if self.kind.draw:
                drawn = self.kind.draw(self.train, batch, labels, state.step / total, jax.random.fold_in(rng, 4))
                batch, labels = drawn

            def seen(params: Any) -> objectives.Step:
                return objectives.Step(
                    params["head"],
                    params["objective"],
                    state.objective,
                    batch,
                    labels,
                    batch_rows,
                    state.step,
                    total,
                    rng,
                )

            done, loss = self._descend(state, optimizer, rate, seen)
            return done, losses.at[number].set(loss)

        return jax.lax.fori_loop(0, count, step, (state, jnp.zeros(len(rows))))

    def steps(self, state: State, seed: int, end: int, setting: Setting) -> tuple[State, np.ndarray]:
        """Runs up to step `end`; returns the new state and the losses of the steps, float32."""
        labels = self.task.splits["train"].labels
        traced = jnp.array([setting.learning_rate, setting.weight_decay, setting.dropout], jnp.float32)
        size, stages = self.train.batch_size, self.objective.stages()
        losses, step = [], int(state.step)
        while step < end:
            count = min(self._chunk, end - step)
            rows = np.zeros((self._chunk, size), np.int32)
            rows[:count] = batch_rows(labels, self.train.sampling, seed, step, step + count, size, stages)
            for data, part, done in self.data["train"].parts(rows, count, self.reads_memory):
                state, lost = self._steps(state, part, done, data, traced, seed, self.train.steps)
                losses.append(np.asarray(lost)[:done])
            step += count
        return state, np.concatenate(losses)

    def is_finite(self, state: State) -> bool:
        """Whether all parameters are finite."""
        return bool(self._is_finite(state.params))

    def predict(self, params: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns log-probabilities, up to a constant for each query, float32 `[N, C]`, and the neighbours' weights.

        Weights are float32 `[N, K]`, or `[N, 0]` of a head that reads no neighbours.
        """
        size, count = self.train.batch_size, len(self.data[split].labels)
        batches = -(-count // size)
        # The last batch is filled up with row 0, so that there is one shape to compile.
        rows = np.pad(np.arange(count, dtype=np.int32), (0, batches * size - count)).reshape(batches, size)
        scores, weights = [], []
        for data, part, _ in self.data[split].parts(rows, batches, self.reads_memory):
            for batch in part:
                found = self._predict(params, data, batch)
                scores.append(np.asarray(found[0], np.float32))
                weights.append(np.asarray(found[1], np.float32))
        return np.concatenate(scores)[:count], np.concatenate(weights)[:count]

    def accuracy(self, params: Any, split: str) -> dict[str, float]:
        """Returns the accuracies on a split, overall and by shot group."""
        predicted = self.predict(params, split)[0].argmax(-1)
        return metrics.accuracy(predicted, self.task.splits[split].labels, self.groups)

    @property
    def compilations(self) -> dict[str, int]:
        """Number of compilations of each function."""
        functions = {"start": self._init, "steps": self._steps, "predict": self._predict}
        return {name: function._cache_size() for name, function in functions.items()}

    @property
    def groups(self) -> np.ndarray:
        """Shot group of each class."""
        train = self.train
        return metrics.shot_groups(self.task.class_counts, train.many_over, train.few_under, train.shots)
