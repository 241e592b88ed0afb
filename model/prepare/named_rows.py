"""Which memory rows name a class, at most so many of each: the images that a search for the class's name would find.

They are chosen as REAL does (Parashar et al., CVPR 2024): by the similarity of caption and name. The names are found by
embedded captions, among the rows that training images retrieved.
"""

from typing import NamedTuple

import jax
import numpy as np

from configs.base import Names
from model.data.batch import standardize
from model.data.datasets import Task
from model.prepare.name_prior import BLOCK_ROWS, cosines
from pipelines.errors import UserError


class Named(NamedTuple):
    """Rows of the memory that name classes; those of a class are together, the most similar caption first.

    Attributes:
        rows: of the memory, int64 `[R]`; a row may name several classes.
        labels: the class that each of them names, int32 `[R]`, ascending.
    """

    rows: np.ndarray
    labels: np.ndarray


@jax.jit
def _cosines(texts: jax.Array, names: jax.Array) -> jax.Array:
    return cosines(standardize(texts), standardize(names))


def find(task: Task, most: int, settings: Names) -> Named:
    """Finds the rows that name each class.

    Args:
        task: with text values and names of their encoder; see `check`.
        most: rows of each class.
        settings: `threshold`, the cosine from which a caption names a class. A row belongs to the class whose name is
            most similar to its caption.
    """
    rows, names = task.splits["train"].retrieved, task.name_vectors["text"]
    texts = task.values["text"][rows]
    parts = [_cosines(texts[at : at + BLOCK_ROWS], names) for at in range(0, len(rows), BLOCK_ROWS)]
    found = np.concatenate([np.asarray(part) for part in parts] or [np.zeros((0, len(names)), np.float32)])
    labels, similar = found.argmax(1), found.max(1)
    kept = np.flatnonzero(similar >= settings.threshold)
    kept = kept[np.lexsort((kept, -similar[kept], labels[kept]))]
    own = labels[kept]
    kept = kept[np.arange(len(kept)) - np.searchsorted(own, own) < most]
    return Named(rows[kept], labels[kept].astype(np.int32))


def check(task: Task, head: str) -> None:
    """Raises a `UserError` if no names are embedded, for a head."""
    if "text" not in task.name_vectors:
        raise UserError(
            f"--config.train.heads: {head} takes memory rows whose captions name a class, and no names are embedded; "
            "set --config.class_names and run web-memory embed again with a text encoder"
        )


def classes(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the rows of each class begin among ascending labels, and how many there are, both int32 `[C]`."""
    counts = np.bincount(labels, minlength=count)
    return (np.cumsum(counts) - counts).astype(np.int32), counts.astype(np.int32)
