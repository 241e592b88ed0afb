"""The page about ablations, for what `web-memory ablate` was run on: a table and a chart of each."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from model.reports import charts, tables
from model.reports.ablations import study
from model.reports.charts import Axis, Chart
from model.reports.pages.inputs import Inputs
from pipelines import schemas, storage

_SHAPE = {"vary": str, "title": str, "scale": str, "note": str, "sweep": bool, "points": [{"methods": dict}]}
_FIGURES = {"all": "all test images", "few": "few-shot classes"}


def paths(workdir: str) -> list[str]:
    """Returns the files of all ablations of a workdir."""
    return storage.files(storage.join(workdir, "ablations"), ".json")


def gather(inputs: Inputs) -> dict[str, Any]:
    """Returns what `ablations.html.j2` shows."""
    found = [
        schemas.read_json(path, _SHAPE, "remove it and run web-memory ablate again")
        for path in paths(inputs.config.workdir)
    ]
    studies = [
        {"title": each["title"], "table": tables.table(study.grid(each)), "charts": _charts(inputs, each)}
        for each in found
    ]
    return {"colors": inputs.colors, "studies": studies}


def _axis(title: str, scale: str, values: list[str]) -> tuple[Axis, list[float]]:
    """Returns the axis of what was varied, and the place of each value on it; names stand at whole numbers."""
    if scale == "names":
        return Axis(title, -0.5, len(values) - 0.5, ()), [float(place) for place in range(len(values))]
    places = [float(Fraction(value)) for value in values]
    if scale == "log" and min(places) > 0:
        return charts.logarithmic(title, places), places
    return charts.linear(title, places), places


def _charts(inputs: Inputs, found: Mapping[str, Any]) -> list[Chart]:
    shown = []
    points = found["points"]
    values = [str(point["value"]) for point in points]
    for column, figure in _FIGURES.items():
        lines: dict[str, list[tuple[float, float, str]]] = {}
        axis, places = _axis(found["title"], found["scale"], values)
        for place, point in zip(places, points, strict=True):
            for head, figures in point["methods"].items():
                if (mean := figures[column]["mean"]) is not None:
                    name = f"{head}, {point['value']}: {100 * mean:.1f}"
                    lines.setdefault(head, []).append((place, 100 * mean, name))
        if not lines:
            continue
        accuracies = [y for line in lines.values() for _, y, _ in line]
        chart = Chart(figure, "The table has the figures.", axis, charts.linear("test accuracy, %", accuracies))
        for head, line in lines.items():
            color = inputs.colors.get(head, 0)
            chart.add_line(color, [(x, y) for x, y, _ in line], head)
            for x, y, name in line:
                chart.add_dot(color, x, y, name)
        shown.append(chart)
    return shown
