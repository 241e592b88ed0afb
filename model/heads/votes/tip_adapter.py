"""Tip-Adapter (Zhang et al., ECCV 2022): the names of the classes, and a cache of the labelled training images.

`tip_adapter` trains nothing but one factor of its logits, which makes them probabilities and changes no prediction;
`tip_adapter_f` trains the keys of the cache.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Tip, Train
from model.data import class_names
from model.data.batch import Batch, Output, directions, standardize
from model.data.datasets import Task
from model.heads.base import Head, temper
from model.prepare import name_start

# Cosine from which a cached image is the query itself.
_SAME = 1 - 1e-5


class Cache(NamedTuple):
    """The training images and the names, all in the space of the keys and of unit length.

    Attributes:
        names: of the classes, float32 `[C, D]`.
        keys: of the training images, float32 `[N, D]`.
        labels: of these, int32 `[N]`.
        counts: training images of each class, float32 `[C]`.
    """

    names: np.ndarray
    keys: np.ndarray
    labels: np.ndarray
    counts: np.ndarray


class TipAdapter(nn.Module):
    """Logits `100 cos(z, n_c) + alpha / N_c^g sum_{i of c} exp(-beta (1 - cos(z, k_i)))`.

    Attributes:
        tip: alpha, beta and the power g, `balance`.
        learns: whether the k_i are trained, instead of a factor of the logits.
    """

    tip: Tip
    learns: bool

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits of the queries; in training an image's own entry is left out of the cache."""
        known: Cache = batch.prepared
        queries = directions(batch)
        keys = self.param("keys", lambda _: jnp.asarray(known.keys)) if self.learns else known.keys
        affinity = jnp.exp(-self.tip.beta * (1 - queries @ keys.T))
        if rng is not None:
            affinity = jnp.where(queries @ known.keys.T > _SAME, 0, affinity)
        classes = len(known.names)
        cached = jax.ops.segment_sum(affinity.T, known.labels, classes).T * known.counts**-self.tip.balance
        logits = name_start.FIRST_FACTOR * queries @ known.names.T + self.tip.alpha * cached
        logits = logits if self.learns else temper(self, logits)
        return Output(logits, standardize(batch.queries), jnp.zeros((len(logits), 0)))


def build(train: Train, num_classes: int, batch: Batch, learns: bool) -> nn.Module:
    """Returns the head."""
    return TipAdapter(train.tip, learns)


def prepare(task: Task, train: Train) -> Cache:
    """Returns the cache."""
    split = task.splits["train"]
    keys = split.queries / np.linalg.norm(split.queries, axis=1, keepdims=True)
    return Cache(task.name_vectors[class_names.KEYS], keys, split.labels, task.class_counts.astype(np.float32))


def check(task: Task, train: Train) -> None:
    """Raises a `UserError` if no names are embedded in the space of the keys."""
    name_start.check(task, "--config.train.heads: tip_adapter")


HEAD = Head(
    "tip_adapter",
    functools.partial(build, learns=False),
    needs_neighbors=False,
    needs_text=False,
    prepare=prepare,
    prepared=Cache,
    of_labels=True,
    check=check,
    trained=False,
    space={"tip.alpha": (0.3, 1.0, 3.0, 10.0), "tip.beta": (1.0, 3.0, 10.0, 30.0), "tip.balance": (0.0, 0.5, 1.0)},
    about="the names of the classes beside a cache of all training images; learns nothing",
)
FINE_TUNED = dataclasses.replace(
    HEAD,
    name="tip_adapter_f",
    build=functools.partial(build, learns=True),
    trained=True,
    about="as tip_adapter, but the vectors of the cached images are trained",
)
