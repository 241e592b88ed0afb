"""Neighbour consistency: pulls an image's prediction towards those of its neighbours in the batch."""

from typing import Any

import jax
import jax.numpy as jnp

from model.objectives import losses
from model.objectives.base import Forward, Objective, Step, branches


class Ncr(Objective):
    """`(1 - a) CE + a T^2 KL(neighbours || image)` (Iscen et al., CVPR 2022); cross entropy alone at first.

    Neighbours are those of the classifier's input features, without dropout.
    """

    def loss(self, forward: Forward, step: Step) -> tuple[jax.Array, Any]:
        """See `Objective.loss`."""
        settings = self.train.ncr
        output = forward(step.head, step.batch, step.rng)
        weight = jnp.where(step.number >= jnp.round(settings.start * step.total), settings.weight, 0.0)
        near = losses.neighbor_weights(output.features, settings.neighbors, settings.gamma)
        total = jnp.zeros(())
        for logits in branches(output):
            plain = losses.cross_entropy(logits, step.labels, self.train.label_smoothing)
            total += (1 - weight) * plain + weight * losses.consistency(logits, near, settings.temperature)
        return total, step.state
