"""Builds a whole index, from the memory to the manifest, and prints its summary."""

from collections.abc import Mapping, Sequence
from typing import Any

from configs.base import Index as IndexConfig
from configs.base import Places
from index.building import build_job, publication
from index.building.claim import claim_build
from pipelines.progress import counted, duration, summary
from pipelines.runner import Runner


def run(places: Places, index: IndexConfig, seed: int, runner: Runner) -> None:
    """Builds the missing shards, then publishes the index, unless it is published already.

    Args:
        places: of memory, queries and index.
        index: config of the index.
        seed: for drawing queries.
        runner: of the command.

    Raises:
        UserError: if an input or the config is wrong.
    """
    with runner.stage("index", "rows", places.workdir) as stage:
        job = claim_build(places, index, seed)
        built = build_job.build_missing(job, runner)
        stage.worked = built > 0
        facts = publication.published(job) or publication.publish(job)
        title = f"index: {counted(facts['rows'], 'row')} in {duration(stage.secs)}" if built else "index: already built"
        summary(title, describe(facts, built, places.index))


def describe(facts: Mapping[str, Any], built: int, folder: str) -> dict[str, str]:
    """Returns the summary's rows for an index.

    Args:
        facts: its manifest.
        built: number of shards built now.
        folder: of the index.
    """
    recall, shards, search, rates = facts["recall"], facts["shards"], facts["search"], facts["rates"]
    verdict = "reached" if recall["mean"] >= recall["target"] else "NOT REACHED"
    tuned = f"tuned on {counted(recall['tuning_queries'], 'other')}" if recall["tuning_queries"] else "nothing to tune"
    at = ", ".join(f"@{n} {mean:.4f}" for n, mean in search["recall"].items())
    leaves = sorted({shard["plan"]["leaves"] for shard in shards})
    visits = f", {search['visits']:.1f} visited by a query" if len(shards) > 1 else ""
    secs = {kind: sum(sum(shard[kind]) for shard in rates["secs"].values()) for kind in ("build", "tune", "exact")}
    return {
        f"recall@{recall['k']}": f"{recall['mean']:.4f}, target {recall['target']:g} {verdict}",
        "measured on": f"{counted(recall['queries'], 'query')} of {recall['of']}, {tuned}; recall{at}",
        "queries/s": f"{rates['queries_per_sec']:,.0f} on this machine, exact {rates['exact_queries_per_sec']:,.0f}",
        "shards": f"{len(shards)} ({facts['sharding']}), {len(shards) - built} of them finished before{visits}",
        "leaves": f"{_span(leaves)} a shard" if any(leaves) else "none, every key is scanned",
        "size": f"{sum(file['bytes'] for shard in shards for file in shard['files'].values()) / 1e6:,.1f} MB",
        "secs": ", ".join(f"{kind} {duration(value)}" for kind, value in secs.items()),
        "output": folder,
    }


def _span(numbers: Sequence[int]) -> str:
    return f"{numbers[0]:,}" if numbers[0] == numbers[-1] else f"{numbers[0]:,}-{numbers[-1]:,}"
