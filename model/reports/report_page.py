"""The page that `model.report` writes: tables, bars, curves and the gallery in one file that loads nothing.

The contents come from `results.json` and from the runs' `metrics.jsonl`; names of heads are escaped all the same.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from model.reports import plot
from model.reports.grid import Grid
from model.reports.results import COLUMNS
from model.training import run_files
from pipelines import storage

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 420, 220, 44, 24

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
  body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #1c1f24 }
  section { margin: 2.5rem 0; overflow-x: auto }
  table { border-collapse: collapse }
  th, td { padding: .3rem .8rem; border-bottom: 1px solid #e5e7eb; text-align: right; white-space: nowrap }
  th:first-child, td:first-child { text-align: left }
  .key { margin-right: 1.2rem; white-space: nowrap }
  .key i { display: inline-block; width: .8rem; height: .8rem; margin-right: .3rem }
  svg text { font: 11px system-ui, sans-serif; fill: #6b7280 }
  img { max-width: 100% }
  small { color: #6b7280 }
</style>
<h1>{{ title }}</h1>
<p>{% for name, color in colors.items() %}
<span class="key"><i style="background: {{ color }}"></i>{{ name }}</span>{% endfor %}</p>
{% for warning in warnings %}<p role="alert"><strong>Warning:</strong> {{ warning }}</p>
{% endfor %}<section>
<h2>Test accuracy by shots, %</h2>
<svg width="{{ bars.width }}" height="{{ bars.height }}" role="img" aria-label="test accuracy by shots">
{% for bar in bars.bars %}<rect x="{{ bar.x }}" y="{{ bar.y }}" width="{{ bar.width }}" height="{{ bar.height }}"
  fill="{{ bar.color }}"><title>{{ bar.title }}</title></rect>
{% endfor %}{% for label in bars.labels %}<text x="{{ label.x }}" y="{{ bars.height - 6 }}">{{ label.text }}</text>
{% endfor %}</svg>
</section>
{% for grid in grids %}<section>
<h2>{{ grid.title }}</h2>
<table><tr>{% for column in grid.columns %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in grid.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
</section>
{% endfor %}<section>
<h2>Training, the first seed of each head</h2>
{% for plot in curves %}<svg width="{{ width }}" height="{{ height }}" role="img" aria-label="{{ plot.title }}">
<text x="{{ left }}" y="12">{{ plot.title }}</text>
<text x="2" y="30">{{ plot.top }}</text><text x="2" y="{{ height - bottom }}">{{ plot.base }}</text>
<text x="{{ left }}" y="{{ height - 6 }}">step {{ plot.first }}</text>
<text x="{{ width - 4 }}" y="{{ height - 6 }}" text-anchor="end">{{ plot.last }}</text>
{% for line in plot.lines %}<polyline points="{{ line.points }}" fill="none" stroke="{{ line.color }}"
  stroke-width="1.5"><title>{{ line.name }}</title></polyline>
{% endfor %}</svg>
{% endfor %}</section>
{% if gallery %}<section>
<h2>What attention keeps and filters out</h2>
<img src="{{ gallery }}" alt="test images beside their neighbours">
</section>{% endif %}
<small>{{ facts }}</small>
</html>
"""


@dataclasses.dataclass(frozen=True)
class Curve:
    """The log of one run: `step` and figures by name, at each checkpoint."""

    name: str
    points: list[dict[str, float]]


def read_curves(results: Mapping[str, Any]) -> list[Curve]:
    """Returns the curve of the first seed of each head in `results`, if its file still exists."""
    found = []
    for head in results["methods"]:
        seed = next(row["seed"] for row in results["rows"] if row["method"] == head)
        place = run_files.of_seed(results["runs"], head, seed)
        path = storage.join(place, run_files.METRICS)
        if storage.exists(path):
            if run_files.is_done(place):
                digest = run_files.read_result(place, {"head": head, "seed": seed})["metrics_sha256"]
                storage.check_sha256(path, digest, f"remove {place} and run web-memory train again")
            with storage.open_read(path) as file:
                lines = file.read().decode().splitlines()
            found.append(Curve(head, [json.loads(line) for line in lines]))
    return found


def _plot(title: str, figure: str, curves: Sequence[Curve], colors: Mapping[str, str]) -> dict[str, Any] | None:
    known = {curve.name: [p for p in curve.points if figure in p] for curve in curves}
    every = [point for points in known.values() for point in points]
    if not every:
        return None
    steps, values = [p["step"] for p in every], [p[figure] for p in every]
    first, last, base, top = min(steps), max(steps), min(values), max(values)

    def place(point: dict[str, float]) -> str:
        x = _LEFT + (_WIDTH - _LEFT - 8) * (point["step"] - first) / max(last - first, 1)
        y = 20 + (_HEIGHT - _BOTTOM - 20) * (top - point[figure]) / max(top - base, 1e-9)
        return f"{x:.1f},{y:.1f}"

    lines = [
        {"name": name, "color": colors[name], "points": " ".join(map(place, points))} for name, points in known.items()
    ]
    return {"title": title, "top": f"{top:.3g}", "base": f"{base:.3g}", "first": first, "last": last, "lines": lines}


def _bars(methods: Mapping[str, Any], colors: Mapping[str, str]) -> dict[str, Any]:
    wide, high = 16, 180
    step = wide * len(methods) + 40
    bars, labels = [], []
    for place, column in enumerate(COLUMNS):
        labels.append({"x": place * step, "text": column})
        for number, (name, figures) in enumerate(methods.items()):
            if (mean := figures[column]["mean"]) is not None:
                size = round(high * mean, 1)
                title = f"{name}, {column}: {100 * mean:.1f}"
                x, y = place * step + number * wide, high - size
                bars.append({"x": x, "y": y, "width": wide - 2, "height": size, "color": colors[name], "title": title})
    return {"width": step * len(COLUMNS), "height": high + 24, "bars": bars, "labels": labels}


def render(results: Mapping[str, Any], grids: Sequence[Grid], curves: Sequence[Curve], gallery: str, facts: str) -> str:
    """Returns the page.

    Args:
        results: from `results.evaluate`.
        grids: their tables.
        curves: of training.
        gallery: data URL of the picture; empty for none.
        facts: last line of the page.
    """
    methods = results["methods"]
    colors = {name: plot.COLORS[number % len(plot.COLORS)] for number, name in enumerate(methods)}
    plots = [_plot("loss", "loss", curves, colors), _plot("val accuracy", "val_all", curves, colors)]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(
        title="Web Memory: results",
        colors=colors,
        warnings=results.get("warnings", ()),
        bars=_bars(methods, colors),
        grids=grids,
        curves=[plot for plot in plots if plot],
        gallery=gallery,
        facts=facts,
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        bottom=_BOTTOM,
    )
