"""Folds deltas and tombstones in: a full build beside the index in use, which it then replaces.

`versions` deletes the builds that no manifest names afterwards.
"""

from typing import Any

from configs.base import Index as IndexConfig
from configs.base import Places
from index.building import build_job, publication
from index.building.claim import claim_build
from index.store import index_manifest
from pipelines.manifest import Embeddings
from pipelines.runner import Runner


def run(places: Places, index: IndexConfig, seed: int, runner: Runner, memory: str = "") -> tuple[dict[str, Any], bool]:
    """Rebuilds an index, unless it is of the current memory and has neither deltas nor tombstones.

    Args:
        places: of memory, queries and index.
        index: config of the index.
        seed: for drawing queries.
        runner: of the command.
        memory: folder of the memory, if it is another than that of the places.

    Returns:
        The manifest that is now published, and whether anything was built.

    Raises:
        UserError: as `claim_build`, or as a worker raised it.
    """
    facts = index_manifest.read(places.index)
    if (
        facts["version"] == facts["base"]
        and facts["memory"]["snapshot"] == Embeddings(memory or places.memory).snapshot
    ):
        return facts, False
    job = claim_build(places, index, seed, facts["version"] + 1, memory)
    build_job.build_missing(job, runner)
    return publication.publish(job), True
