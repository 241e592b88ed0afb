"""What the gallery's page says: headline, filters, the rule by which neighbours are kept, and what is not shown."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps

from model.gallery.page import PAGE_ROWS, Material, kinds, percent, view
from model.gallery.thumbnails import SIDE, Written
from model.measures import kept

_compact = functools.partial(json.dumps, separators=(",", ":"), ensure_ascii=False)
_TITLES = {
    "all": "all",
    "mistakes": "mistakes",
    "fixed": "fixed by memory",
    "broken": "broken by memory",
}


def facts(
    material: Material,
    payload: Mapping[str, Any],
    test_images: int,
    written: Written,
    with_images: Sequence[str],
    no_influence: str,
) -> dict[str, Any]:
    """Returns what the template shows.

    Args:
        material: of the page.
        payload: of its script.
        test_images: how many there are in all.
        written: the pictures.
        with_images: `test`, `memory`, or both: sources that have pictures.
        no_influence: why influence is not known; empty if it is, or there can be none.
    """
    run, baseline = material.compared.run, material.compared.baseline
    predicted = run.predicted[material.shown.images]
    other = None if baseline is None else baseline.predicted[material.shown.images]
    chosen = kinds(material.labels, predicted, other)
    counts = {name: int(mask.sum()) for name, mask in chosen.items()}
    shown = counts["all"]
    labels, sizes = np.unique(material.labels, return_counts=True)
    names = payload["classes"]
    classes = sorted(
        ((int(label), names[label], int(size)) for label, size in zip(labels, sizes, strict=True)),
        key=lambda one: one[1].casefold(),
    )
    first = min(PAGE_ROWS, shown)
    return {
        "headline": _headline(material),
        "lead": _lead(material, counts),
        "terms": _terms(material, test_images, written, with_images, no_influence),
        "kinds": [{"name": name, "title": _TITLES[name], "count": f"{count:,}"} for name, count in counts.items()],
        "classes": classes,
        "state": f"1 to {first:,} of {shown:,} test images" if shown > 1 else "1 test image",
        "rows": [view(payload, place) for place in range(first)],
        "payload": htmlsafe_json_dumps(payload, _compact),
    }


def _headline(material: Material) -> str:
    if material.shown.weights is not None:
        return "What attention keeps and filters out" if _attends(material) else "Test images and their neighbours"
    return "Test images and their neighbours"


def _attends(material: Material) -> bool:
    from model.heads import registry

    return registry.get(material.compared.run.head).attends


def _lead(material: Material, counts: Mapping[str, int]) -> str:
    run, baseline, shown = material.compared.run, material.compared.baseline, counts["all"]
    right = shown - counts["mistakes"]
    text = f"{run.head} (seed {run.seed}) is right on {right:,} of the {shown:,} test images shown"
    text += f", {percent(right / shown)}."
    if baseline is not None:
        text += (
            f" Memory fixes {counts['fixed']:,} mistakes of {baseline.head}, which reads none, and breaks "
            f"{counts['broken']:,} of its right answers."
        )
    return text


def _terms(
    material: Material, test_images: int, written: Written, with_images: Sequence[str], no_influence: str
) -> list[tuple[str, str]]:
    run, baseline, shown = material.compared.run, material.compared.baseline, material.shown
    images = len(shown.images)
    which = (
        f"All {images:,} of the test split, in its order."
        if images == test_images
        else f"{images:,} of {test_images:,}, drawn at random once and for all with the config's seed."
    )
    terms = [("Test images", which)]
    longest = int(shown.listed.max(initial=0))
    places = f"{shown.places.shape[1]} of at most {longest:,}" if longest > shown.places.shape[1] else "All"
    if shown.weights is None:
        why = "reads no memory" if not material.compared.reads_memory else "gives its neighbours no weights"
        terms.append(("Neighbours", f"{places}, the nearest first. {run.head} {why}, so nothing is kept or filtered."))
    else:
        terms += [
            (
                "Kept",
                f"The fewest neighbours whose weights sum to {percent(kept.SHARE)} of the weight of the whole list. "
                "None of them has weight zero.",
            ),
            ("Filtered out", "All other neighbours of the list."),
            ("Neighbours", f"{places} are shown, the largest weight first; the titles say what is left out."),
            ("Weight", f"How much {run.head} attends to the neighbour; a bar compares it with the largest in its row."),
        ]
    terms.append(("Cosine, rank", "Similarity of the two images' keys, and its place in the list, 1 for the nearest."))
    if material.influence is not None:
        terms.append(
            (
                "Influence",
                f"Percentage points that the probability of the class predicted by {run.head} would lose if this "
                "neighbour alone were left out and the head asked again; with − it would gain them.",
            )
        )
    elif no_influence:
        terms.append(("Influence", f"Not known: {no_influence}"))
    terms.append(("About the class", "The neighbour's caption names the true class, or its own label is that class."))
    if baseline is not None:
        terms += [
            ("Fixed by memory", f"{run.head} is right where {baseline.head}, with the same seed, is wrong."),
            ("Broken by memory", f"{run.head} is wrong where {baseline.head}, with the same seed, is right."),
        ]
    return [*terms, ("Pictures", _pictures(written, with_images))]


def _pictures(written: Written, with_images: Sequence[str]) -> str:
    if not with_images:
        return "None: test images and memory were embedded from vectors."
    count = len({file for files in written.files for file in files if file})
    text = f"{count:,}, of at most {SIDE} pixels a side, {written.size_bytes / 1e6:,.1f} MB in all."
    if len(with_images) == 1:
        without = "The memory was" if with_images[0] == "test" else "The test images were"
        text += f" {without} embedded from vectors."
    if written.unreadable:
        text += f" {written.unreadable:,} could not be read again{f' ({written.why})' if written.why else ''}."
    if written.on_the_web:
        text += f" {written.on_the_web:,} are on the web and were not downloaded."
    return text
