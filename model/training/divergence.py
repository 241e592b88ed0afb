"""Why a run diverged: which input is not finite, or that the learning rate is too large."""

import numpy as np

from model.data.datasets import Task
from pipelines.errors import UserError


class Diverged(UserError):
    """A run whose loss or parameters are no longer finite."""


def first_bad(losses: np.ndarray) -> int | None:
    """Returns the index of the first loss that is not finite; None if all are."""
    bad = np.flatnonzero(~np.isfinite(losses))
    return int(bad[0]) if len(bad) else None


def _not_finite(task: Task, rows: np.ndarray) -> str:
    """Names an input of these training rows that is not finite; empty if all are."""
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
    """Returns the likely cause and a remedy.

    Args:
        task: the training data.
        rows: of the training set, from the last batches.
        learning_rate: of the run.
        reads_memory: whether the head reads neighbours.
    """
    if where := _not_finite(task, rows):
        return f"{where} is not finite; remove the file of its shard and run web-memory reindex and neighbors"
    empty = int((~task.splits["train"].mask[rows].any(-1)).sum()) if reads_memory else 0
    lists = f", or the {empty} empty neighbour lists of the last batches" if empty else ""
    return f"the likely cause is the learning rate {learning_rate:g}{lists}; use a smaller one"
