"""The zero-shot classifier as a linear one, at which classifiers may start (`train.start_at_names`)."""

import numpy as np

from model.data import class_names
from model.data.datasets import Task
from pipelines.errors import UserError

FIRST_FACTOR = 100.0
"""Factor of the cosines of images and names at first: that at which the factors of CLIP models are clipped."""


def check(task: Task, flag: str) -> None:
    """Raises a `UserError` that begins with a flag if no names are embedded in the space of the keys."""
    if class_names.KEYS not in task.name_vectors:
        raise UserError(
            f"{flag} compares images with the names of the classes, and no names are embedded in the space of the "
            "keys; name the two towers of one checkpoint as --config.encoders.key and --config.encoders.value_text "
            "(docs/encoders.md, 'space') and run web-memory embed again"
        )


def classifier(task: Task) -> np.ndarray:
    """Returns weights W, float32 `[D, C]`, such that `LN(z) W` is the factor times the cosines of LN(z) and the names.

    Standardized vectors of D entries have length sqrt(D).
    """
    names = task.name_vectors[class_names.KEYS]
    return FIRST_FACTOR / np.sqrt(names.shape[1], dtype=np.float32) * names.T
