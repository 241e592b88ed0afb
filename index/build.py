"""Builds the index over the memory's keys: `web-memory build --config=configs/demo.py [--runner=..]`.

Cuts the memory into shards, builds each as a work item of a Beam job, tunes the search to the target recall, and
reports the recall on other queries. Unknown flags go to Beam. If the command is interrupted, run it again: it resumes
and builds only the missing shards.
"""

import sys
from collections.abc import Sequence

from configs.base import Config
from pipelines import options
from pipelines.runner import Runner


def run(config: Config, runner: Runner) -> None:
    """Builds the index.

    Raises:
        UserError: if an input, the config or a flag is wrong.
    """
    from index.building import full_build

    full_build.run(config.places, config.index, config.seed, runner)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, beam=True)


if __name__ == "__main__":
    sys.exit(main())
