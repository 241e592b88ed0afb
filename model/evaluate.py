"""Compares the trained heads: `web-memory evaluate --config=configs/demo.py [--markdown]`.

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


def run(config: Config, markdown: bool) -> None:
    """Prints the tables and writes the results.

    Raises:
        UserError: if a run is missing.
    """
    found, path = results.write(config.places, config.seed, config.train, config.finetune)
    for grid in result_tables.grids(found):
        if markdown:
            print(grid.markdown())
        else:
            grid.show()
    for warning in found["warnings"]:
        say(f"warning: {warning}")
    if not markdown:
        say(f"wrote {path}")


def foresee(config: Config, markdown: bool) -> dict[str, str]:
    """Says what would be compared; errors as those of `run`."""
    return results.foresee(config.places, config.seed, config.train, config.finetune)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    switches = {"markdown": "print the tables in Markdown"}
    return options.main(run, str(__doc__).splitlines()[0], argv, switches=switches, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
