"""Brings memory and index up to their sources: `python -m index.reindex --config=.. [--remove=FILE] [--compact]`.

Embeds what is new, leaves out what is removed, and publishes the next version of the index beside the one in use.
Other encoders make a generation of their own, which takes the place of the old one when it is whole. Flags that are
not ours go to Beam. Killed at any time, the old version serves and the same command goes on.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from configs.base import Config
from pipelines import embed, generation, options, storage
from pipelines.errors import UserError
from pipelines.progress import summary
from pipelines.runner import Runner

if TYPE_CHECKING:
    from pipelines.upkeep.proof import Proof

_SWITCHES = {
    "compact": "delete removed rows from every file, build the index anew, and prove that they are gone",
    "no_compact": "do not build anew where recall has dropped below the target, only say so",
}
_VALUES = {"remove": ("", "file of ids, URLs or SHA-256 digests of images, one a line, that are removed for good")}


def run(config: Config, runner: Runner, remove: str = "", compact: bool = False, no_compact: bool = False) -> None:
    """Does what has changed since the index was published.

    Raises:
        UserError: if an input, the config or a flag is wrong, or a removed row is found after a compaction.
    """
    from index import build
    from index.store import index_manifest
    from pipelines.embedding import embed_plan
    from pipelines.upkeep import removal

    if compact and no_compact:
        raise UserError("--compact, --no_compact: exclude each other; give one of them")
    in_use, listed = config.generation, removal.add(config, remove) if remove else 0
    encoders = embed_plan.resolve_encoders(config)
    config = generation.of_encoders(config, {name: dataclasses.asdict(spec.info) for name, spec in encoders.items()})
    embed.run(config, runner)
    rows: dict[str, str] = {"removal list": f"{listed:,} new entries"} if remove else {}
    must_compact = compact
    if index_manifest.exists(config.index_dir):
        before = index_manifest.read(config.index_dir)
        facts, changes = _update(config, runner, before, compact)
        fell = facts["recall"]["mean"] < facts["recall"]["target"] <= before["recall"]["mean"]
        must_compact = compact or (fell and not no_compact)
        rows |= changes
        if fell:
            rows["target"] = "recall dropped below it, " + (
                "the index is built anew" if must_compact else "run --compact"
            )
    else:
        build.run(config, runner)
    if config.generation != in_use:
        generation.switch(config)
        rows["generation"] = f"{config.generation or 'the first'} is in use now; --compact deletes the old one"
    is_idle = list(rows) == ["version"]
    if rows:
        summary("reindex: nothing changed" if is_idle and not compact else "reindex", rows)
    if must_compact:
        _compact(config, runner)


def _update(
    config: Config, runner: Runner, before: Mapping[str, Any], compact: bool
) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Publishes the next version; returns its manifest and what the summary says of it."""
    from index.building import update

    try:
        with runner.stage("index", "rows", config.workdir) as stage:
            stage.worked = False
            facts, difference = update.run(config, runner)
    except UserError as error:
        # A damaged index is mended by a full build.
        if not compact:
            raise
        return before, {"update": f"could not be made: {error}"}
    return facts, _changes(before, facts, difference.added, difference.removed)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], added: int, removed: int) -> dict[str, str]:
    """Returns what the summary says of an update."""
    if after["fingerprint"] == before["fingerprint"]:
        return {"version": f"{after['version']}, of the memory as it is"}
    then, now = before["search"], after["search"]
    deltas = sum(shard["is_delta"] for shard in after["shards"])
    return {
        "rows": f"{added:,} added, {removed:,} removed, {after['rows']:,} now",
        f"recall@{after['recall']['k']}": f"{before['recall']['mean']:.4f} before, {after['recall']['mean']:.4f} now, "
        f"target {after['recall']['target']:g}",
        "cost of a query": f"{now['cost'] / max(then['cost'], 1e-9):.2f} times that before",
        "version": f"{after['version']}: {deltas} deltas, {after['tombstones']:,} tombstones",
    }


def _compact(config: Config, runner: Runner) -> None:
    """Deletes removed rows, folds deltas and tombstones in, deletes what nobody needs, and proves it."""
    from index.building import rebuild
    from index.store import versions
    from pipelines.upkeep import compaction, proof, removal

    deleted = compaction.delete_removed(config.memory_dir)
    if deleted:
        embed.run(config, runner)
    with runner.stage("index", "rows", config.workdir) as stage:
        facts, stage.worked = rebuild.run(config, runner)
        held = [storage.join(config.index_dir, "builds", name) for name in versions.purge(config.index_dir)]
        held += _purge_generations(config)
        if held:
            raise UserError(f"{held[0]}: is still read by another process; end that and run the same command again")
        folders = [config.memory_dir, config.index_dir]
        shown = proof.prove(config.memory_dir, folders, removal.read(config))
        compaction.forget(config.memory_dir)
    summary(
        "reindex: compacted" if stage.worked or deleted else "reindex: already compact", _proven(facts, deleted, shown)
    )


def _purge_generations(config: Config) -> list[str]:
    """Deletes all generations but that of the config; returns the folders of those that are read."""
    from index.store import index_manifest, versions

    held: list[str] = []
    for name, paths in generation.others(config).items():
        index = dataclasses.replace(config, generation=name).index_dir
        if index_manifest.exists(index) and versions.is_held(index):
            held.append(index)
            continue
        for path in paths:
            storage.remove(path)
    return held


def _proven(facts: Mapping[str, Any], deleted: int, shown: "Proof") -> dict[str, str]:
    """Returns what the summary says of a compaction."""
    recall = facts["recall"]
    return {
        "deleted": f"{deleted:,} rows of the memory",
        "version": f"{facts['version']}: {facts['rows']:,} rows in {len(facts['shards'])} shards",
        f"recall@{recall['k']}": f"{recall['mean']:.4f}, target {recall['target']:g}",
        "looked through": f"{shown.files:,} files, {shown.size_bytes / 1e6:,.1f} MB",
        "found": f"none of {shown.rows:,} deleted rows, of their {shown.vectors:,} vectors in tables, of "
        f"{shown.sampled:,} of these in bytes",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, beam=True, switches=_SWITCHES, values=_VALUES)


if __name__ == "__main__":
    sys.exit(main())
