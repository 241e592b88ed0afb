"""The one sentence that a report begins with, and the warnings that belong beside it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from model.heads import registry
from model.reports.pages import rows
from model.reports.pages.inputs import Inputs
from model.reports.pages.rows import Account
from pipelines.progress import counted

_FEW_SEEDS, _FEW_IMAGES, _FEW_CLASSES = 3, 500, 5
_MOST_REJECTED = 0.01


def sentence(inputs: Inputs) -> str:
    """Returns what the runs show, with its interval, or that they show no difference."""
    subject, reference, methods = inputs.subject, inputs.reference, inputs.results["methods"]
    if not reference:
        reached, images = methods[subject]["all"]["mean"], len(inputs.found.labels)
        return f"{subject} reaches {100 * reached:.1f} % on {images:,} test images; it was compared with no other head"
    found = {
        row["column"]: row
        for row in inputs.results["differences"]
        if (row["method"], row["reference"]) == (subject, reference)
    }
    whole = found.pop("all")
    name = "Memory" if inputs.reads_memory and not registry.get(reference).needs_neighbors else subject
    if whole["low"] <= 0 <= whole["high"]:
        text = f"No significant difference between {subject} and {reference}: {_points(whole, '+')}"
    elif whole["low"] > 0:
        text = f"{name} adds {_points(whole)} over {reference}"
    else:
        text = f"{name} costs {_points(_turned(whole))} against {reference}"
    return text + _group(whole, found)


def _points(row: Mapping[str, Any], sign: str = "") -> str:
    mean, low, high = (format(100 * row[name], f"{sign}.1f") for name in ("difference", "low", "high"))
    return f"{mean} points [{low}, {high}]"


def _turned(row: Mapping[str, Any]) -> dict[str, float]:
    return {"difference": -row["difference"], "low": -row["high"], "high": -row["low"]}


def _group(whole: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns where the difference is largest, if it is one there and goes beyond that of all images."""
    sure = {name: row for name, row in groups.items() if row["low"] > 0 or row["high"] < 0}
    if len(groups) < 2 or not sure:
        return ""
    name, row = max(sure.items(), key=lambda item: abs(item[1]["difference"]))
    if whole["low"] <= 0 <= whole["high"]:
        return f"; on {name}-shot classes {_points(row, '+')}"
    same = row["difference"] * whole["difference"] > 0 and abs(row["difference"]) > abs(whole["difference"])
    return f"; most on {name}-shot classes ({100 * row['difference']:+.1f})" if same else ""


def doubts(inputs: Inputs, found: Sequence[Account]) -> list[str]:
    """Returns where a reader should doubt the figures, a sentence each, the gravest first.

    Args:
        inputs: of the report.
        found: what became of the rows of each source.
    """
    return [
        *inputs.results["warnings"],
        *_leakage(inputs),
        *_few(inputs),
        *_search(inputs),
        *_rows(inputs, found),
    ]


def _leakage(inputs: Inputs) -> Iterator[str]:
    selection = rows.read_selection(inputs.memory.folder)
    is_on = selection and any(selection["identity"]["leakage"].values())
    compared = {split for split, _ in selection["identity"]["splits"]} if selection and is_on else set()
    if missing := [split for split in ("val", "test") if split not in compared]:
        yield (
            f"the memory was not searched for copies of {_list(missing)} images, whose captions may give the answer "
            "away; set --config.filters.leakage and --config.filters.leakage_splits, and run web-memory embed again"
        )


def _few(inputs: Inputs) -> Iterator[str]:
    train, images = inputs.config.train, len(inputs.found.labels)
    if len(train.seeds) == 1:
        yield "each head was trained with one seed, so how far figures vary from seed to seed is not known"
    elif len(train.seeds) < _FEW_SEEDS:
        yield f"{len(train.seeds)} seeds say little of how far figures vary from seed to seed"
    if images < _FEW_IMAGES:
        yield f"{images:,} test images leave an accuracy uncertain by up to {98 / math.sqrt(images):.0f} points"
    small = [name for name in ("many", "medium", "few") if 0 < (inputs.groups == name).sum() < _FEW_CLASSES]
    if small and len(inputs.found.class_counts) >= _FEW_CLASSES:
        counts = ", ".join(f"{name} {(inputs.groups == name).sum()}" for name in small)
        yield f"a group of few classes says little of others like them: {counts}"
    if empty := int((inputs.class_tests == 0).sum()):
        yield f"{counted(empty, 'class')} without a test image, and so without an accuracy"


def _search(inputs: Inputs) -> Iterator[str]:
    tried = {head: chosen for head, chosen in inputs.chosen.items() if chosen["trials"] > 1}
    edge = [head for head, chosen in tried.items() if _is_at_edge(chosen["point"], inputs.config.train)]
    if edge:
        yield (
            f"the best learning rate of {_list(edge)} is the smallest or the largest that was tried; one beyond may be "
            "better: widen --config.train.learning_rates"
        )


def _is_at_edge(point: Mapping[str, Any], train: Any) -> bool:
    # Of two rates, each is at an edge.
    tried, chosen = train.learning_rates, point.get("learning_rate")
    return len(tried) > 2 and chosen in (min(tried), max(tried))


def _rows(inputs: Inputs, found: Sequence[Account]) -> Iterator[str]:
    recall, target = inputs.results["recall_at_k"], inputs.config.index.target_recall
    if recall < target:
        yield f"the index finds {recall:.1%} of the nearest {inputs.results['k']} rows, its target is {target:.0%}"
    for each in found:
        if each.rejected > _MOST_REJECTED * each.rows_in:
            share = each.rejected / each.rows_in
            yield f"{share:.1%} of the rows of {each.name} could not be used; the page Data says why"


def _list(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
