"""The linear classifier on the query alone, and what the other heads share with it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from configs.base import Train
from model.data.batch import Batch, Output, standardize, unit
from model.heads.base import Head


def dropout(x: jax.Array, rate: jax.Array | float, rng: jax.Array | None) -> jax.Array:
    """Drops entries with probability `rate`, which may be traced; does nothing without `rng`."""
    if rng is None:
        return x
    return jnp.where(jax.random.bernoulli(rng, 1 - rate, x.shape), x / (1 - rate), 0)


def thin(batch: Batch, share: float, random_k: bool, rng: jax.Array | None) -> Batch:
    """Masks out some of the neighbours; does nothing without `rng`.

    Args:
        batch: B queries with K neighbours, the nearest first.
        share: probability that a neighbour is left out, for each on its own.
        random_k: whether each list is cut to its first k', drawn uniformly from 1 to K.
        rng: key of the step, which the classifier's dropout uses as well.
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


def learned(module: nn.Module, name: str, first: float, shape: tuple[int, ...] = ()) -> jax.Array:
    """Returns a learned factor of a module, `shape`, all `first` before the first step.

    The parameter is relative to that value, so that a step of the optimiser changes the factor by a fair share of it.
    """
    return first * module.param(name, nn.initializers.ones, shape)


class Cosine(nn.Module):
    """Logits `s cos(LN(z), w_c)`, s learned; the w_c start at `batch.classifier` if there is one.

    Attributes:
        num_classes: C.
        scale: first value of s.
    """

    num_classes: int
    scale: float

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits of the queries alone."""
        features = standardize(batch.queries)
        first = nn.initializers.lecun_normal() if batch.classifier is None else lambda *_: batch.classifier
        classifier = self.param("classifier", first, (features.shape[-1], self.num_classes))
        cosines = unit(dropout(features, rate, rng)) @ unit(classifier.T).T
        return Output(learned(self, "scale", self.scale) * cosines, features, jnp.zeros((len(features), 0)))


class Linear(nn.Module):
    """Logits `W_c LN(z) + b`; W_c starts at `batch.classifier` if there is one, b at zero."""

    num_classes: int

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits of the queries alone."""
        features = standardize(batch.queries)
        start = batch.classifier
        kernel = nn.initializers.lecun_normal() if start is None else lambda *_: start
        logits = nn.Dense(self.num_classes, kernel_init=kernel, name="classifier")(dropout(features, rate, rng))
        return Output(logits, features, jnp.zeros((len(features), 0)))


def build(train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head."""
    return Cosine(num_classes, train.cosine_scale) if train.cosine_scale else Linear(num_classes)


HEAD = Head(
    "linear",
    build,
    needs_neighbors=False,
    needs_text=False,
    about="a linear classifier of the image's vector; reads no memory",
)
