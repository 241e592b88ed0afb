"""Varies one thing and trains the heads at each value: `web-memory ablate --config=.. --vary=k[=8,16,32]`.

Each head has the setting that `model.train` chose with this configuration, or, with `--sweep`, the best of the same
trials at each value. Figures are of test and choose nothing; to choose a value, read those of val. If the command is
interrupted, run it again: it resumes. Writes a table and a plot of these values, heads and seeds below the workdir, and
as `ablations/{name}.json` and `.svg` the last of each name.
"""

import os
import sys
from collections.abc import Sequence

from configs.base import Config
from pipelines import options, storage
from pipelines.progress import Stage, say


def run(config: Config, vary: str, sweep: bool, markdown: bool) -> None:
    """Trains, prints the table and writes the files.

    Raises:
        UserError: if the flag or the configuration makes no sense, or an earlier stage has not run.
    """
    # TensorFlow embeds captions. Before JAX is imported, which sets a level of its own.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from model.data import protocol
    from model.reports import plot
    from model.reports.ablations import study, variations
    from model.reports.ablations.base import Base

    plot.check()
    name, values = variations.parse(vary)
    places, train = config.places, config.train
    with Stage("ablate", "steps", places.workdir) as stage:
        stage.doing("reading vectors, compiling")
        base = Base(config)
        protocol.check(places, config.protocol, config.queries, train, base.task().class_counts)
        found = study.run(base, name, values, sweep, stage)
    own, written = f"{name}-{study.fingerprint(base, found)[:8]}", []
    for suffix, write in (("json", storage.write_json), ("svg", study.draw)):
        path, last = (storage.join(places.workdir, "ablations", f"{stem}.{suffix}") for stem in (own, name))
        write(path, found)
        # The figures of other settings stay; this name has the last.
        storage.copy(path, last)
        written.append(last)
    if markdown:
        print(study.grid(found).markdown())
    else:
        study.grid(found).show()
        say("wrote " + " and ".join(written))


def foresee(config: Config, vary: str, sweep: bool, markdown: bool) -> dict[str, str]:
    """Says what would be varied; errors as those of `run` that need no training."""
    from model.reports import plot
    from model.reports.ablations import variations
    from model.reports.ablations.base import Base

    plot.check()
    name, values = variations.parse(vary)
    base = Base(config)
    values = values or variations.default_values(name, base)
    variations.read(base, name, values)
    tried = ", with the trials of each" if sweep else ""
    return {
        "varied": name,
        "values": ", ".join(values),
        "would": f"train {', '.join(config.train.heads)} at each value{tried}, but for runs that are done",
        "output": storage.join(config.places.workdir, "ablations"),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(
        run,
        str(__doc__).splitlines()[0],
        argv,
        switches={"sweep": "choose the settings again at each value", "markdown": "print the table in Markdown"},
        foresee=foresee,
        values={"vary": ("", "what to vary, such as k or k=8,16,32")},
    )


if __name__ == "__main__":
    sys.exit(main())
