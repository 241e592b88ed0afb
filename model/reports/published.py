"""Our figures beside those that others published for the same protocol (`configs.figures`)."""

from collections.abc import Mapping
from typing import Any

from configs.base import Config
from configs.figures import FIGURES
from model.measures import metrics
from model.reports.grid import Grid
from model.reports.result_tables import percent
from pipelines.errors import UserError

_COLUMNS = ("encoder", "all", *metrics.GROUPS, "source")


def check(config: Config) -> None:
    """Raises a `UserError` if there are no published figures for the protocol of a config."""
    if config.protocol.name not in FIGURES:
        raise UserError(
            f"--published: there are no figures for --config.protocol.name={config.protocol.name}; known are "
            f"{', '.join(FIGURES)}; leave --published out"
        )


def grid(config: Config, results: Mapping[str, Any]) -> Grid:
    """Returns the table of our heads and of the published rows, which name their encoders and sources.

    Args:
        config: names the protocol and our encoders.
        results: from `results.evaluate`.

    Raises:
        UserError: as `check`.
    """
    check(config)
    encoders = config.encoders
    values = [handle for handle in (*encoders.value_image, *encoders.value_text) if handle]
    ours = encoders.key + (f"; values {', '.join(values)}" if values else "")
    measured = [
        (name, ours, *(percent(figures[column]) for column in ("all", *metrics.GROUPS)), "this run")
        for name, figures in results["methods"].items()
    ]
    published = [
        (
            figure.method,
            figure.encoder or "-",
            f"{figure.all:.1f}",
            *(map("{:.1f}".format, figure.groups) if figure.groups else ("-",) * len(metrics.GROUPS)),
            figure.source,
        )
        for figure in FIGURES[config.protocol.name]
    ]
    return Grid(
        f"Test accuracy on {config.protocol.name}, %, of this run and as published",
        ("method", *_COLUMNS),
        measured + published,
        (
            "Published figures are on other encoders, memories and choices of settings: compare methods within one "
            "source, not across sources. -: not in the source.",
        ),
    )
