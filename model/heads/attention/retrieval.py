"""The heads that refine a query by its neighbours: `mam`, with memory attention, and `mean_knn`, with the mean."""

import functools

import flax.linen as nn
import jax

from configs.base import Train
from model.data.batch import Batch, Output
from model.data.datasets import Task
from model.heads.attention.memory_attention import MemoryAttention
from model.heads.base import Head
from model.heads.linear import Linear, thin
from model.prepare import value_start
from model.prepare.value_start import Start


class Retrieval(nn.Module):
    """Linear classifier on the embedding refined by L memory attention layers.

    Attributes:
        num_classes: C.
        layers: L.
        attention_dim: see `MemoryAttention`.
        value_dim: see `MemoryAttention`.
        num_heads: see `MemoryAttention`.
        start: see `MemoryAttention`.
        similarity_scale: see `MemoryAttention`.
        value_scale: see `MemoryAttention`, here for all layers and kinds together.
        neighbor_dropout: share of the neighbours that is left out of each list in training.
        random_k: whether lists are cut to a random length in training.
        uniform: mean k-NN.
        null_slot: see `MemoryAttention`.
        feed_forward: see `MemoryAttention`.
    """

    num_classes: int
    layers: int
    attention_dim: int
    value_dim: int
    num_heads: int
    start: str
    similarity_scale: float
    value_scale: float
    neighbor_dropout: float
    random_k: bool
    uniform: bool
    null_slot: bool
    feed_forward: int

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits, and as weights the attention of the last layer, averaged over attention heads."""
        batch = thin(batch, self.neighbor_dropout, self.random_k, rng)
        z, weights = batch.queries, batch.scores[:, None]
        keys = batch.keys if batch.key_rows is None else batch.key_rows
        values = batch.values if batch.value_rows is None else batch.value_rows
        start: Start = batch.prepared
        predicted = start.predicted if self.value_scale else {}
        for _ in range(self.layers):
            layer = MemoryAttention(
                attention_dim=self.attention_dim,
                value_dim=self.value_dim,
                num_heads=self.num_heads,
                start=self.start,
                similarity_scale=self.similarity_scale,
                value_scale=self.value_scale / (self.layers * len(values)),
                uniform=self.uniform,
                null_slot=self.null_slot,
                feed_forward=self.feed_forward,
            )
            z, weights = layer(z, keys, values, batch.scores, batch.mask, predicted)
        output = Linear(self.num_classes)(batch._replace(queries=z), rate, rng)
        return output._replace(weights=weights.mean(1))


def build(train: Train, num_classes: int, batch: Batch, uniform: bool) -> nn.Module:
    """Returns the module; its weights are those of attention, or with `uniform` all the same."""
    return Retrieval(
        num_classes=num_classes,
        layers=train.layers,
        attention_dim=train.attention_dim,
        value_dim=train.value_dim,
        num_heads=train.attention_heads,
        start=train.start,
        similarity_scale=train.similarity_scale,
        value_scale=train.value_scale,
        neighbor_dropout=train.neighbor_dropout,
        random_k=train.random_k,
        uniform=uniform,
        null_slot=train.null_slot,
        feed_forward=train.feed_forward,
    )


def prepare(task: Task, train: Train) -> Start | None:
    """Returns where the values' projections start; None if they start at zero."""
    return value_start.make(task) if train.value_scale else None


MEAN_KNN = Head(
    "mean_knn",
    functools.partial(build, uniform=True),
    needs_neighbors=True,
    needs_text=False,
    prepare=prepare,
    prepared=Start,
    space={"k": (8, 32, 0), "value_scale": (1.0, 2.5, 5.0)},
    about="the nearest neighbours in the memory, each with the same weight",
)
MAM = Head(
    "mam",
    functools.partial(build, uniform=False),
    needs_neighbors=True,
    needs_text=False,
    attends=True,
    prepare=prepare,
    prepared=Start,
    space={"similarity": ("cosine", "whitened"), "value_scale": (1.0, 2.5, 5.0)},
    about="memory attention: learns how much each neighbour in the memory counts",
)
