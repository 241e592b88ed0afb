"""Embeds the memory and the labelled splits: `python -m pipelines.embed --config=configs/demo.py [--runner=..]`.

Reads image-text shards, lists or vectors (docs/sources.md) and writes one Parquet shard of keys and values for each
input shard; then lists the rows of the memory that are not to be used, such as copies of test images, and embeds the
class names. Flags that are not ours go to Beam. Killed at any time, the same command goes on with the shards that are
missing.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from configs.base import Config
from pipelines import options
from pipelines.errors import UserError
from pipelines.progress import duration, summary
from pipelines.runner import Runner

if TYPE_CHECKING:
    from pipelines.filtering.selection import Selection

_SWITCHES = {"retry_rejects": "read again what was rejected and may be readable now, such as after a network failure"}


def run(config: Config, runner: Runner, retry_rejects: bool = False) -> None:
    """Embeds every source of the config whose shards are not done yet.

    Raises:
        UserError: if a source or flag is wrong, or too many rows are rejected.
    """
    from pipelines.embedding import class_names, completion, embed_plan

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not config.memory.path:
        raise UserError("--config.memory.path: is empty; name the images of the memory")
    filters = embed_plan.resolve_filters(config)
    with runner.stage("embed", "images", config.workdir) as stage:
        names = class_names.read(config)
        encoders = embed_plan.resolve_encoders(config)
        folders = embed_plan.open_folders(config, encoders, retry_rejects)
        before = sum(len(folder.shards) - len(folder.pending) for folder in folders)
        stage.worked = any(folder.pending for folder in folders)
        if stage.worked:
            from pipelines.embedding import embed_job

            embed_job.run(folders, encoders, config.embed, filters, runner)
        for folder in folders:
            embed_plan.check_rejects(folder, config.embed.max_rejects_share)
        chosen = completion.complete(folders, filters, config, runner)
        classes = class_names.run(names, config, encoders)
        rows = {folder.name: sum(marker.rows_out for marker in folder.markers) for folder in folders}
        markers = [marker for folder in folders for marker in folder.markers]
        filtered = sum((Counter(marker.filtered) for marker in markers), Counter())
        retryable = sum(marker.retryable for marker in markers)
        summary(
            f"embed: {sum(rows.values()):,} rows in {duration(stage.secs)}" if stage.worked else "embed: already done",
            {
                **{name: f"{count:,} rows" for name, count in rows.items()},
                **({"class names": f"{classes:,}, in {config.classes_file}"} if classes else {}),
                "rejected": f"{sum(marker.rows_rejected for marker in markers):,} rows, listed in _rejects/"
                + (f"; {retryable:,} may be read with --retry_rejects" if retryable else ""),
                "filtered": completion.counts(filtered) + (", listed in _filtered/" if filtered else ""),
                "dropped": completion.counts(chosen.totals)
                + (", listed in memory/_dropped/" if any(chosen.totals.values()) else ""),
                **({"leakage": "not looked for: no val or test split"} if _is_unguarded(config, chosen) else {}),
                "shards": f"{len(markers)}, of which {before} were done before",
                "encoders": ", ".join(
                    f"{column} {spec.handle} ({spec.info.dim}-d)" for column, spec in encoders.items()
                ),
                "output": config.workdir,
            },
        )


def _is_unguarded(config: Config, chosen: "Selection") -> bool:
    return bool(config.filters.leakage) and "leakage" not in chosen.totals


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, beam=True, switches=_SWITCHES)


if __name__ == "__main__":
    sys.exit(main())
