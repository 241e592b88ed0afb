"""Compares the trained heads: `web-memory evaluate --config=configs/demo.py [--markdown] [--published]`.

Prints accuracies over seeds, paired differences with their intervals, and how well attention filters. Writes them to a
file of these heads and seeds beside the runs, and as `results.json` to the workdir. It trains nothing. See
`model.report` for pictures and an HTML page.
"""

import sys
from collections.abc import Sequence

from configs.base import Config
from model.reports import result_tables, results
from pipelines import options
from pipelines.progress import say


def run(config: Config, markdown: bool, published: bool) -> None:
    """Prints the tables, with `published` also the figures of others, and writes the results.

    Raises:
        UserError: if a run is missing, or nothing is published for this protocol.
    """
    if published:
        from model.reports import published as rivals

        rivals.check(config)
    found, path = results.write(config.places, config.seed, config.train, config.finetune)
    grids = result_tables.grids(found)
    if published:
        grids.append(rivals.grid(config, found))
    for grid in grids:
        if markdown:
            print(grid.markdown())
        else:
            grid.show()
    for warning in found["warnings"]:
        say(f"warning: {warning}")
    if not markdown:
        say(f"wrote {path}")


def foresee(config: Config, markdown: bool, published: bool) -> dict[str, str]:
    """Says what would be compared; errors as those of `run`."""
    if published:
        from model.reports import published as rivals

        rivals.check(config)
    return results.foresee(config.places, config.seed, config.train, config.finetune)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    switches = {
        "markdown": "print the tables in Markdown",
        "published": "print the figures that others published for this protocol beside ours, with encoder and source",
    }
    return options.main(run, str(__doc__).splitlines()[0], argv, switches=switches, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
