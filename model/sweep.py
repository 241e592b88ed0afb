"""Runs the trials of every head on val and shows them: `python -m model.sweep --config=configs/demo.py`.

No run gets to see the test split. `model.train` takes the trials as they are and goes on with the seeds.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from configs.base import Config
from model.reports.grid import Grid
from pipelines import options
from pipelines.progress import Stage, say

if TYPE_CHECKING:
    from model.training.trials import Trial


def print_table(tried: "list[Trial]", head: str) -> None:
    """Prints the trials of a head, the best on val first, those that diverged last; accuracies in percent."""
    from model.measures.metrics import GROUPS

    columns, rows = ("all", *GROUPS), []
    for trial in sorted(tried, key=lambda trial: (trial.diverged, -trial.value)):
        reached = {} if trial.diverged else trial.result["accuracy"]
        cells = [f"{100 * reached[column]:.1f}" if column in reached else "-" for column in columns]
        if trial.diverged:
            cells[0] = "diverged"
        rows.append((str(trial.number), *map(str, trial.point.values()), *cells))
    title = f"{head}: {len(tried)} trials, val accuracy, %"
    Grid(title, ("trial", *tried[0].point, *columns), rows).show()


def run(config: Config) -> None:
    """Runs the trials that are not done yet.

    Raises:
        UserError: if an earlier stage has not finished, a setting is wrong, or all trials of a head diverged.
    """
    from model.training import hyperparameters, trials

    trials.check(config)
    # The same lock as the training's: both write the same folders.
    with Stage("train", "steps", config.workdir) as stage:
        stage.worked = False
        task, data, folder = trials.load(config, ("train", "val"))
        progress = trials.Progress(stage, len(config.train.heads) * hyperparameters.budget(config.train))
        tried = {}
        for name in config.train.heads:
            tried[name] = trials.Runs(name, config, task, data, folder, progress).trials()
    for name, of_head in tried.items():
        print_table(of_head, name)
        best = trials.best_of(of_head)
        say(f"best: trial {best.number}, {hyperparameters.words(best.point)}, val {best.value:.3f}")
    say(f"output {folder}; model.train goes on from here")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv)


if __name__ == "__main__":
    sys.exit(main())
