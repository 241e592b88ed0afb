"""Embeds the memory and the labelled splits: `python -m pipelines.embed --config=configs/demo.py [--runner=..]`.

Reads tars or list files, writes one Parquet shard of keys and values for each input shard. Flags that are not
ours go to Beam. Killed at any time, the same command goes on with the shards that are missing.
"""

import os
import sys
from collections.abc import Sequence

from configs.base import Config
from pipelines import manifest, options
from pipelines.progress import Stage, duration, summary


def run(config: Config, beam_args: Sequence[str]) -> None:
    """Embeds every source of the config whose shards are not done yet.

    Raises:
        UserError: if a source or flag is wrong, or too many rows are rejected.
    """
    from pipelines import embed_plan

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    embed_plan.check(config)
    if beam_args:
        from pipelines import runner

        runner.beam_options(beam_args)
    with Stage("embed", "images", config.workdir) as stage:
        encoders = embed_plan.resolve_encoders(config)
        folders = embed_plan.open_folders(config, encoders)
        before = sum(len(folder.shards) - len(folder.pending) for folder in folders)
        stage.worked = any(folder.pending for folder in folders)
        if stage.worked:
            from pipelines import embed_job

            embed_job.run(folders, encoders, config.embed, beam_args, stage)
        for folder in folders:
            embed_plan.check_rejects(folder, config.embed.max_rejects_share)
            manifest.complete(folder.path, [folder.done[s.name] for s in folder.shards], folder.config_hash)
        rows = {f.name: sum(f.done[s.name].rows_out for s in f.shards) for f in folders}
        rejected = sum(f.done[s.name].rows_rejected for f in folders for s in f.shards)
        summary(
            f"embed: {sum(rows.values()):,} rows in {duration(stage.secs)}" if stage.worked else "embed: already done",
            {
                **{name: f"{count:,} rows" for name, count in rows.items()},
                "rejected": f"{rejected:,} rows, listed in _rejects/",
                "shards": f"{sum(len(f.shards) for f in folders)}, of which {before} were done before",
                "encoders": ", ".join(f"{role} {spec.handle} ({spec.info.dim}-d)" for role, spec in encoders.items()),
                "output": config.workdir,
            },
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, beam=True)


if __name__ == "__main__":
    sys.exit(main())
