"""REAL-Linear (Parashar et al., CVPR 2024): a linear classifier that is also trained on memory rows which name classes.

It starts at the names of the classes, and predicts with the mean of what it has learned and of where it started.
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


class RealLinear(nn.Module):
    """Logits `W LN(z) + b` in training; in a prediction W is `(1 - a) W + a W_0`, with the W_0 of the names.

    Attributes:
        names: the weight a.
    """

    names: float

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits of the queries alone."""
        known: Retrieved = batch.prepared
        features = standardize(batch.queries)
        classifier = nn.Dense(
            known.classifier.shape[1], kernel_init=lambda *_: jnp.asarray(known.classifier), name="classifier"
        )
        logits = classifier(dropout(features, rate, rng))
        if rng is None:
            logits = (1 - self.names) * logits + self.names * features @ known.classifier
        return Output(logits, features, jnp.zeros((len(features), 0)))


def build(train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head."""
    return RealLinear(train.pairs.names)


def draw(train: Train, batch: Batch, labels: jax.Array, done: jax.Array, rng: jax.Array) -> tuple[Batch, jax.Array]:
    """Replaces images by memory rows."""
    return drawing.replace(train.pairs.share, batch, labels, rng), labels


def check(task: Task, train: Train) -> None:
    """Raises a `UserError` if the classes have no names."""
    named_rows.check(task, "real_linear")


HEAD = Head(
    "real_linear",
    build,
    needs_neighbors=False,
    needs_text=True,
    prepare=drawing.prepare,
    prepared=Retrieved,
    of_labels=True,
    draw=draw,
    check=check,
    space={"pairs.share": (0.0, 0.25, 0.5), "pairs.names": (0.0, 0.5)},
    about="a linear classifier of the image's vector, trained on memory rows whose captions name a class, too",
)
