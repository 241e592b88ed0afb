"""The head that reads the names of the classes, `mam_names`: ours, not the paper's (docs/method.md).

Two answers that need no labels, what the memory shows under each name (`name_prior`) and which classes the captions
of the neighbours name, and a linear classifier that learns what they miss. All three are logits that are added.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from configs.base import Names
from model.data.batch import Batch, Output, standardize
from model.heads.linear import dropout, thin
from model.heads.memory_attention import masked_softmax
from model.prepare.name_prior import cosines, posterior


class NameHead(nn.Module):
    """Logits `W y + b - r |y - y_c|^2 / 2 + u log(sum_j a_j q_jc + e)`, y the whitened query, y_c the class's mean.

    Attributes:
        num_classes: C.
        names: the scalars, or their first values.
        neighbor_dropout: share of the neighbours that is left out of each list while training.
        random_k: whether lists are cut to a random length while training.
    """

    num_classes: int
    names: Names
    neighbor_dropout: float
    random_k: bool

    def _scalar(self, name: str, first: float) -> jax.Array:
        # Relative to its first value, so that a step of the optimiser changes it by a fair share.
        return first * self.param(name, nn.initializers.ones, ())

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits, and as weights how much each neighbour speaks for the classes that are predicted."""
        batch = thin(batch, self.neighbor_dropout, self.random_k, rng)
        first, whitening, means = self.names, batch.classes["name_whitening"], batch.classes["name_means"]
        y = standardize(batch.queries) @ whitening[:-1] + whitening[-1]
        # What is the same for all classes is left out.
        prior = y @ means.T - jnp.square(means).sum(-1) / 2
        classifier = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="classifier")
        attention = masked_softmax(self._scalar("similarity", first.similarity_scale) * batch.scores, batch.mask)
        named = posterior(
            cosines(batch.values["text"], standardize(batch.classes["names_text"])), first.temperature, first.threshold
        )
        votes = jnp.einsum("bk,bkc->bc", attention, named)
        logits = (
            classifier(dropout(y, rate, rng))
            + self._scalar("prior", first.prior_scale) * prior
            + self._scalar("vote", first.vote_weight) * jnp.log(votes + first.smoothing)
        )
        speaks = attention * jnp.einsum("bkc,bc->bk", named, jax.nn.softmax(logits))
        return Output(logits, y, speaks / jnp.maximum(speaks.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny))
