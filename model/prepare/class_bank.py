"""The bank of sentences that `vl_ltr` attends to: what the training images of each class retrieved."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.data.batch import standardize
from model.data.datasets import Split, Task


class Bank(NamedTuple):
    """Sentences of each class.

    Attributes:
        texts: their embeddings, standardized, float32 `[C, S, V]`.
        mask: false where a class has fewer, bool `[C, S]`.
    """

    texts: np.ndarray
    mask: np.ndarray


def rows(split: Split, classes: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the memory rows with the largest summed cosine to the training images of each class.

    Args:
        split: the training split.
        classes: C.
        size: S, rows of a class.

    Returns:
        Rows int64 `[C, S]`, the largest sum first, ties by row, 0 where there are fewer; and a bool mask `[C, S]`.
    """
    owner = np.broadcast_to(split.labels[:, None], split.neighbors.shape)[split.mask].astype(np.int64)
    width = int(split.neighbors.max()) + 1
    pairs, place = np.unique(owner * width + split.neighbors[split.mask], return_inverse=True)
    sums = np.bincount(place, split.scores[split.mask].astype(np.float64), len(pairs))
    owner, row = pairs // width, pairs % width
    order = np.lexsort((row, -sums, owner))
    owner, row = owner[order], row[order]
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
    kept = rank < size
    bank, mask = np.zeros((classes, size), np.int64), np.zeros((classes, size), bool)
    bank[owner[kept], rank[kept]] = row[kept]
    mask[owner[kept], rank[kept]] = True
    return bank, mask


def make(task: Task, size: int) -> Bank:
    """Returns the bank of a task; where the class names are embedded, a class's name is its first sentence.

    Args:
        task: with text values.
        size: sentences of each class from the lists.
    """
    bank, mask = rows(task.splits["train"], len(task.class_counts), size)
    texts = task.values["text"][bank]
    if (names := task.name_vectors.get("text")) is not None:
        texts = np.concatenate([names[:, None], texts], 1)
        mask = np.concatenate([np.ones((len(mask), 1), bool), mask], 1)
    return Bank(np.asarray(jax.jit(standardize)(jnp.asarray(texts))), mask)
