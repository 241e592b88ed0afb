"""Clean images first, noisy ones later and with less weight."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.data.sampling import Stage
from model.objectives import curriculum, losses
from model.objectives.base import Forward, Objective, Step, branches


class CurriculumNet(Objective):
    """Weighted cross entropy on clean images, then also on noisy, then on all (Guo et al., ECCV 2018)."""

    @functools.cached_property
    def _subsets(self) -> np.ndarray:
        """Which training images are clean, noisy and highly noisy, by their queries; not needed for predictions."""
        features = np.asarray(self.facts.queries, np.float32)
        return curriculum.subsets(features, np.asarray(self.facts.labels), self.train.curriculum.density)

    @functools.cached_property
    def _weights(self) -> np.ndarray:
        return np.asarray(self.train.curriculum.weights, np.float32)[self._subsets]

    def stages(self) -> tuple[Stage, ...]:
        """See `Objective.stages`."""
        firsts = [0, *(round(share * self.train.steps) for share in self.train.curriculum.starts)]
        return tuple(Stage(first, np.flatnonzero(self._subsets <= worst)) for worst, first in enumerate(firsts))

    def loss(self, forward: Forward, step: Step) -> tuple[jax.Array, Any]:
        """See `Objective.loss`."""
        output, weights = forward(step.head, step.batch, step.rng), jnp.asarray(self._weights)[step.rows]
        smoothing = self.train.label_smoothing
        each = [losses.cross_entropy(logits, step.labels, smoothing, weights) for logits in branches(output)]
        return sum(each, jnp.zeros(())), step.state
