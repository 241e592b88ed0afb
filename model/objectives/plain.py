"""Objectives that are a loss of the logits alone."""

from typing import Any

import jax
import jax.numpy as jnp

from model.data.batch import Output
from model.objectives import losses
from model.objectives.base import Facts, Forward, Objective, Step, branches


class OfLogits(Objective):
    """The sum over the head's branches of `of_logits`."""

    def of_logits(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns the mean loss of logits `[B, C]`."""
        raise NotImplementedError

    def loss(self, forward: Forward, step: Step) -> tuple[jax.Array, Any]:
        """See `Objective.loss`."""
        output = forward(step.head, step.batch, step.rng)
        return sum(self.of_logits(logits, step.labels) for logits in branches(output)), step.state


class CrossEntropy(OfLogits):
    """Cross entropy with label smoothing."""

    def of_logits(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """See `OfLogits.of_logits`."""
        return losses.cross_entropy(logits, labels, self.train.label_smoothing)


class Lace(OfLogits):
    """Logit-adjusted cross entropy (Menon et al., ICLR 2021, eq. 10)."""

    def __init__(self, train: Any, facts: Facts) -> None:
        """See `Objective`."""
        super().__init__(train, facts)
        self._log_prior = losses.log_prior(facts.class_counts)

    def of_logits(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        """See `OfLogits.of_logits`."""
        return losses.lace(logits, labels, self._log_prior, self.train.tau)


class PostHocLace(CrossEntropy):
    """Cross entropy, whose logits are adjusted when it predicts (Menon et al., ICLR 2021, eq. 9)."""

    def scores(self, own: Any, output: Output) -> jax.Array:
        """See `Objective.scores`."""
        return output.logits - self.train.tau * losses.log_prior(jnp.asarray(self.facts.class_counts))
