"""Linear discriminant analysis of the queries, in closed form: a baseline that no step trains.

Training learns one factor of the logits, which makes them probabilities and changes no prediction.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Lda, Train
from model.data.batch import Batch, Output, standardize
from model.data.datasets import Task
from model.data.tables import standardize_rows
from model.heads.base import Head, temper


class Classes(NamedTuple):
    """Means and variances in the axes of the covariance that all classes share.

    Attributes:
        center: mean of the standardized training queries, float32 `[D]`.
        axes: eigenvectors of the covariance within classes, float32 `[D, D]`, each a column.
        variances: its eigenvalues, float32 `[D]`.
        means: of each class, less the centre, in these axes, float32 `[C, D]`.
        counts: of the training images of each class, float32 `[C]`.
    """

    center: np.ndarray
    axes: np.ndarray
    variances: np.ndarray
    means: np.ndarray
    counts: np.ndarray


class DiscriminantAnalysis(nn.Module):
    """Logits `x S^-1 m_c - m_c S^-1 m_c / 2 + p log prior_c`, times a learned factor.

    Attributes:
        settings: `shrinkage` of S, `pseudo_count` of the m_c, and p.
    """

    settings: Lda

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits of the queries alone."""
        known: Classes = batch.prepared
        features, share = standardize(batch.queries), self.settings.shrinkage
        # The eigenvectors are those of the shrunken covariance, too.
        scale = jax.lax.rsqrt((1 - share) * known.variances + share * known.variances.mean())
        # The mean of all images is 0 in these axes.
        held = known.counts / (known.counts + self.settings.pseudo_count)
        white, means = (features - known.center) @ known.axes * scale, held[:, None] * known.means * scale
        log_prior = jnp.log(known.counts / known.counts.sum())
        logits = white @ means.T - jnp.square(means).sum(-1) / 2 + self.settings.prior * log_prior
        return Output(temper(self, logits), features, jnp.zeros((len(features), 0)))


def build(train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head."""
    return DiscriminantAnalysis(train.lda)


def fit(queries: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> Classes:
    """Fits all that the settings do not change.

    Args:
        queries: standardized, `[N, D]`.
        labels: `[N]`.
        counts: of the images of each class, `[C]`, each at least 1.
    """
    x = np.asarray(queries, np.float64)
    center = x.mean(0)
    means = np.zeros((len(counts), x.shape[1]))
    np.add.at(means, labels, x - center)
    means /= counts[:, None]
    apart = x - center - means[labels]
    variances, axes = np.linalg.eigh(apart.T @ apart / len(x))
    found = (center, axes, np.maximum(variances, 0), means @ axes, counts)
    return Classes(*(array.astype(np.float32) for array in found))


def prepare(task: Task, train: Train) -> Classes:
    """Fits the training queries."""
    split = task.splits["train"]
    return fit(standardize_rows(split.queries), split.labels, task.class_counts)


HEAD = Head(
    "lda",
    build,
    needs_neighbors=False,
    needs_text=False,
    prepare=prepare,
    prepared=Classes,
    of_labels=True,
    trained=False,
    space={
        "lda.shrinkage": (0.03, 0.1, 0.3, 0.6, 1.0),
        "lda.pseudo_count": (0.0, 4.0, 16.0),
        "lda.prior": (0.0, 1.0),
    },
    about="linear discriminant analysis of the image's vector; reads no memory",
)
