"""Builds the index over the memory's keys: `web-memory build --config=configs/demo.py [--runner=..]`.

Cuts the memory into shards, builds each as a work item of a Beam job, tunes the search to the target recall, and
reports the recall on other queries. Unknown flags go to Beam. If the command is interrupted, run it again: it resumes
and builds only the missing shards.
"""

import sys
from collections.abc import Sequence

from configs.base import Config
from pipelines import options
from pipelines.progress import counted
from pipelines.runner import Runner


def run(config: Config, runner: Runner) -> None:
    """Builds the index.

    Raises:
        UserError: if an input, the config or a flag is wrong.
    """
    from index.building import full_build

    full_build.run(config.places, config.index, config.seed, runner)


def foresee(config: Config) -> dict[str, str]:
    """Says what would be built; errors as those of `run`."""
    from index.building import claim
    from index.measure import estimate
    from index.store import index_manifest, shard_store
    from pipelines import manifest, storage
    from pipelines.manifest import Embeddings

    places, memory = config.places, Embeddings(config.places.memory)
    identity = claim.identity_of(memory, config.index, config.seed)
    claim.check(config.index, memory)
    manifest.check_claim(places.index, index_manifest.STAGE, identity)
    if manifest.indexed_memory(places.index) == memory.snapshot:
        return {
            "done": f"the index of {counted(memory.rows, 'row')} is published; nothing to build",
            "output": places.index,
        }
    shards = estimate.choose_shards(config.index, memory.rows, memory.encoder("key").dim)
    markers = storage.join(places.index, shard_store.build_path(1), manifest.MARKERS)
    is_published = index_manifest.exists(places.index)
    done = 0 if is_published else len(storage.files(markers, ".json"))
    would = "refuse: the memory has changed; run web-memory reindex" if is_published else f"build {shards - done:,}"
    rows = f"{counted(memory.rows, 'row')}, {memory.encoder('key').dim} dimensions"
    return {"memory": rows, "done": f"{done:,} of {counted(shards, 'shard')}", "would": would, "output": places.index}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, beam=True, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
