"""What heads share: the linear classifier, dropout, and how lists are thinned while training."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from model.data.batch import Batch, Output, standardize


def dropout(x: jax.Array, rate: jax.Array | float, rng: jax.Array | None) -> jax.Array:
    """Drops entries with probability `rate`, which may be traced; does nothing without `rng`."""
    if rng is None:
        return x
    return jnp.where(jax.random.bernoulli(rng, 1 - rate, x.shape), x / (1 - rate), 0)


def thin(batch: Batch, share: float, random_k: bool, rng: jax.Array | None) -> Batch:
    """Leaves out neighbours by the mask; does nothing without `rng`.

    Args:
        batch: B queries with K neighbours, the nearest first.
        share: of the neighbours that is left out, each on its own.
        random_k: whether each list is cut to its first k', drawn evenly from 1 to K.
        rng: key of the step, which the classifier's dropout uses, too.
    """
    if rng is None:
        return batch
    mask = batch.mask
    if share:
        mask &= jax.random.bernoulli(jax.random.fold_in(rng, 1), 1 - share, mask.shape)
    if random_k:
        length = jax.random.randint(jax.random.fold_in(rng, 2), (mask.shape[0], 1), 1, mask.shape[1] + 1)
        mask &= jnp.arange(mask.shape[1]) < length
    return batch._replace(mask=mask)


class Linear(nn.Module):
    """Logits `W_c LN(z) + b`."""

    num_classes: int

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits of the queries alone."""
        features = standardize(batch.queries)
        logits = nn.Dense(self.num_classes, name="classifier")(dropout(features, rate, rng))
        return Output(logits, features, jnp.zeros((len(features), 0)))
