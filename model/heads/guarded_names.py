"""The mean of what `guarded` and `mam_names` predict, `guarded_names`: ours, not the paper's (docs/method.md).

Training learns `mam_names` alone. Where captions are right, the mean is about as good as that; where they are permuted,
`mam_names` is unsure and `guarded` decides.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Train
from model.data.batch import Batch, Output
from model.data.datasets import Task
from model.heads import guarded
from model.heads.attention import name_head
from model.heads.attention.name_head import NameHead
from model.heads.base import Head, check_names
from model.heads.guarded import Guarded
from model.prepare.name_prior import NamePrior
from model.prepare.trust import Trust


class Known(NamedTuple):
    """What both heads know of the memory; the fields are those of `NamePrior` and `Trust`, with the same names."""

    names: np.ndarray
    whitening: np.ndarray
    means: np.ndarray
    classifier: np.ndarray
    judge: np.ndarray
    doubt: np.ndarray
    vote: np.ndarray
    scale: np.ndarray


class GuardedNames(nn.Module):
    """Logits `log((softmax(l) + softmax(g)) / 2)`, l those of `mam_names` and g those of `guarded`.

    Attributes:
        named: learns l.
        guarded: has g in closed form.
    """

    named: NameHead
    guarded: Guarded

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits, and as weights the mean of those of both heads."""
        known: Known = batch.prepared
        prior = NamePrior(known.names, known.whitening, known.means)
        named = self.named(batch._replace(prepared=prior), rate, rng)
        if rng is not None:
            return named
        trust = Trust(known.names, known.classifier, known.judge, known.doubt, known.vote, known.scale)
        guard = self.guarded(batch._replace(prepared=trust), rate, rng)
        logits = jnp.logaddexp(jax.nn.log_softmax(named.logits), jax.nn.log_softmax(guard.logits)) - jnp.log(2)
        return Output(logits, named.features, (named.weights + guard.weights) / 2)


def build(train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head."""
    named = NameHead(num_classes, train.names, train.neighbor_dropout, train.random_k)
    return GuardedNames(named, Guarded(train.names, tempered=False))


def prepare(task: Task, train: Train) -> Known:
    """Returns what both heads prepare."""
    prior, trust = name_head.prepare(task, train), guarded.prepare(task, train)
    return Known(**(prior._asdict() | trust._asdict()))


HEAD = Head(
    "guarded_names",
    build,
    needs_neighbors=True,
    needs_text=True,
    attends=True,
    prepare=prepare,
    prepared=Known,
    of_labels=True,
    check=check_names("guarded_names"),
    about="the mean of what guarded and mam_names predict",
)
