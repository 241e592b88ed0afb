"""Updates memory and index to their sources: `web-memory reindex --config=.. [--remove=FILE] [--compact]`.

Embeds new images, leaves out removed ones, and publishes the next version of the index beside the one in use. Other
encoders get a generation of their own, which replaces the old one when it is complete. Unknown flags go to Beam. If the
command is interrupted, the old version stays in use; run the command again: it resumes.
"""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.base import Config
from configs.base import Index as IndexConfig
from pipelines import generation, options, storage
from pipelines.errors import UserError
from pipelines.progress import counted, summary
from pipelines.runner import Runner

if TYPE_CHECKING:
    from configs.base import Places
    from pipelines.embedding.request import Request
    from pipelines.upkeep.proof import Proof
    from pipelines.upkeep.removal import Outcome

# A search of a version that was just replaced takes less.
_PATIENCE_SECS = 10.0
_SWITCHES = {
    "compact": "delete removed rows from every file, rebuild the index, and prove that they are gone",
    "no_compact": "if recall has dropped below the target, only report it instead of rebuilding",
}
_VALUES = {
    "remove": ("", "file of ids, URLs or SHA-256 digests of images, one a line, that are removed for good"),
    "forget_removed": ("", "such a file of images that may be embedded again; 'all' takes every entry off the list"),
}
# What may show removed images and is not searched, and what to do about it.
_NOT_SEARCHED = {
    "runs/tables": "delete it; web-memory train writes it again",
    "report": "web-memory report writes it again",
    "gallery.png": "web-memory report writes it again",
    "tensorboard": "web-memory report writes it again",
    "ablations": "delete what was made before",
}


@dataclasses.dataclass(frozen=True)
class _Line:
    """What is updated, from the sources to the index."""

    request: "Request"
    index: IndexConfig
    runner: Runner

    @property
    def places(self) -> "Places":
        return self.request.places


def run(
    config: Config,
    runner: Runner,
    remove: str = "",
    compact: bool = False,
    no_compact: bool = False,
    forget_removed: str = "",
) -> None:
    """Updates what has changed since the index was published.

    Raises:
        UserError: if an input, the config or a flag is wrong, or a removed row is found afterwards.
    """
    from pipelines.embedding.request import Request
    from pipelines.embedding.stage import embed
    from pipelines.upkeep import removal

    _check_flags(compact, no_compact)
    in_use = Request.of(config)
    request = _in_generation(in_use)
    if request.places.generation:
        generation.record(in_use.places)
    rows = _forget(in_use.places, forget_removed) if forget_removed else {}
    # The rows are named by what is in use, also where another generation is about to replace it.
    asked = removal.add(in_use.places, remove) if remove else None
    line = _Line(request, config.index, runner)
    embed(request, runner)
    if asked and asked.unmet:
        later = removal.add_embedded(request.places, remove, asked)
        if later.changed > asked.changed:
            embed(request, runner)
        asked = later
    changes, has_dropped = _index(line, compact)
    if asked:
        rows |= _removed(request.places, asked)
    rows |= changes
    must_compact = compact or (has_dropped and not no_compact)
    if has_dropped:
        rows["target"] = f"recall dropped below it; {'the index is rebuilt' if must_compact else 'run --compact'}"
    rows |= _switch(in_use.places.generation, request.places)
    if rows:
        is_unchanged = list(rows) == ["version"] and not compact
        summary("reindex: nothing changed" if is_unchanged else "reindex", rows)
    if must_compact:
        _compact(line)


def foresee(config: Config, remove: str, compact: bool, no_compact: bool, forget_removed: str) -> dict[str, str]:
    """Says what would be embedded, removed and indexed; errors as those of `run` before anything is changed."""
    from pipelines import manifest
    from pipelines.embedding import stage
    from pipelines.embedding.request import Request

    _check_flags(compact, no_compact)
    request = _in_generation(Request.of(config))
    found, index = stage.foresee(request), request.places.index
    asked = {"remove": remove, "forget_removed": forget_removed}
    found |= {name: f"the entries of {uri}" for name, uri in asked.items() if uri}
    would = "update the index, if the memory has changed" if manifest.indexed_memory(index) else "build the index"
    return found | {"would": would + (", then compact" if compact else "")}


def _check_flags(compact: bool, no_compact: bool) -> None:
    if compact and no_compact:
        raise UserError("--compact, --no_compact: exclude each other; give one of them")


def _forget(places: "Places", uri: str) -> dict[str, str]:
    """Takes entries off the list of removed images; returns summary rows."""
    from pipelines.upkeep import removal

    outcome = removal.forget(places, uri)
    return {"allowed again": f"{outcome.changed:,} entries taken off the list of removed images"}


def _removed(places: "Places", asked: "Outcome") -> dict[str, str]:
    """Checks that what was asked to be removed is on the list and that the published index does not find it.

    Returns:
        Summary rows.

    Raises:
        UserError: if it is not, or it does.
    """
    from index.store.indexed_memory import live_rows
    from index.store.reader import Index
    from pipelines.upkeep import removal

    listed, index = removal.read(places.removed), Index.open(places.index)
    if missing := len(np.setdiff1d(asked.digests, listed)):
        raise UserError(f"{places.removed}: lacks {missing:,} entries that were just added; run the same command again")
    ids = removal.dropped_ids(places)
    for number in range(len(index.shards)):
        live, images = live_rows(index, number)
        found = live[np.isin(images, listed) | np.isin(live, ids)].tolist()
        if found:
            raise UserError(
                f"{index.folder}: still finds row {found[0]}, which is removed; run web-memory reindex again"
            )
    rows = {"removal list": f"{asked.changed:,} new entries"}
    return rows | ({"not found": asked.shown_unmet} if asked.unmet else {})


def _switch(in_use: str, places: "Places") -> dict[str, str]:
    """Puts the generation of these places into use, if it is another; returns summary rows."""
    if generation.is_recorded(places) and places.generation == in_use:
        return {}
    generation.switch(places)
    return {"generation": f"{places.generation or 'the first'} is now in use; --compact deletes the old one"}


def _in_generation(request: "Request") -> "Request":
    """Returns the request in the generation of its encoders."""
    from pipelines.embedding import columns

    infos = {name: dataclasses.asdict(spec.info) for name, spec in columns.resolve(request).items()}
    name = generation.of_encoders(request.places, infos)
    return dataclasses.replace(request, places=request.places.in_generation(name))


def _index(line: _Line, compact: bool) -> tuple[dict[str, str], bool]:
    """Updates the index, or builds the first; returns summary rows, and whether recall dropped below the target."""
    from index.building import full_build
    from index.store import index_manifest

    storage.remove_temporaries(line.places.index, deep=False)
    if not index_manifest.exists(line.places.index):
        full_build.run(line.places, line.index, line.request.seed, line.runner)
        return {}, False
    before = index_manifest.read(line.places.index)
    after, rows = _update(line, before, compact)
    target = after["recall"]["target"]
    return rows, after["recall"]["mean"] < target <= before["recall"]["mean"]


def _update(line: _Line, before: Mapping[str, Any], compact: bool) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Publishes the next version; returns its manifest and summary rows."""
    from index.building import update

    try:
        with line.runner.stage("index", "rows", line.places.workdir) as stage:
            stage.worked = False
            facts, difference = update.run(line.places, line.index, line.request.seed, line.runner)
    except UserError as error:
        # The compaction that follows repairs a damaged index.
        if not compact:
            raise
        return before, {"update": f"failed: {error}"}
    return facts, _changes(before, facts, difference.added, difference.removed)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], added: int, removed: int) -> dict[str, str]:
    """Returns the summary's rows for an update."""
    if after["fingerprint"] == before["fingerprint"]:
        return {"version": f"{after['version']}, up to date with the memory"}
    then, now = before["search"], after["search"]
    deltas = sum(shard["is_delta"] for shard in after["shards"])
    return {
        "rows": f"{added:,} added, {removed:,} removed, {after['rows']:,} now",
        f"recall@{after['recall']['k']}": f"{before['recall']['mean']:.4f} before, {after['recall']['mean']:.4f} now, "
        f"target {after['recall']['target']:g}",
        "cost of a query": f"{now['cost'] / max(then['cost'], 1e-9):.2f} times that before",
        "version": f"{after['version']}: {counted(deltas, 'delta')}, {counted(after['tombstones'], 'tombstone')}",
    }


def _compact(line: _Line) -> None:
    """Deletes removed rows, folds in deltas and tombstones, deletes unused files, and proves that the rows are gone."""
    from index.building import rebuild
    from index.store import versions
    from pipelines.manifest import Embeddings
    from pipelines.upkeep import compaction, gone, proof, removal

    places = line.places
    source, deleted = compaction.prepare(places.memory)
    with line.runner.stage("index", "rows", places.workdir) as stage:
        facts, stage.worked = rebuild.run(places, line.index, line.request.seed, line.runner, source)
        compaction.finish(places.memory, facts["memory"]["snapshot"])
        digests = removal.read(places.removed)
        left = gone.delete(places.memory, digests)
        if held := _purge_patiently(places):
            raise UserError(f"{held[0]}: is still read by another process; end it and run the same command again")
        memory = Embeddings(places.memory)
        known = {path: sha256 for shard in memory.shard_rows for path, sha256 in memory.files(shard).items()}
        for path, sha256 in known.items():
            storage.check_sha256(path, sha256, "remove it and run web-memory embed again")
        known |= {storage.join(places.index, path): sha256 for path, sha256 in versions.files_of(facts).items()}
        shown = proof.prove(places.memory, [places.memory, places.index], digests, known, places.neighbors)
        compaction.forget(places.memory)
    title = "reindex: compacted" if stage.worked or deleted or left.shards else "reindex: already compact"
    said = "; ".join(filter(None, [f"{deleted:,} rows of the memory", str(left)]))
    summary(title, {"deleted": said} | _proven(facts, shown) | _beside(places, shown))


def _beside(places: "Places", shown: "Proof") -> dict[str, str]:
    """Returns the summary's rows for what may still show removed images, and is not of the memory or the index."""
    rows = {}
    if shown.later:
        rows["neighbours"] = f"{len(shown.later):,} files still have removed rows; run web-memory neighbors"
    named = {name: action for name, action in _NOT_SEARCHED.items() if storage.exists(f"{places.workdir}/{name}")}
    if named:
        rows["not searched"] = "; ".join(f"{name} ({action})" for name, action in named.items())
    return rows


def _purge_patiently(places: "Places") -> list[str]:
    """Deletes what is unused once searches that began before the new version was published have ended; as `_purge`."""
    deadline = time.monotonic() + _PATIENCE_SECS
    while (held := _purge(places)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return held


def _purge(places: "Places") -> list[str]:
    """Deletes unused builds of the index and all other generations; returns those that are still being read."""
    from index.store import index_manifest, shard_store, versions

    held = [storage.join(places.index, shard_store.BUILDS, name) for name in versions.purge(places.index)]
    for name, paths in generation.others(places).items():
        index = places.in_generation(name).index
        if index_manifest.exists(index) and versions.is_held(index):
            held.append(index)
            continue
        for path in paths:
            storage.remove(path)
    return held


def _proven(facts: Mapping[str, Any], shown: "Proof") -> dict[str, str]:
    """Returns the summary's rows for a compaction, of what there is now."""
    recall = facts["recall"]
    return {
        "version": f"{facts['version']}: {counted(facts['rows'], 'row')} in {counted(len(facts['shards']), 'shard')}",
        f"recall@{recall['k']}": f"{recall['mean']:.4f}, target {recall['target']:g}",
        "searched": f"{shown.files:,} files, {shown.size_bytes / 1e6:,.1f} MB",
        "found": f"none of {shown.rows:,} deleted rows, nor of their {shown.vectors:,} vectors in tables, nor of a "
        f"sample of {shown.sampled:,} vectors in any bytes",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(
        run,
        str(__doc__).splitlines()[0],
        argv,
        beam=True,
        switches=_SWITCHES,
        values=_VALUES,
        chooses_generation=True,
        foresee=foresee,
    )


if __name__ == "__main__":
    sys.exit(main())
