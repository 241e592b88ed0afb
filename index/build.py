"""Builds the index over the memory's keys: `python -m index.build --config=configs/demo.py [--runner=..]`.

Cuts the memory into shards, builds each as a work item of a Beam job, tunes the search to the target recall and
reports the recall on other queries. Flags that are not ours go to Beam. Killed at any time, the same
command goes on with the shards that are missing.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from configs.base import Config
from pipelines import options
from pipelines.progress import duration, summary
from pipelines.runner import Runner


def run(config: Config, runner: Runner) -> None:
    """Builds the shards that are not done, then the manifest.

    Raises:
        UserError: if an input, the config or a flag is wrong.
    """
    from index.building import build_job, publication

    with runner.stage("index", "rows", config.workdir) as stage:
        job = build_job.claim(config)
        built = build_job.build_missing(job, runner)
        stage.worked = built > 0
        facts = publication.published(job) or publication.publish(job)
        title = f"index: {facts['rows']:,} rows in {duration(stage.secs)}" if built else "index: already built"
        summary(title, describe(facts, built, config.index_dir))


def describe(facts: Mapping[str, Any], built: int, folder: str) -> dict[str, str]:
    """Returns what the summary says of an index.

    Args:
        facts: its manifest.
        built: shards built now.
        folder: of the index.
    """
    recall, shards, search, rates = facts["recall"], facts["shards"], facts["search"], facts["rates"]
    verdict = "reached" if recall["mean"] >= recall["target"] else "NOT REACHED"
    tuned = f"tuned on {recall['tuning_queries']:,} others" if recall["tuning_queries"] else "nothing to tune"
    at = ", ".join(f"@{n} {mean:.4f}" for n, mean in search["recall"].items())
    leaves = sorted({shard["plan"]["leaves"] for shard in shards})
    visits = f", {search['visits']:.1f} visited by a query" if len(shards) > 1 else ""
    secs = {kind: sum(sum(shard[kind]) for shard in rates["secs"].values()) for kind in ("build", "tune", "exact")}
    return {
        f"recall@{recall['k']}": f"{recall['mean']:.4f}, target {recall['target']:g} {verdict}",
        "measured on": f"{recall['queries']:,} queries of {recall['of']}, {tuned}; recall{at}",
        "queries/s": f"{rates['queries_per_sec']:,.0f} on this machine, exact {rates['exact_queries_per_sec']:,.0f}",
        "shards": f"{len(shards)} ({facts['sharding']}), of which {len(shards) - built} were done before{visits}",
        "leaves": f"{_span(leaves)} a shard" if any(leaves) else "none, every key is scanned",
        "size": f"{sum(file['bytes'] for shard in shards for file in shard['files'].values()) / 1e6:,.1f} MB",
        "secs": ", ".join(f"{kind} {duration(value)}" for kind, value in secs.items()),
        "output": folder,
    }


def _span(numbers: Sequence[int]) -> str:
    return f"{numbers[0]:,}" if numbers[0] == numbers[-1] else f"{numbers[0]:,}-{numbers[-1]:,}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, beam=True)


if __name__ == "__main__":
    sys.exit(main())
