"""Runs the trials of every head on val and shows them: `web-memory sweep --config=configs/demo.py`.

No run reads the test split. `model.train` uses these trials and continues with the seeds.
"""

import sys
from collections.abc import Sequence

from configs.base import Config
from pipelines import options
from pipelines.progress import Stage, say


def run(config: Config) -> None:
    """Runs the trials that are not done yet.

    Raises:
        UserError: if an earlier stage has not finished, a setting is wrong, or all trials of a head diverged.
    """
    from model.data import protocol
    from model.reports import tuning
    from model.training import hyperparameters, trials

    places, train, seed = config.places, config.train, config.seed
    trials.check(places, train)
    # The lock of the training, since both write the same folders.
    with Stage("train", "steps", places.workdir) as stage:
        stage.worked = False
        stage.doing("reading vectors, compiling")
        task = protocol.load(places, config.protocol, config.queries, train)
        task, data, folder = trials.open_runs(places, seed, train, task, ("train", "val"))
        longest = task.splits["train"].neighbors.shape[1]
        progress = trials.Progress(stage, sum(trials.lengths(train, longest, seeds=False)))
        tried = {}
        for name in train.heads:
            tried[name] = trials.Runs(name, train, seed, task, data, folder, progress).trials()
    for name, of_head in tried.items():
        tuning.grid(of_head, name).show()
        best = trials.best_of(of_head)
        say(f"best: trial {best.number}, {hyperparameters.words(best.point)}, val {best.accuracy:.3f}")
    say(f"output {folder}; run web-memory train to continue with the seeds")


def foresee(config: Config) -> dict[str, str]:
    """Says what would be tried; errors as those of `run` that need no training."""
    from model.training import trials

    return trials.foresee(config.places, config.seed, config.train, seeds=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
