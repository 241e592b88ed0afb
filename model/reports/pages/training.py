"""The page about training: learning curves, whether probabilities can be believed, and the trials of each head."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from model.reports import charts, tables, tuning
from model.reports.charts import Chart
from model.reports.grid import Grid
from model.reports.pages.inputs import Inputs
from model.reports.runs import Run
from model.training import run_files
from model.training.trials import read_trials
from pipelines import storage

# As the expected calibration error has them.
_BINS = 15
_LARGEST_DOT = 12
# Runs with the figures of each checkpoint.
Curves = list[tuple[Run, list[dict[str, float]]]]
_GROUPS = {"val_many": "many", "val_medium": "medium", "val_few": "few"}


def gather(inputs: Inputs) -> dict[str, Any]:
    """Returns what `training.html.j2` shows."""
    curves = [(run, points) for run in inputs.found.runs if (points := read_curve(run))]
    bins = {head: reliability(inputs.found.of(head), inputs.found.labels) for head in inputs.colors}
    plots = [
        _curves(inputs, curves, "loss", "Training loss", "loss"),
        _curves(inputs, curves, "val_all", "Accuracy on val", "val accuracy, %"),
    ]
    return {
        "subject": inputs.subject,
        "colors": inputs.colors,
        "curves": [chart for chart in [*plots, _groups(inputs, curves)] if chart],
        "seeds": len(inputs.config.train.seeds),
        "reliability": [_diagram(inputs, head, mine) for head, mine in bins.items()],
        "bins": tables.table(_bins(inputs.subject, bins[inputs.subject])),
        "trials": [tables.table(grid) for grid in _trials(inputs)],
    }


def read_curve(run: Run) -> list[dict[str, float]]:
    """Returns `step` and figures at each checkpoint of a run; nothing if its log is no longer there.

    Raises:
        UserError: if the log is not the one that the run wrote.
    """
    folder = run.path.rpartition("/")[0]
    path = storage.join(folder, run_files.METRICS)
    if not storage.exists(path):
        return []
    storage.check_sha256(path, run.result["metrics_sha256"], f"remove {folder} and run web-memory train again")
    with storage.open_read(path) as file:
        return [json.loads(line) for line in file.read().decode().splitlines()]


def _chart(
    title: str, about: str, figure: str, lines: Sequence[tuple[int, str, Sequence[tuple[float, float]]]]
) -> Chart:
    """Returns a chart of lines, each with its colour and name, over training steps."""
    steps = [step for *_, points in lines for step, _ in points]
    values = [value for *_, points in lines for _, value in points]
    chart = Chart(title, about, charts.linear("training step", steps, low=0), charts.linear(figure, values))
    for color, name, points in lines:
        chart.add_line(color, points, name)
        for step, value in points:
            chart.add_dot(color, step, value, f"{name}, step {step:g}: {value:.3g}", radius=2)
    return chart


def _points(points: Sequence[dict[str, float]], name: str) -> list[tuple[float, float]]:
    scale = 100 if name.startswith("val_") else 1
    return [(point["step"], scale * point[name]) for point in points if np.isfinite(point.get(name, np.nan))]


def _curves(inputs: Inputs, curves: Curves, name: str, title: str, figure: str) -> Chart | None:
    lines = [
        (inputs.colors[run.head], f"{run.head}, seed {run.seed}", found)
        for run, points in curves
        if (found := _points(points, name))
    ]
    return _chart(title, "A line for each head and seed, a dot for each checkpoint.", figure, lines) if lines else None


def _groups(inputs: Inputs, curves: Curves) -> Chart | None:
    """Returns the val accuracies of each group, for the first seed of the head of the report."""
    points = next((points for run, points in curves if run.head == inputs.subject), [])
    lines = [(color, name, _points(points, column)) for color, (column, name) in enumerate(_GROUPS.items())]
    lines = [line for line in lines if line[2]]
    title = f"{inputs.subject}, first seed: many (solid), medium (dashed), few (dotted)"
    return _chart(title, "The groups of classes on val.", "val accuracy, %", lines) if lines else None


def reliability(found: Sequence[Run], labels: np.ndarray) -> np.ndarray:
    """Returns images, mean confidence and share that is right, 0 to 1, of bins of equal width, `[15, 3]`.

    Args:
        found: the runs of one head; their predictions are put together.
        labels: of the test images, `[N]`.
    """
    confidences = np.concatenate([run.probabilities[:, 0] for run in found]).astype(np.float64)
    right = np.concatenate([run.predicted == labels for run in found])
    place = np.clip(np.ceil(confidences * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    counts = np.bincount(place, minlength=_BINS)
    sums = [np.bincount(place, weights=weights, minlength=_BINS) for weights in (confidences, right.astype(float))]
    return np.stack([counts, *(each / np.maximum(counts, 1) for each in sums)], 1)


def _diagram(inputs: Inputs, head: str, bins: np.ndarray) -> Chart:
    about = "On the diagonal, probabilities can be believed; below it, the head is too sure."
    whole = (0.0, 100.0)
    axes = (
        charts.linear("probability of the prediction, %", whole),
        charts.linear("predictions that are right, %", whole),
    )
    chart = Chart(head, about, *axes)
    chart.add_line(0, [(0, 0), (100, 100)], is_reference=True)
    some = bins[bins[:, 0] > 0]
    chart.add_line(inputs.colors[head], [(100 * x, 100 * y) for _, x, y in some.tolist()])
    for count, confidence, right in some.tolist():
        name = f"{count:,.0f} predictions at {confidence:.1%}, {right:.1%} of them right"
        radius = max(2.0, _LARGEST_DOT * (count / bins[:, 0].sum()) ** 0.5)
        chart.add_dot(inputs.colors[head], 100 * confidence, 100 * right, name, radius)
    return chart


def _bins(head: str, bins: np.ndarray) -> Grid:
    rows: list[tuple[str, ...]] = [
        (
            f"{100 * place / _BINS:.0f} to {100 * (place + 1) / _BINS:.0f} %",
            f"{count:,.0f}",
            f"{100 * confidence:.1f}" if count else "-",
            f"{100 * right:.1f}" if count else "-",
        )
        for place, (count, confidence, right) in enumerate(bins.tolist())
    ]
    columns = ("probability", "predictions", "mean probability, %", "right, %")
    return Grid(f"How far probabilities can be believed: {head}, all seeds", columns, rows)


def _trials(inputs: Inputs) -> list[Grid]:
    grids = []
    for head, chosen in inputs.chosen.items():
        tried = read_trials(storage.join(inputs.found.folder, head), chosen["trials"])
        if tried:
            grid = tuning.grid(tried, head)
            note = f"chosen for all seeds: trial {chosen['number']}, the best on val"
            grids.append(Grid(grid.title, grid.columns, grid.rows, (note,)))
    return grids
