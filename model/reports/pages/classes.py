"""The page about classes: accuracy against size, all figures, and which classes are taken for which."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.reports import charts, tables
from model.reports.charts import Chart
from model.reports.grid import Grid
from model.reports.pages import facts
from model.reports.pages.inputs import Inputs
from pipelines.manifest import Embeddings

_PAIRS, _TAKEN, _OTHERS = 8, 4, 2
# Beyond this the names of dots would make most of the page.
_MOST_NAMED_DOTS = 1500


def gather(inputs: Inputs) -> dict[str, Any]:
    """Returns what `classes.html.j2` shows."""
    reached = {
        head: accuracies(inputs.found.right(head), inputs.found.labels, inputs.class_tests) for head in inputs.colors
    }
    return {
        "subject": inputs.subject,
        "reference": inputs.reference,
        "notes": facts.group_notes(inputs, inputs.config.train.shots),
        "charts": [_against_size(inputs, head, mine) for head, mine in reached.items()],
        "difference": _differences(inputs, reached),
        "table": tables.table(_grid(inputs, reached)),
        "pairs": pairs(inputs),
    }


def accuracies(right: np.ndarray, labels: np.ndarray, class_tests: np.ndarray) -> np.ndarray:
    """Returns the accuracy of each class, `[C]`, NaN for one without test images.

    Args:
        right: how right each test image is, 0 to 1, `[N]`.
        labels: `[N]`.
        class_tests: test images of each class, `[C]`.
    """
    hits = np.bincount(labels, weights=right, minlength=len(class_tests))
    return np.divide(hits, class_tests, out=np.full(len(class_tests), np.nan), where=class_tests > 0)


def _sizes(inputs: Inputs) -> charts.Axis:
    return charts.logarithmic("training images of the class", inputs.found.class_counts.tolist())


def _dots(chart: Chart, inputs: Inputs, color: int, figures: np.ndarray) -> None:
    """Adds a dot for each class, and a line through the means of classes of about the same size."""
    counts = inputs.found.class_counts
    known = np.flatnonzero(np.isfinite(figures))
    for label in known.tolist():
        name = f"{inputs.class_names[label]}: {counts[label]:,} training images, {figures[label]:.1f}"
        chart.add_dot(color, counts[label], figures[label], name if len(known) <= _MOST_NAMED_DOTS else "")
    octaves = np.floor(np.log2(counts[known]))
    means = [known[octaves == octave] for octave in np.unique(octaves)]
    chart.add_line(color, [(float(np.exp(np.log(counts[m]).mean())), float(figures[m].mean())) for m in means], "mean")


def _against_size(inputs: Inputs, head: str, mine: np.ndarray) -> Chart:
    about = "Each dot is a class; the line is the mean over classes of about the same size. The table has the figures."
    chart = Chart(head, about, _sizes(inputs), charts.linear("test accuracy of the class, %", [], 0, 100))
    _dots(chart, inputs, inputs.colors[head], 100 * mine)
    return chart


def _differences(inputs: Inputs, reached: dict[str, np.ndarray]) -> Chart | None:
    if not inputs.reference:
        return None
    gained = 100 * (reached[inputs.subject] - reached[inputs.reference])
    finite = gained[np.isfinite(gained)].tolist()
    title = f"{inputs.subject} minus {inputs.reference}"
    about = "Above 0: classes that it recognises better. The table has the figures."
    chart = Chart(title, about, _sizes(inputs), charts.linear("difference, points", [0.0, *finite]))
    chart.add_line(0, [(chart.x.low, 0), (chart.x.high, 0)], is_reference=True)
    _dots(chart, inputs, inputs.colors[inputs.subject], gained)
    return chart


def _grid(inputs: Inputs, reached: dict[str, np.ndarray]) -> Grid:
    counts, tests = inputs.found.class_counts, inputs.class_tests
    columns: list[tuple[str, list[str]]] = [
        ("class", [inputs.class_names[label] for label in range(len(counts))]),
        ("group", inputs.groups.tolist()),
        ("training images", [f"{count:,}" for count in counts]),
        ("test images", [f"{count:,}" for count in tests]),
        *((head, [_figure(100 * value) for value in mine]) for head, mine in reached.items()),
    ]
    if inputs.reference:
        gained = 100 * (reached[inputs.subject] - reached[inputs.reference])
        columns.append((f"{inputs.subject} − {inputs.reference}", [_figure(value, "+") for value in gained]))
    return Grid(
        "Each class: test accuracy, %" + (", mean over seeds" if len(inputs.config.train.seeds) > 1 else ""),
        tuple(name for name, _ in columns),
        list(zip(*(cells for _, cells in columns), strict=True)),
        ("A class of few test images has an accuracy of few possible values; differences of one class prove little.",),
    )


def _figure(value: float, sign: str = "") -> str:
    return format(value, f"{sign}.1f") if np.isfinite(value) else "-"


@dataclasses.dataclass(frozen=True)
class Pair:
    """A class whose images are taken for another.

    Attributes:
        label: the true class.
        predicted: the class that it is taken for.
        share: of the class's test images, mean over seeds, 0 to 1.
        reference: the same share of the head that is compared with; None without one.
        taken: data URLs of test images that are taken for the other.
        others: data URLs of training images of the other.
    """

    label: str
    predicted: str
    share: float
    reference: float | None
    taken: list[str]
    others: list[str]


def _confusions(inputs: Inputs, head: str) -> np.ndarray:
    """Returns how many of the head's seeds predict each wrong class for each image: image, class and times `[M, 3]`."""
    labels = inputs.found.labels
    wrong = [
        np.stack([np.flatnonzero(run.predicted != labels), run.predicted[run.predicted != labels]], 1)
        for run in inputs.found.of(head)
    ]
    rows, times = np.unique(np.concatenate(wrong), axis=0, return_counts=True)
    return np.concatenate([rows, times[:, None]], 1)


def pairs(inputs: Inputs) -> list[Pair]:
    """Returns the pairs that the head of the report confuses most often, with pictures where they can be read."""
    labels, classes = inputs.found.labels, len(inputs.found.class_counts)

    def count(head: str) -> tuple[np.ndarray, np.ndarray]:
        wrong = _confusions(inputs, head)
        codes = labels[wrong[:, 0]].astype(np.int64) * classes + wrong[:, 1]
        return np.bincount(codes, weights=wrong[:, 2], minlength=1), wrong

    times, wrong = count(inputs.subject)
    order = np.argsort(-times, kind="stable")[:_PAIRS]
    chosen = [(code // classes, code % classes) for code in order[times[order] > 0].tolist()]
    theirs = count(inputs.reference)[0] if inputs.reference else None
    seeds = len(inputs.found.of(inputs.subject))
    tests, trains = _pictures(inputs, wrong, chosen)
    found = []
    for label, other in chosen:
        code, total = label * classes + other, seeds * inputs.class_tests[label]
        again = None
        if theirs is not None:
            images = len(inputs.found.of(inputs.reference)) * inputs.class_tests[label]
            again = float(theirs[code] / images) if code < len(theirs) else 0.0
        names = inputs.class_names[label], inputs.class_names[other]
        found.append(Pair(*names, float(times[code] / total), again, tests[label, other], trains[other]))
    return found


def _pictures(
    inputs: Inputs, wrong: np.ndarray, chosen: Sequence[tuple[int, int]]
) -> tuple[dict[tuple[int, int], list[str]], dict[int, list[str]]]:
    """Returns pictures of test images of each pair, most often confused first, and of each other class's training."""
    taken, others = {}, {}
    for label, other in chosen:
        mine = wrong[(inputs.found.labels[wrong[:, 0]] == label) & (wrong[:, 1] == other)]
        taken[label, other] = mine[np.argsort(-mine[:, 2], kind="stable"), 0][:_TAKEN].tolist()
    labels = inputs.lists.split("train")["label"].to_numpy()
    for other in dict.fromkeys(other for _, other in chosen):
        others[other] = np.flatnonzero(labels == other)[:_OTHERS].tolist()
    return _shown(inputs, "test", taken), _shown(inputs, "train", others)


def _shown(inputs: Inputs, split: str, wanted: dict[Any, list[int]]) -> dict[Any, list[str]]:
    embeddings = inputs.split(split)
    positions = sorted({position for positions in wanted.values() for position in positions})
    rows = dict(zip(positions, sources(embeddings, positions), strict=True))
    album = inputs.album(split, rows.values())
    return {
        key: [album[rows[position]] for position in mine if rows[position] in album] for key, mine in wanted.items()
    }


def sources(embeddings: Embeddings, positions: Sequence[int]) -> list[tuple[str, str]]:
    """Returns container and member of rows by their positions, ascending; reads only the shards that have them."""
    found: list[tuple[str, str]] = []
    first = 0
    for shard, rows in embeddings.shard_rows.items():
        mine = [position - first for position in positions if first <= position < first + rows]
        if mine:
            table = embeddings.read(shard, ["source_shard", "member"]).take(mine)
            found += zip(table["source_shard"].to_pylist(), table["member"].to_pylist(), strict=True)
        first += rows
    return found
