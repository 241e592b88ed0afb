"""Our figures beside those that others published for the same protocol (`configs.figures`)."""

from collections.abc import Mapping
from typing import Any

from configs.base import Config
from configs.figures import FIGURES
from model.heads.registry import HEADS
from model.measures import metrics
from model.reports.grid import Grid
from model.reports.result_tables import percent
from pipelines.errors import UserError

_COLUMNS = ("encoder", "all", *metrics.GROUPS, "source")


def check(config: Config) -> None:
    """Raises a `UserError` if there are no published figures for the protocol of a config."""
    if config.protocol.name not in FIGURES:
        known = dict.fromkeys(name.partition("/")[0] for name in FIGURES)
        raise UserError(
            f"--published: nothing is published for this protocol (--config.protocol.name={config.protocol.name}), "
            f"only for those of {', '.join(f'configs/{name}.py' for name in known)}; leave --published out"
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
    measured = [
        (name, _encoders(config, name), *(percent(figures[column]) for column in ("all", *metrics.GROUPS)), "this run")
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


def _encoders(config: Config, method: str) -> str:
    """Returns the encoder of the images, and those of the values of a method that reads neighbours."""
    head, key = HEADS.get(method.split(" + ")[0]), config.encoders.key
    if not head or not head.needs_neighbors:
        return key
    made, values = {"image": config.encoders.value_image, "text": config.encoders.value_text}, []
    for kind in config.train.values:
        role, _, named = kind.partition("_")
        for name, _, handle in (one.rpartition("=") for one in made.get(role, ())):
            values += [handle] if name == named else []
    return f"{key}; values {', '.join(values)}" if values else key
