"""SWAT (Liu et al., CVPR 2025) on frozen vectors: rows and images mixed, then a new classifier.

Theirs trains the visual encoder in the first stage. Here a residual network takes its place, and mixup of vectors
that of CutMix, which needs pixels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from configs.base import Train
from model.data.batch import Batch, Output, standardize
from model.data.datasets import Task
from model.heads.base import Head
from model.heads.linear import dropout
from model.heads.pairs import drawing
from model.heads.pairs.drawing import Retrieved
from model.prepare import named_rows
from pipelines.errors import UserError

# Losses that are linear in the label.
_LOSSES = ("lace", "lace_post_hoc", "cross_entropy")


class Swat(nn.Module):
    """Logits `W_2 LN(z + MLP(z)) + b_2`; in the first stage `W_1 LN(z + MLP(z)) + b_1`, in the second MLP stays."""

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits of the queries alone."""
        known: Retrieved = batch.prepared
        z = batch.queries
        inner = nn.gelu(nn.Dense(z.shape[-1], name="expand")(standardize(z)))
        features = standardize(z + nn.Dense(z.shape[-1], kernel_init=nn.initializers.zeros, name="contract")(inner))
        is_second = known.second > 0
        features = jnp.where(is_second, jax.lax.stop_gradient(features), features)

        def classifier(name: str) -> nn.Module:
            start = jnp.asarray(known.classifier)
            return nn.Dense(start.shape[1], kernel_init=lambda *_: start, name=name)

        seen = dropout(features, rate, rng)
        logits = jnp.where(is_second, classifier("second")(seen), classifier("first")(seen))
        return Output(logits, features, jnp.zeros((len(features), 0)))


def build(train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head."""
    return Swat()


def draw(train: Train, batch: Batch, labels: jax.Array, done: jax.Array, rng: jax.Array) -> tuple[Batch, jax.Array]:
    """Replaces images by memory rows and mixes them, in the first stage; in the second, batches stay as drawn."""
    known: Retrieved = batch.prepared
    shares = jax.nn.one_hot(labels, len(known.counts))
    is_second = jnp.asarray(done >= train.pairs.first_stage)
    rngs = jax.random.split(rng, 4)
    replaced = drawing.replace(train.pairs.share, batch, labels, rngs[0]).queries
    # Beta(1, 1), as theirs.
    kept = jnp.where(jax.random.uniform(rngs[1]) < train.pairs.mix, jax.random.uniform(rngs[2]), 1.0)
    other = jax.random.permutation(rngs[3], len(labels))
    mixed, both = (kept * own + (1 - kept) * own[other] for own in (replaced, shares))
    batch = batch._replace(
        queries=jnp.where(is_second, batch.queries, mixed),
        prepared=known._replace(second=is_second.astype(jnp.float32)),
    )
    return batch, jnp.where(is_second, shares, both)


def check(task: Task, train: Train) -> None:
    """Raises a `UserError` if the classes have no names, or the loss takes no mixed labels."""
    named_rows.check(task, "swat")
    if train.loss not in _LOSSES:
        raise UserError(
            f"--config.train.loss={train.loss}: swat mixes labels, which this loss does not take; use {_LOSSES[0]} or "
            f"{_LOSSES[-1]}"
        )


HEAD = Head(
    "swat",
    build,
    needs_neighbors=False,
    needs_text=True,
    prepare=drawing.prepare,
    prepared=Retrieved,
    of_labels=True,
    draw=draw,
    check=check,
    space={"pairs.share": (0.0, 0.25, 0.5), "pairs.first_stage": (0.5, 0.8)},
    about="vectors refined on images and on memory rows whose captions name a class, then a classifier of images alone",
)
