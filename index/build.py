"""Builds the index over the memory's keys: `python -m index.build --config=configs/demo.py [--runner=..]`.

Cuts the memory into shards of equal size, builds each as a work item of a Beam job, tunes the search to the target
recall and reports the recall on other queries. Flags that are not ours go to Beam. Killed at any time, the same
command goes on with the shards that are missing.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from configs.base import Config
from pipelines import options
from pipelines.progress import Stage, duration, summary


def run(config: Config, beam_args: Sequence[str]) -> None:
    """Builds the shards that are not done, then the manifest.

    Raises:
        UserError: if an input, the config or a flag is wrong.
    """
    from index import build_job
    from pipelines import runner

    runner.beam_options(beam_args)
    with Stage("index", "rows", config.workdir) as stage:
        job = build_job.claim(config)
        built = build_job.build_missing(job, beam_args, stage)
        stage.worked = built > 0
        facts, secs = build_job.finish(job)
        title = f"index: {facts['rows']:,} rows in {duration(stage.secs)}" if built else "index: already built"
        summary(title, describe(facts, secs, built, job.folder))


def describe(facts: Mapping[str, Any], secs: Mapping[str, float], built: int, folder: str) -> dict[str, str]:
    """Returns what the summary says of an index.

    Args:
        facts: of the manifest.
        secs: that all shards together took of `build`, `tune`, `search` and `exact`.
        built: shards built now.
        folder: of the index.
    """
    recall, shards = facts["recall"], facts["shards"]
    verdict = "reached" if recall["mean"] >= recall["target"] else "NOT REACHED"
    tuned = f"tuned on {recall['tuning_queries']:,} others" if recall["tuning_queries"] else "nothing to tune"
    leaves = sorted({shard["plan"]["leaves"] for shard in shards})
    searched = sorted({shard["parameters"]["leaves_to_search"] for shard in shards})
    reordered = sorted({shard["parameters"]["pre_reorder_num_neighbors"] for shard in shards})
    kinds = {facts["searcher"]: "search", "exact": "exact"}
    rates = [f"{name} {recall['queries'] / max(secs[kind], 1e-9):,.0f}" for name, kind in kinds.items()]
    return {
        f"recall@{recall['k']}": f"{recall['mean']:.4f}, target {recall['target']:g} {verdict}",
        "measured on": f"{recall['queries']:,} queries of {recall['of']}, {tuned}",
        "queries/s": f"{', '.join(rates)}, through all shards",
        "shards": f"{len(shards)}, of which {len(shards) - built} were done before",
        "leaves": f"{_span(searched)} of {_span(leaves)} searched, {_span(reordered)} reordered"
        if any(leaves)
        else "none, every key is scanned",
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
