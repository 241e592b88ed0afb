"""Folds deltas and tombstones in: a full build beside the index in use, which it replaces.

What is no longer named then is left to `versions`.
"""

from typing import Any

from configs.base import Config
from index.building import build_job, publication
from index.store import index_manifest
from pipelines.manifest import Embeddings
from pipelines.runner import Runner


def run(config: Config, runner: Runner) -> tuple[dict[str, Any], bool]:
    """Builds an index anew, unless it is of its memory as it is now, without deltas and tombstones.

    Args:
        config: of the whole line.
        runner: of the command.

    Returns:
        The manifest that is published now, and whether something was built.

    Raises:
        UserError: as `build_job.claim`, or as a worker raised it.
    """
    facts = index_manifest.read(config.index_dir)
    if facts["version"] == facts["base"] and facts["memory"]["snapshot"] == Embeddings(config.memory_dir).snapshot:
        return facts, False
    job = build_job.claim(config, facts["version"] + 1)
    build_job.build_missing(job, runner)
    return publication.publish(job), True
