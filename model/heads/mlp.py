"""A control for the heads that read neighbours: as many parameters as `mam`, and no memory."""

import dataclasses

import flax.linen as nn
import jax

from configs.base import Train
from model.data.batch import Batch, Output, standardize
from model.heads.attention import retrieval
from model.heads.base import Head, count_parameters
from model.heads.linear import Linear


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


def build(train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head, with a hidden width that makes it as large as `mam` on such a batch."""
    # Where the projections start does not change their shapes.
    mam = retrieval.MAM.build(dataclasses.replace(train, value_scale=0.0), num_classes, batch)
    extra = count_parameters(mam, batch) - count_parameters(Linear(num_classes), batch)
    # A hidden unit has a weight to and from each of the D entries, and a bias; the output has D more biases.
    dim = batch.queries.shape[-1]
    return Mlp(num_classes, hidden=max(1, round((extra - dim) / (2 * dim + 1))))


HEAD = Head(
    "mlp",
    build,
    needs_neighbors=False,
    needs_text=False,
    about="a perceptron with as many parameters as memory attention has; reads no memory",
)
