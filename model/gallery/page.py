"""What the gallery's page shows, as JSON values: every text of a stranger is one short line."""

import dataclasses
from typing import Any

import numpy as np

from model.gallery.examples import Compared, Shown
from model.gallery.rows import Rows
from model.measures import kept
from model.reports.pages.site import plain

_CAPTION_CHARS, _NAME_CHARS, _CLASS_CHARS = 240, 120, 80
PAGE_ROWS = 20
"""Test images on a page."""


@dataclasses.dataclass(frozen=True)
class Material:
    """What the page is made of.

    Attributes:
        compared: the run, and the one without memory.
        shown: N test images and S places.
        labels: of the N images.
        classes: name of each class.
        counts: training images of each class.
        near: rows of `memory` at the places, -1 pads, `[N, S]`.
        scores: cosines, `[N, S]`.
        influence: `[N, S]`; None if it is not known.
        relevant: whether a neighbour is about the image's class, `[N, S]`.
        test: the N images.
        memory: the rows that are shown.
        test_files: picture of each image, None for none.
        memory_files: of each memory row.
    """

    compared: Compared
    shown: Shown
    labels: np.ndarray
    classes: list[str]
    counts: np.ndarray
    near: np.ndarray
    scores: np.ndarray
    influence: np.ndarray | None
    relevant: np.ndarray
    test: Rows
    memory: Rows
    test_files: list[str | None]
    memory_files: list[str | None]


def kinds(labels: np.ndarray, predicted: np.ndarray, baseline: np.ndarray | None) -> dict[str, np.ndarray]:
    """Returns which images each filter of the page shows, bool `[N]` by its name.

    Args:
        labels: of the images.
        predicted: with memory.
        baseline: without it; None leaves out what compares both.
    """
    right = predicted == labels
    found = {"all": np.ones(len(labels), bool), "mistakes": ~right}
    if baseline is not None:
        found |= {"fixed": right & (baseline != labels), "broken": ~right & (baseline == labels)}
    return found


def data(material: Material) -> dict[str, Any]:
    """Returns the rows of the page: texts once, and for each image its classes and neighbours.

    `images` has for each image: name, picture, class, predicted class, probability, class without memory (-1 for none),
    neighbours in the list, those that are kept, their weight, and `near`: for each place the memory row, place in the
    list from 1, cosine, weight, influence, kept and relevant.
    """
    shown, run = material.shown, material.compared.run
    texts = [plain(text or "", _CAPTION_CHARS) for text in material.memory.captions]
    baseline = material.compared.baseline
    return {
        "page_rows": PAGE_ROWS,
        "classes": [plain(name, _CLASS_CHARS) for name in material.classes],
        "counts": material.counts.tolist(),
        "memory": [list(pair) for pair in zip(texts, material.memory_files, strict=True)],
        "images": [
            {
                "name": plain(material.test.members[number], _NAME_CHARS),
                "picture": material.test_files[number],
                "label": int(material.labels[number]),
                "predicted": int(run.predicted[image]),
                "probability": round(float(run.probabilities[image, 0]), 4),
                "without": -1 if baseline is None else int(baseline.predicted[image]),
                "listed": int(shown.listed[number]),
                "keeps": int(shown.keeps[number]),
                "kept_weight": round(float(shown.kept_weight[number]), 4),
                "near": _near(material, number),
            }
            for number, image in enumerate(shown.images.tolist())
        ],
    }


def _near(material: Material, number: int) -> list[list[Any]]:
    shown, found = material.shown, []
    for step, place in enumerate(shown.places[number].tolist()):
        if place >= 0:
            found.append(
                [
                    int(material.near[number, step]),
                    place + 1,
                    round(float(material.scores[number, step]), 3),
                    None if shown.weights is None else _short(shown.weights[number, step]),
                    None if material.influence is None else _short(material.influence[number, step]),
                    None if shown.kept is None else int(shown.kept[number, step]),
                    int(material.relevant[number, step]),
                ]
            )
    return found


def _short(value: float) -> float:
    """Returns a number of three significant digits: what is not 0 stays so."""
    return float(f"{float(value):.3g}")


def rule() -> str:
    """Returns the rule by which neighbours are kept, in words."""
    return (
        f"Kept are the fewest neighbours whose weights sum to {kept.SHARE:.0%} of the weight of the whole list; all "
        "others are filtered out. A neighbour of weight zero is never kept."
    )
