"""Which pages a report has, and writes them."""

from collections.abc import Callable
from typing import Any

from model.reports.pages import classes, data, overview, training
from model.reports.pages.inputs import Inputs
from model.reports.pages.site import Site

_GATHER: dict[str, Callable[[Inputs], dict[str, Any]]] = {
    "index": overview.gather,
    "classes": classes.gather,
    "training": training.gather,
    "data": data.gather,
}


def write(folder: str, inputs: Inputs) -> str:
    """Writes the pages into a folder and returns the path of the first."""
    name = inputs.config.workdir.rstrip("/").rpartition("/")[2]
    site = Site(folder, f"Web Memory: {name}", tuple(_GATHER))
    return [site.write(page, gather(inputs)) for page, gather in _GATHER.items()][0]
