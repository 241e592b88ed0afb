"""Draws ablations as SVG. Matplotlib, which training does not need, is imported when a plot is drawn."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from pipelines import storage
from pipelines.errors import UserError

COLORS = ("#6b7280", "#2563eb", "#dc2626", "#15803d", "#b45309", "#7c3aed", "#0891b2", "#be185d")


def check() -> None:
    """Raises a `UserError` if Matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("plots need Matplotlib; install it by: pip install 'web-memory[plot]'") from error


def _known(
    places: Sequence[float], points: Sequence[tuple[float | None, float | None]]
) -> list[tuple[float, float, float]]:
    return [(x, mean, std or 0.0) for x, (mean, std) in zip(places, points, strict=True) if mean is not None]


def draw(
    path: str,
    title: str,
    axis: str,
    scale: str,
    values: Sequence[str],
    panels: Mapping[str, Mapping[str, Sequence[tuple[float | None, float | None]]]],
) -> None:
    """Writes a plot with a panel for each figure; the same input gives the same bytes.

    Args:
        path: of the SVG.
        title: above all panels.
        axis: name of what is varied.
        scale: `log` or `linear` if values are numbers or fractions, `names` otherwise.
        values: of the axis.
        panels: by the figure's name, for each method mean and standard deviation at each value, None for none.
    """
    import matplotlib
    from matplotlib.figure import Figure

    places = [float(number) for number in range(len(values))]
    if scale != "names":
        places = [float(Fraction(value)) for value in values]
    # Without a salt the ids in the file are random.
    with matplotlib.rc_context({"svg.hashsalt": "web-memory", "svg.fonttype": "none"}):
        figure = Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained")
        figure.suptitle(title, fontsize=12)
        for number, (name, lines) in enumerate(panels.items(), 1):
            axes: Any = figure.add_subplot(1, len(panels), number)
            for color, (method, points) in zip(COLORS * len(lines), lines.items(), strict=False):
                if known := _known(places, points):
                    xs, means, stds = zip(*known, strict=True)
                    axes.errorbar(xs, means, stds, label=method, color=color, marker="o", markersize=4, capsize=2)
            if scale == "log":
                axes.set_xscale("log", base=2)
            axes.set_xticks(places, values)
            axes.minorticks_off()
            axes.set_xlabel(axis)
            axes.set_title(name, fontsize=10)
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            if number == 1:
                axes.legend(fontsize=8, frameon=False)
        with storage.atomic_write(path) as file:
            figure.savefig(file, format="svg", metadata={"Date": None})
