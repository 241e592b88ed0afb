"""The interface of an objective: how a head is trained, and how its output becomes a prediction.

An objective may have parameters of its own, trained with the head's, and a state that each step replaces.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from configs.base import Train
from model.data.batch import Batch, Output
from model.data.sampling import Stage

# The head's output with some parameters, on a batch, with the randomness of a training step or without (None).
Forward = Callable[[Any, Batch, jax.Array | None], Output]


@dataclasses.dataclass(frozen=True)
class Facts:
    """The facts about the task that an objective may use.

    Attributes:
        class_counts: training images of each class, `[C]`.
        queries: standardized training queries, `[N, D]`.
        labels: their labels, int32 `[N]`.
    """

    class_counts: Any
    queries: Any
    labels: Any


class Step(NamedTuple):
    """One training step as an objective sees it.

    Attributes:
        head: parameters of the head.
        own: parameters of the objective.
        state: of the objective.
        batch: B queries with their neighbours.
        labels: int32 `[B]`.
        rows: of the training set, int32 `[B]`.
        number: steps done before, int32 scalar.
        total: steps of the run, int32 scalar.
        rng: key of this step's randomness.
    """

    head: Any
    own: Any
    state: Any
    batch: Batch
    labels: jax.Array
    rows: jax.Array
    number: jax.Array
    total: jax.Array | int
    rng: jax.Array


def branches(output: Output) -> tuple[jax.Array, ...]:
    """Returns the logits `[B, C]` that the loss trains one by one."""
    return output.branches or (output.logits,)


class Objective:
    """The base of all objectives, without parameters and state of its own."""

    def __init__(self, train: Train, facts: Facts) -> None:
        """Keeps the configuration.

        Args:
            train: the settings of losses.
            facts: of the task.
        """
        self.train, self.facts = train, facts

    def init(self, rng: jax.Array, head: Any, output: Output) -> tuple[Any, Any]:
        """Returns the first parameters and state; called inside jit.

        Args:
            rng: key.
            head: first parameters of the head.
            output: of the head for one query, which has the shapes.
        """
        return {}, {}

    def loss(self, forward: Forward, step: Step) -> tuple[jax.Array, Any]:
        """Returns the mean loss of a step, which is differentiated by `step.head` and `step.own`, and the new state."""
        raise NotImplementedError

    def stages(self) -> tuple[Stage, ...]:
        """Returns the rows that batches are drawn from, by step; empty for all rows in all steps."""
        return ()

    def scores(self, own: Any, output: Output) -> jax.Array:
        """Returns log-probabilities up to a constant a query, `[B, C]`; the prediction is their argmax."""
        return output.logits
