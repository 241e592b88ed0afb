"""What the gallery's page shows, as JSON values: every text of a stranger is one short line."""

import dataclasses
import decimal
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.gallery.examples import Compared, Shown
from model.gallery.rows import Rows
from model.reports.pages.site import plain

_CAPTION_CHARS, _NAME_CHARS, _CLASS_CHARS = 160, 120, 80
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


def payload(material: Material) -> dict[str, Any]:
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
        "head": run.head,
        "baseline": None if baseline is None else baseline.head,
        "classes": [plain(name, _CLASS_CHARS) or f"class {label}" for label, name in enumerate(material.classes)],
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
                    round(float(material.scores[number, step]), 6),
                    None if shown.weights is None else _short(shown.weights[number, step]),
                    None if material.influence is None else _short(material.influence[number, step]),
                    None if shown.kept is None else int(shown.kept[number, step]),
                    int(material.relevant[number, step]),
                ]
            )
    return found


def _short(value: float) -> float:
    """Returns a number of six significant digits, which the page rounds once more: what is not 0 stays so."""
    return float(f"{float(value):.6g}")


# `gallery.js` has the same words, and a test compares the rows of both.


def _fixed(value: float, digits: int) -> str:
    """Returns a number with so many digits behind the point, halves away from zero, as browsers round."""
    return str(decimal.Decimal(value).quantize(decimal.Decimal(1).scaleb(-digits), decimal.ROUND_HALF_UP))


def percent(share: float) -> str:
    """Returns a share in percent, as few digits as say it; what is more than 0 never looks like it."""
    value = 100 * share
    if value >= 10:
        return f"{_fixed(value, 1)}\u00a0%"
    if value >= 0.01:
        digits = 1 - math.floor(math.log10(value))
        return f"{_fixed(value, digits)}\u00a0%"
    return "<\u00a00.01\u00a0%" if value > 0 else "0\u00a0%"


def _signed(value: float) -> str:
    text = _fixed(100 * abs(value), 2)
    return ("" if text == "0.00" else "+" if value > 0 else "−") + text


def view(whole: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Returns what the template shows of an image, as `gallery.js` does for the others."""
    image, classes = whole["images"][place], whole["classes"]
    right = image["predicted"] == image["label"]
    near = image["near"]
    largest = max([0, *(one[3] or 0 for one in near)])
    without = ""
    if image["without"] >= 0:
        verdict = "right" if image["without"] == image["label"] else "wrong"
        without = f"{verdict} without memory: {whole['baseline']} says {classes[image['without']]}"
    word = "right" if right else "wrong"
    return {
        "number": place,
        "name": image["name"],
        "file": image["picture"],
        "label": classes[image["label"]],
        "verdict": word,
        "mark": "✓" if right else "✗",
        "said": f"{word}: {whole['head']} says {classes[image['predicted']]}, {percent(image['probability'])}",
        "without": without,
        "lists": [
            {"kind": kind, "title": title, "near": [_view_neighbor(whole, one, largest) for one in part]}
            for kind, title, part in _parts(image)
        ],
    }


def _parts(image: Mapping[str, Any]) -> list[tuple[str, str, list[list[Any]]]]:
    """Returns the lists of an image: their kind, title and neighbours."""
    near, listed, keeps = image["near"], image["listed"], image["keeps"]
    if near and near[0][5] is None:
        return [("nearest", f"The nearest of {listed:,} neighbours", near)]
    kept_ones, others = [one for one in near if one[5] == 1], [one for one in near if one[5] == 0]
    first = f"Kept: {keeps:,} of {listed:,}, {percent(image['kept_weight'])} of the weight"
    if len(kept_ones) < keeps:
        first += f"; shown are the {len(kept_ones)} largest"
    second = f"Filtered out: {listed - keeps:,}"
    if len(others) < listed - keeps:
        second += f"; shown are the {len(others)} smallest"
    return [("kept", first, kept_ones), ("filtered", second, others)]


def _view_neighbor(whole: Mapping[str, Any], near: Sequence[Any], largest: float) -> dict[str, Any]:
    row, place, cosine, weight, influence, _, relevant = near
    caption, file = whole["memory"][row]
    figures = [
        None if weight is None else f"weight {percent(weight)}",
        f"cosine {_fixed(cosine, 2)}, rank {place:,}",
        None if influence is None else f"influence {_signed(influence)}",
        "about the class" if relevant else None,
    ]
    return {
        "relevant": bool(relevant),
        "file": file,
        "weight": weight is not None,
        "share": _fixed(100 * weight / largest, 1) if weight and largest else "0.0",
        "figures": [figure for figure in figures if figure is not None],
        "caption": caption,
    }
