"""Zero-shot classification by the names of the classes, the line to beat where encoders share a space.

As in CLIP (Radford et al., 2021): an image is of the class whose name has the highest cosine with its key. Training
learns one factor of the cosines, which makes them probabilities and changes no prediction.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Train
from model.data import class_names
from model.data.batch import Batch, Output, directions
from model.data.datasets import Task
from model.heads.base import Head, NewClasses
from model.prepare import name_start


class ClassNames(NamedTuple):
    """The embedded names, float32 `[C, D]`, unit length, in the space of the keys."""

    vectors: jax.Array


class ZeroShot(nn.Module):
    """Logits `s cos(key, name)`, s learned and positive."""

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits of the queries alone."""
        known: ClassNames = batch.prepared
        cosines = directions(batch) @ known.vectors.T
        factor = name_start.FIRST_FACTOR * jnp.exp(self.param("factor", nn.initializers.zeros, ()))
        return Output(factor * cosines, batch.queries, jnp.zeros((len(cosines), 0)))


def build(train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head."""
    return ZeroShot()


def prepare(task: Task, train: Train) -> ClassNames:
    """Returns the embedded names."""
    return ClassNames(jnp.asarray(task.name_vectors[class_names.KEYS]))


def check(task: Task, train: Train) -> None:
    """Raises a `UserError` if no names are embedded in the space of the keys."""
    name_start.check(task, "--config.train.heads: zero_shot")


def extend(params: Any, known: ClassNames, new: NewClasses) -> tuple[Any, ClassNames]:
    """Adds classes."""
    return params, ClassNames(np.concatenate([np.asarray(known.vectors), new.names]))


HEAD = Head(
    "zero_shot",
    build,
    needs_neighbors=False,
    needs_text=False,
    prepare=prepare,
    prepared=ClassNames,
    names_kind=class_names.KEYS,
    unlabelled=lambda params: params,
    extend=extend,
    check=check,
    trained=False,
    about="the class whose name is most similar to the image; learns from no training image",
)
