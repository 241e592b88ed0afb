"""The classifiers on frozen embeddings behind one signature, by the name that the config gives."""

import flax.linen as nn
import jax

from configs.base import Train
from model.data.batch import Batch, Output, standardize
from model.heads.linear import Linear, thin
from model.heads.memory_attention import MemoryAttention
from model.heads.name_head import NameHead
from model.heads.rac import Rac
from model.heads.vl_ltr import VlLtr
from model.prepare import value_start
from pipelines.errors import UserError, nearest


class Mlp(nn.Module):
    """Linear classifier on `z + MLP(z)`."""

    num_classes: int
    hidden: int

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits of the queries alone."""
        z = batch.queries
        inner = nn.gelu(nn.Dense(self.hidden)(standardize(z)))
        refined = z + nn.Dense(z.shape[-1], kernel_init=nn.initializers.zeros)(inner)
        return Linear(self.num_classes)(batch._replace(queries=refined), rate, rng)


class Retrieval(nn.Module):
    """Linear classifier on the embedding refined by L memory attention layers.

    Attributes:
        num_classes: C.
        layers: L.
        attention_dim: as in `MemoryAttention`, and so the four that follow.
        value_dim: see there.
        num_heads: see there.
        start: see there.
        similarity_scale: see there.
        value_scale: see there, of all layers and kinds together.
        neighbor_dropout: share of the neighbours that is left out of each list while training.
        random_k: whether lists are cut to a random length while training.
        uniform: mean k-NN.
        null_slot: see there.
        feed_forward: see there.
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
        """Returns logits, and as weights the attention of the last layer, averaged over heads."""
        batch = thin(batch, self.neighbor_dropout, self.random_k, rng)
        z, weights = batch.queries, batch.scores[:, None]
        keys = batch.keys if batch.key_rows is None else batch.key_rows
        values = batch.values if batch.value_rows is None else batch.value_rows
        predicted = {kind: batch.classes[value_start.of_kind(kind)] for kind in values} if self.value_scale else {}
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


HEADS = ("linear", "mlp", "mean_knn", "mam", "mam_names", "rac", "vl_ltr")
# One module, with attention and with the mean.
RETRIEVAL = ("mean_knn", "mam")
# What these know of the memory they know before the first step.
WITHOUT_NEIGHBORS = ("linear", "mlp", "vl_ltr")


def _retrieval(train: Train, num_classes: int, uniform: bool) -> Retrieval:
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


def init(head: nn.Module, batch: Batch, seed: jax.Array | int) -> dict:
    """Returns the first parameters of a head for batches of this shape."""
    return head.init(jax.random.key(seed), batch, 0.0, None)["params"]


def count_parameters(head: nn.Module, batch: Batch) -> int:
    """Returns the number of parameters, without making them."""
    shapes = jax.eval_shape(lambda b: init(head, b, 0), batch)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def build(name: str, train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head of a name.

    Args:
        name: one of `HEADS`.
        train: layers, widths and start.
        num_classes: C.
        batch: of the shapes to come; the MLP's hidden width is chosen so that its parameters match `mam`'s.

    Raises:
        UserError: if there is no such head.
    """
    if name == "linear":
        return Linear(num_classes)
    if name == "mlp":
        attention = count_parameters(_retrieval(train, num_classes, False), batch)
        extra = attention - count_parameters(Linear(num_classes), batch)
        # A hidden unit has a weight to and from each of the D entries and a bias; the output has D biases more.
        dim = batch.queries.shape[-1]
        return Mlp(num_classes, hidden=max(1, round((extra - dim) / (2 * dim + 1))))
    if name in RETRIEVAL:
        return _retrieval(train, num_classes, uniform=name == "mean_knn")
    if name == "mam_names":
        return NameHead(num_classes, train.names, train.neighbor_dropout, train.random_k)
    if name == "rac":
        return Rac(
            num_classes=num_classes,
            pooling=train.rac_pooling,
            similarity_scale=train.similarity_scale,
            normalize=train.rac_normalize,
            neighbor_dropout=train.neighbor_dropout,
            random_k=train.random_k,
        )
    if name == "vl_ltr":
        return VlLtr(num_classes, hidden=max(1, round(train.vl_ltr_width * batch.queries.shape[-1])))
    raise UserError(f"--config.train.heads: no head {name!r}; {nearest(name, HEADS)}")
