"""Embeds the memory and the labelled splits: `web-memory embed --config=configs/demo.py [--runner=..]`.

Reads image-text shards, lists or vectors (docs/sources.md) and writes a Parquet shard of keys and values for each input
shard. Then it selects the memory rows that may be used, leaving out copies of test images, and embeds the class names.
Flags that are not ours go to Beam. If the command is interrupted, run it again: it embeds only the missing shards.
"""

import sys
from collections.abc import Sequence

from configs.base import Config
from pipelines import fields, options, progress
from pipelines.runner import Runner

_SWITCHES = {"retry_rejects": "read rejected rows again that may be readable now, such as after a network failure"}


def run(config: Config, runner: Runner, retry_rejects: bool = False) -> None:
    """Embeds every source of the config whose shards are not done yet.

    Raises:
        UserError: if a source or flag is wrong, or too many rows are rejected.
    """
    from pipelines.embedding.request import Request
    from pipelines.embedding.stage import embed

    for problem in fields.line_problems(config):
        progress.say(f"note: {problem}")
    embed(Request.of(config), runner, retry_rejects)


def foresee(config: Config, retry_rejects: bool = False) -> dict[str, str]:
    """Says what would be embedded; errors as those of `run`."""
    from pipelines.embedding import stage
    from pipelines.embedding.request import Request

    notes = fields.line_problems(config)
    again = {"retry_rejects": "shards with rows that may be readable now would be embedded again"}
    found = stage.foresee(Request.of(config)) | (again if retry_rejects else {})
    return found | ({"note": "; ".join(notes)} if notes else {})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, beam=True, switches=_SWITCHES, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
