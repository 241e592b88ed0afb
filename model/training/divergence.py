"""What to say of a run whose loss is no longer a number: at which step, why, and what is left of it."""

import numpy as np

from model.data.datasets import Task
from pipelines.errors import UserError


class Diverged(UserError):
    """A run whose loss or parameters are no longer finite."""


def first_bad(losses: np.ndarray) -> int | None:
    """Returns the place of the first loss that is not finite; None if all are."""
    bad = np.flatnonzero(~np.isfinite(losses))
    return int(bad[0]) if len(bad) else None


def _not_finite(task: Task, rows: np.ndarray) -> str:
    """Returns what these training rows read that is not finite; empty if all is."""
    split = task.splits["train"]
    if not (finite := np.isfinite(split.queries[rows]).all(-1)).all():
        return f"the query {split.ids[rows[np.argmin(finite)]]} of train"
    if not np.isfinite(split.scores[rows]).all():
        return "the scores of the neighbour lists of train"
    near = np.unique(split.neighbors[rows][split.mask[rows]])
    for name, table in {"key": task.keys, **{f"{kind} value": value for kind, value in task.values.items()}}.items():
        if not (finite := np.isfinite(table[near]).all(-1)).all():
            return f"the {name} of memory row {task.memory_ids[near[np.argmin(finite)]]}"
    return ""


def cause(task: Task, rows: np.ndarray, learning_rate: float, reads_memory: bool) -> str:
    """Returns the likely cause and what to do about it.

    Args:
        task: what is trained on.
        rows: of the training set, of the batches that led to it.
        learning_rate: of the run.
        reads_memory: whether the head has a use for neighbours.
    """
    if where := _not_finite(task, rows):
        return f"{where} is not finite; run pipelines.embed and index.neighbors again"
    empty = int((~task.splits["train"].mask[rows].any(-1)).sum()) if reads_memory else 0
    lists = f", or the {empty} empty neighbour lists of the last batches" if empty else ""
    return f"the likely cause is the learning rate {learning_rate:g}{lists}; take a smaller one"
