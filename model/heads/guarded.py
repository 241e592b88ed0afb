"""The head that believes its memory as far as labels bear it out, `guarded`: ours, not the paper's (docs/method.md).

Training learns one factor of the logits, which changes no prediction. A memory that says nothing of the classes, or the
wrong thing, is left aside: wholly, for a class, or row by row.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from configs.base import Names, Train
from model.data.batch import Batch, Output, standardize
from model.data.datasets import Task
from model.heads.base import Head, check_names, temper
from model.prepare import trust
from model.prepare.trust import Trust


class Guarded(nn.Module):
    """Logits `f (W y + b + u log(sum_j a_j r_jc + e))`: r_jc how far caption j is believed to name class c.

    Attributes:
        names: `temperature` and `threshold` of what a caption names, and `smoothing`, e.
        tempered: whether steps learn the factor f; if not, it is 1, and probabilities are those that are best on val.
    """

    names: Names
    tempered: bool = True

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits, and as weights how much each neighbour speaks for the predicted classes."""
        known: Trust = batch.prepared
        y = standardize(batch.queries)
        scores = y @ known.classifier[:-1] + known.classifier[-1]
        if rng is not None:
            # Nothing is learned but a factor, so that a training step need not read the memory.
            return Output(self._tempered(scores), y, jnp.zeros(batch.mask.shape))
        named, seen = trust.said(batch.keys, batch.values["text"], known.names, known.judge, self.names)
        shares = named * trust.believed(seen, known.doubt)
        votes, weights = trust.votes(shares, batch.scores, batch.mask, known.scale)
        logits = self._tempered(scores + known.vote * jnp.log(votes + self.names.smoothing))
        speaks = weights * jnp.einsum("bkc,bc->bk", shares, jax.nn.softmax(logits))
        return Output(logits, y, speaks / jnp.maximum(speaks.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny))

    def _tempered(self, logits: jax.Array) -> jax.Array:
        return temper(self, logits) if self.tempered else logits


def build(train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head."""
    return Guarded(train.names)


def prepare(task: Task, train: Train) -> Trust:
    """Measures how far the memory is to be believed."""
    return trust.make(task, train)


HEAD = Head(
    "guarded",
    build,
    needs_neighbors=True,
    needs_text=True,
    prepare=prepare,
    prepared=Trust,
    of_labels=True,
    check=check_names("guarded"),
    trained=False,
    about="labelled images, and the memory as far as they bear it out; otherwise without it",
)
