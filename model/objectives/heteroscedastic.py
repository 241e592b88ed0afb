"""Logits with noise whose size and direction depend on the image."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from model.data.batch import Output
from model.objectives import losses
from model.objectives.base import Forward, Objective, Step, branches

# Keys of a step that forward passes do not use.
_NOISE = 100
_MIN_SCALE = 1e-3
# Noise starts at a tenth of the usual size, so that training starts near the head's own logits.
_INIT = nn.initializers.variance_scaling(0.01, "fan_in", "normal")


class Heteroscedastic(Objective):
    """Negative log-likelihood of `mean_S softmax(u / T)`, `u = mu + V e_R + d e` (Collier et al., CVPR 2021).

    mu is the head's logits; V = W_V f + b_V of rank R and d = softplus(W_d f + b_d) + 1e-3 are linear in the features f
    that the classifier reads. In training each image draws its own noise; predictions are the mean over samples from a
    fixed key that all images share, so that they do not depend on the batch.
    """

    def init(self, rng: jax.Array, head: Any, output: Output) -> tuple[Any, Any]:
        """See `Objective.init`."""
        dim, classes = output.features.shape[-1], output.logits.shape[-1]
        factors, scale = jax.random.split(rng)
        rank = self.train.heteroscedastic.rank
        own = {
            "factors": {"kernel": _INIT(factors, (dim, classes * rank)), "bias": jnp.zeros(classes * rank)},
            "scale": {"kernel": _INIT(scale, (dim, classes)), "bias": jnp.zeros(classes)},
        }
        return own, {}

    def _log_probabilities(self, own: Any, output: Output, rng: jax.Array, images: int) -> list[jax.Array]:
        settings, (size, classes) = self.train.heteroscedastic, output.logits.shape
        factors = output.features @ own["factors"]["kernel"] + own["factors"]["bias"]
        scales = jax.nn.softplus(output.features @ own["scale"]["kernel"] + own["scale"]["bias"]) + _MIN_SCALE
        low, diagonal = jax.random.split(rng)
        noise = (
            jax.random.normal(low, (settings.samples, images, settings.rank)),
            jax.random.normal(diagonal, (settings.samples, images, classes)),
        )
        factors = factors.reshape(size, classes, settings.rank)
        return [
            losses.noisy_log_probabilities(logits, factors, scales, noise, settings.temperature)
            for logits in branches(output)
        ]

    def loss(self, forward: Forward, step: Step) -> tuple[jax.Array, Any]:
        """See `Objective.loss`."""
        output = forward(step.head, step.batch, step.rng)
        rng = jax.random.fold_in(step.rng, _NOISE)
        found = self._log_probabilities(step.own, output, rng, len(step.labels))
        # The cross entropy of normalized log-probabilities is their negative log-likelihood.
        return sum(losses.cross_entropy(log_probabilities, step.labels) for log_probabilities in found), step.state

    def scores(self, own: Any, output: Output) -> jax.Array:
        """See `Objective.scores`."""
        return sum(self._log_probabilities(own, output, jax.random.key(0), 1))
