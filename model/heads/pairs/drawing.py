"""Memory rows as training images: some of the images of a step are replaced by rows that name their class.

The classes of a step stay those that were drawn. So the loss corrects for the same class sizes as for other heads, and
the memory is balanced, whatever it holds.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Train
from model.data import class_names
from model.data.batch import Batch
from model.data.datasets import Task
from model.data.tables import standardize_rows
from model.prepare import name_start, named_rows


class Retrieved(NamedTuple):
    """Rows that name classes, and where classifiers start.

    Attributes:
        queries: standardized keys of the rows, class by class, float32 `[R, D]`, at least one row.
        first: number of the first of each class, int32 `[C]`.
        counts: rows of each class, int32 `[C]`.
        images: training images of each class, int32 `[C]`.
        classifier: zero-shot weights, float32 `[D, C]`; zeros where names and keys share no space.
        second: whether the second stage has begun, float32 scalar, 0 or 1; 1 outside of training.
    """

    queries: np.ndarray
    first: np.ndarray
    counts: np.ndarray
    images: np.ndarray
    classifier: np.ndarray
    second: np.ndarray


def prepare(task: Task, train: Train) -> Retrieved:
    """Finds the rows and reads their keys."""
    classes, width = len(task.class_counts), task.keys.shape[1]
    named = named_rows.find(task, train.pairs.most, train.names)
    first, counts = named_rows.classes(named.labels, classes)
    keys = standardize_rows(task.keys[named.rows]) if len(named.rows) else np.zeros((1, width), np.float32)
    shares_space = class_names.KEYS in task.name_vectors
    classifier = name_start.classifier(task) if shares_space else np.zeros((width, classes), np.float32)
    return Retrieved(keys, first, counts, task.class_counts.astype(np.int32), classifier, np.ones((), np.float32))


def replace(share: float, batch: Batch, labels: jax.Array, rng: jax.Array) -> Batch:
    """Replaces queries `[B, D]` by rows of the same class; images of a class without rows stay.

    Args:
        share: probability of each image to be replaced; 0 for the share of rows among all examples of its class.
        batch: with `Retrieved` as `prepared`.
        labels: int32 `[B]`.
        rng: key.
    """
    known: Retrieved = batch.prepared
    of_class, images = known.counts[labels], known.images[labels]
    chance = jnp.where(of_class > 0, share or of_class / (of_class + images), 0)
    place, drawn = jax.random.uniform(rng, (2, len(labels)))
    row = known.first[labels] + jnp.minimum((place * of_class).astype(jnp.int32), of_class - 1)
    is_row = drawn < chance
    return batch._replace(queries=jnp.where(is_row[:, None], known.queries[jnp.where(is_row, row, 0)], batch.queries))
