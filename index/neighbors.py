"""Looks up the neighbours of all queries: `python -m index.neighbors --config=configs/demo.py [--runner=..]`.

Writes a list of the k nearest memory rows for every labelled image, and each row that is named once, with its
values. Flags that are not ours go to Beam. Killed at any time, the same command goes on with what is missing. After an
update of the index (`index.reindex`) only what it has changed is looked up; the lists before stay until then.
"""

import sys
from collections.abc import Sequence

from configs.base import Config
from pipelines import manifest, options, storage
from pipelines.progress import duration, summary
from pipelines.runner import Runner


def run(config: Config, runner: Runner) -> None:
    """Looks up what is missing, then completes the folder.

    Raises:
        UserError: if an input, the config or a flag is wrong.
    """
    from index.lists import layout, neighbor_job

    with runner.stage("neighbors", "queries", config.workdir) as stage:
        job = layout.claim(config)
        stage.worked = not job.is_complete()
        if stage.worked:
            before = neighbor_job.progress(job)[1]
            neighbor_job.run(job, runner)
            whole = layout.finish(job)
            now = whole["queries"] - before
            title = f"neighbors: {now:,} queries in {duration(stage.secs)}, {now / stage.secs:,.0f}/s"
        else:
            whole = storage.read_json(storage.join(job.folder, manifest.COMPLETE_FILE))
            title = "neighbors: already looked up"
        layout.remove_others(job)
        recall = job.open_index().facts["recall"]
        beyond = f", not measured at {job.k}" if job.k > recall["k"] else ""
        summary(
            title,
            {
                "queries": f"{whole['queries']:,} in {', '.join(job.queries)}",
                "k": job.k,
                "index recall": f"{recall['mean']:.4f} at {recall['k']}{beyond}",
                "mean top-1 score": f"{whole['mean_top_score']:.4f}",
                "memory rows": f"{whole['memory_rows']:,} named by some list",
                "left out": f"{whole['excluded']:,} rows that are the query's own image",
                "output": job.folder,
            },
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, beam=True)


if __name__ == "__main__":
    sys.exit(main())
