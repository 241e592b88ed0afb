"""Looks up the neighbours of all queries: `web-memory neighbors --config=configs/demo.py [--runner=..]`.

Writes a list of the k nearest memory rows for every labelled image, and each row that some list names once, with its
values. Unknown flags go to Beam. If the command is interrupted, run it again: it resumes. After an update of the index
(`index.reindex`) it looks up only what has changed; the old lists stay until the new ones are complete.
"""

import sys
from collections.abc import Sequence

from configs.base import Config
from pipelines import manifest, options
from pipelines.progress import counted, duration, summary
from pipelines.runner import Runner


def run(config: Config, runner: Runner) -> None:
    """Looks up the missing lists, then completes the folder.

    Raises:
        UserError: if an input, the config or a flag is wrong.
    """
    from index.lists import layout, neighbor_job
    from index.lists.claim import claim_lists

    named = {split for split, source in config.queries.items() if source.path}
    with runner.stage("neighbors", "queries", config.places.workdir) as stage:
        job = claim_lists(config.places, config.neighbors, named)
        stage.worked = not job.is_complete()
        if stage.worked:
            before = neighbor_job.progress(job)[1]
            neighbor_job.run(job, runner)
            whole = layout.finish(job)
            now = whole["queries"] - before
            title = f"neighbors: {counted(now, 'query')} in {duration(stage.secs)}, {now / stage.secs:,.0f}/s"
        else:
            _, whole = manifest.read_lists(job.folder)
            title = "neighbors: already looked up"
        layout.remove_others(job)
        facts = job.open_index().facts
        recall, indexed = facts["recall"], facts["rows"]
        beyond = f", not measured at {job.k}" if job.k > recall["k"] else ""
        filled = f", of which {indexed:,} are filled: the memory has no more rows" if indexed < job.k else ""
        if by_name := job.by_name():
            filled += f", by {job.by}: the captions of {counted(by_name.count, 'row')} name a class"
        rows = {
            "queries": f"{whole['queries']:,} in {', '.join(job.queries)}",
            "k": f"{job.k}{filled}",
            "index recall": f"{recall['mean']:.4f} at {recall['k']}{beyond}",
            "mean top-1 score": f"{whole['mean_top_score']:.4f}",
            "memory rows": f"{whole['memory_rows']:,} named by some list",
            "left out": f"{counted(whole['excluded'], 'row')} of the query's own image",
            "output": job.folder,
        }
        summary(title, rows)


def foresee(config: Config) -> dict[str, str]:
    """Says what would be looked up; errors as those of `run`."""
    from index.lists import claim

    named = {split for split, source in config.queries.items() if source.path}
    return claim.foresee(config.places, config.neighbors, named)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, beam=True, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
