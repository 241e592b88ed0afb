"""Iterated learning of several labels per image: a teacher of one label and a student of its answers, in turns."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from model.data.batch import Output
from model.objectives import losses
from model.objectives.base import Forward, Objective, Step, branches


class Mile(Objective):
    """Binary cross entropy on the given label, then on `1[sigmoid(teacher) > rho]` (Rajeswar et al., CVPR 2022).

    As in the authors' code, one head is trained: in its turn as teacher on the given labels; then it is copied, and as
    student it learns the labels that the copy predicts, and becomes the next teacher. Logits are lowered by log(C - 1),
    so that each class starts at a probability of 1 / C.
    """

    def init(self, rng: jax.Array, head: Any, output: Output) -> tuple[Any, Any]:
        """See `Objective.init`."""
        # Copied, since the buffers of parameters and state are donated separately.
        return {}, {"teacher": jax.tree.map(jnp.copy, head)}

    def _lowered(self, output: Output) -> list[jax.Array]:
        return [logits - math.log(max(logits.shape[-1] - 1, 1)) for logits in branches(output)]

    def loss(self, forward: Forward, step: Step) -> tuple[jax.Array, Any]:
        """See `Objective.loss`."""
        settings = self.train.mile
        turn = step.number % (settings.teacher_steps + settings.student_steps)
        copied = turn == settings.teacher_steps
        teacher = jax.tree.map(
            lambda old, new: jnp.where(copied, jax.lax.stop_gradient(new), old), step.state["teacher"], step.head
        )
        output = forward(step.head, step.batch, step.rng)
        given = jax.nn.one_hot(step.labels, output.logits.shape[-1])

        def answered() -> list[jax.Array]:
            found = self._lowered(forward(teacher, step.batch, None))
            return [(jax.nn.sigmoid(logits) > settings.threshold).astype(jnp.float32) for logits in found]

        logits = self._lowered(output)
        targets = jax.lax.cond(turn < settings.teacher_steps, lambda: [given] * len(logits), answered)
        each = [losses.binary_cross_entropy(*pair) for pair in zip(logits, targets, strict=True)]
        return sum(each, jnp.zeros(())), {"teacher": teacher}

    def scores(self, own: Any, output: Output) -> jax.Array:
        """See `Objective.scores`."""
        return sum(jax.nn.log_sigmoid(logits) for logits in self._lowered(output))
