"""Which pages a report has, and writes them."""

from collections.abc import Callable, Sequence
from typing import Any

from model.reports.pages import ablations, classes, data, overview, training
from model.reports.pages.inputs import Inputs
from model.reports.pages.site import Site

_GATHER: dict[str, Callable[[Inputs], dict[str, Any]]] = {
    "index": overview.gather,
    "classes": classes.gather,
    "training": training.gather,
    "data": data.gather,
    "ablations": ablations.gather,
}


def plan(folder: str, workdir: str, others: Sequence[str] = ()) -> Site:
    """Returns the pages that the report of a workdir has, in a folder.

    Args:
        folder: of the report.
        workdir: whose name is its title.
        others: pages that others write, such as `model.gallery`.
    """
    names = [*others, *(name for name in _GATHER if name != "ablations" or ablations.paths(workdir))]
    return Site(folder, f"Web Memory: {workdir.rstrip('/').rpartition('/')[2]}", names)


def write(site: Site, inputs: Inputs) -> str:
    """Writes the pages and returns the path of the first."""
    return [site.write(page, gather(inputs)) for page, gather in _GATHER.items() if page in site.pages][0]
