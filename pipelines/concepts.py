"""Finds which classes the memory's captions name: `web-memory concepts --config=configs/demo.py [--runner=..]`.

Run it after embed. All captions are matched to the names of the classes and their synonyms at once, by whole words. It
writes counts for each name and class, and for each class the memory rows that name it (docs/concepts.md). Flags that
are not ours go to Beam. If the command is interrupted, run it again: it reads only the captions that are left.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from configs.base import Config
from pipelines import options
from pipelines.progress import counted, duration, summary
from pipelines.runner import Runner

if TYPE_CHECKING:
    from pipelines.manifest import Concepts

_SHOWN = 5


def run(config: Config, runner: Runner) -> None:
    """Reads the captions that are left, then completes the folder.

    Raises:
        UserError: if the memory is not embedded, no class has a name, or a flag is wrong.
    """
    from pipelines.captions import job, layout
    from pipelines.manifest import Concepts

    with runner.stage("concepts", "captions", config.places.workdir) as stage:
        claimed = layout.claim(config.places)
        stage.worked = not claimed.is_complete()
        if stage.worked:
            job.run(claimed, runner)
        found = Concepts.open(claimed.folder)
        rate = f", {found.captions / stage.secs:,.0f}/s" if stage.worked else ""
        done = (
            f"{counted(found.captions, 'caption')} in {duration(stage.secs)}{rate}" if stage.worked else "already found"
        )
        summary(f"concepts: {done}", {**_lines(found), "output": claimed.folder})


def _lines(found: "Concepts") -> dict[str, str]:
    """Returns what the summary says of the counts."""
    import numpy as np

    classes, names = found.classes(), found.names()
    counts, of_names = classes["captions"].to_numpy(), names["captions"].to_numpy()
    unnamed, order = np.flatnonzero(counts == 0), np.argsort(-counts, kind="stable")
    called = classes["name"].to_pylist()
    return {
        "captions": f"{found.named:,} of {found.captions:,} name a class",
        "classes": f"{len(counts):,}, named by {int(counts.min()):,} to {int(counts.max()):,} captions, "
        f"half of them by {int(np.median(counts)):,} or more",
        "most named": ", ".join(
            f"{classes['name'][int(i)].as_py()} {counts[i]:,}" for i in order[:_SHOWN] if counts[i]
        ),
        "named by none": _some([called[i] for i in unnamed], len(counts)),
        "synonyms": f"{len(names):,}, of which {int((of_names == 0).sum()):,} are in no caption",
    }


def _some(names: Sequence[str], of: int) -> str:
    shown = ": " + ", ".join(names[:_SHOWN]) + (", .." if len(names) > _SHOWN else "") if names else ""
    return f"{len(names):,} of {of:,}{shown}"


def foresee(config: Config) -> dict[str, str]:
    """Says what would be read; errors as those of `run`."""
    from pipelines.captions import layout

    job = layout.describe(config.places)
    rows = job.open_memory().rows
    found = {"captions": f"{rows:,}", "classes": f"{len(job.names):,}", "output": job.folder}
    if job.is_claimed() and job.is_complete():
        return {"done": "all captions are read; nothing to do", **found}
    done = sum(job.is_done(segment) for segment in range(len(job.segments))) if job.is_claimed() else 0
    return {"done": f"{done:,} of {counted(len(job.segments), 'segment')}", "would": "read the others", **found}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, beam=True, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
