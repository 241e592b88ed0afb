"""The head that reads the names of the classes, `mam_names`: ours, not the paper's (docs/method.md).

Two answers need no labels: what the memory shows under each name (`name_prior`), and which classes the captions of the
neighbours name. A linear classifier learns what they miss. All three are logits, which are added.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Names, Train
from model.data.batch import Batch, Output, masked_softmax, standardize
from model.data.datasets import Task
from model.heads.base import Head, NewClasses, check_names
from model.heads.linear import dropout, learned, thin
from model.prepare import name_prior
from model.prepare.name_prior import NamePrior, cosines, posterior


class NameHead(nn.Module):
    """Logits `W y + b - r |y - y_c|^2 / 2 + u log(sum_j a_j q_jc + e)`, y the whitened query, y_c the class's mean.

    Attributes:
        num_classes: C.
        names: the scalars, or their first values.
        neighbor_dropout: share of the neighbours that is left out of each list in training.
        random_k: whether lists are cut to a random length in training.
    """

    num_classes: int
    names: Names
    neighbor_dropout: float
    random_k: bool

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits, and as weights how much each neighbour speaks for the predicted classes."""
        batch = thin(batch, self.neighbor_dropout, self.random_k, rng)
        first = self.names
        known: NamePrior = batch.prepared
        y = standardize(batch.queries) @ known.whitening[:-1] + known.whitening[-1]
        # Terms that are the same for all classes are omitted.
        prior = y @ known.means.T - jnp.square(known.means).sum(-1) / 2
        classifier = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="classifier")
        attention = masked_softmax(learned(self, "similarity", first.similarity_scale) * batch.scores, batch.mask)
        named = posterior(cosines(batch.values["text"], standardize(known.names)), first.temperature, first.threshold)
        votes = jnp.einsum("bk,bkc->bc", attention, named)
        logits = (
            classifier(dropout(y, rate, rng))
            + learned(self, "prior", first.prior_scale) * prior
            + learned(self, "vote", first.vote_weight) * jnp.log(votes + first.smoothing)
        )
        speaks = attention * jnp.einsum("bkc,bc->bk", named, jax.nn.softmax(logits))
        return Output(logits, y, speaks / jnp.maximum(speaks.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny))


def build(train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head."""
    return NameHead(num_classes, train.names, train.neighbor_dropout, train.random_k)


def prepare(task: Task, train: Train) -> NamePrior:
    """Returns what the memory shows under the names."""
    return name_prior.make(task, train.names)


def unlabelled(params: Any) -> Any:
    """Returns the parameters without the classifier, which alone has learned of single classes."""
    return {**params, "classifier": {name: 0 * array for name, array in params["classifier"].items()}}


def extend(params: Any, known: NamePrior, new: NewClasses) -> tuple[Any, NamePrior]:
    """Adds classes, whose means are those of the memory rows that the captions name; the others stay as trained."""
    count = len(new.names)
    names = np.concatenate([known.names, new.names])
    means = name_prior.more_means(new.keys, new.texts, names, count, known.whitening, new.train.names)
    classifier = {
        name: np.pad(np.asarray(array), [*[(0, 0)] * (array.ndim - 1), (0, count)])
        for name, array in params["classifier"].items()
    }
    return {**params, "classifier": classifier}, NamePrior(names, known.whitening, np.concatenate([known.means, means]))


HEAD = Head(
    "mam_names",
    build,
    needs_neighbors=True,
    needs_text=True,
    attends=True,
    prepare=prepare,
    prepared=NamePrior,
    names_kind="text",
    unlabelled=unlabelled,
    extend=extend,
    check=check_names("mam_names"),
    about="memory attention that also reads which classes the neighbours' captions name",
)
