"""The trials of a head as a table."""

from itertools import starmap

from model.measures.metrics import GROUPS
from model.reports.grid import Grid
from model.training import hyperparameters
from model.training.trials import Trial
from pipelines.progress import counted


def grid(tried: list[Trial], head: str) -> Grid:
    """Returns the trials of a head, the best on val first, those that diverged last; accuracies in percent."""
    columns, rows = ("all", *GROUPS), []
    is_several = max(trial.divisions for trial in tried) > 1
    for trial in sorted(tried, key=lambda trial: (-trial.steps, trial.diverged, -trial.value)):
        reached = {} if trial.diverged else trial.result["accuracy"]
        cells = [f"{100 * reached[column]:.1f}" if column in reached else "-" for column in columns]
        if trial.diverged:
            cells[0] = "diverged"
        divisions = (str(trial.divisions),) if is_several else ()
        rows.append((str(trial.number), *starmap(hyperparameters.shown, trial.point.items()), *divisions, *cells))
    title = f"{head}: {counted(len(tried), 'trial')}, val accuracy, %"
    if not is_several:
        return Grid(title, ("trial", *tried[0].point, *columns), rows)
    return Grid(f"{title}, mean over divisions", ("trial", *tried[0].point, "divisions", *columns), rows)
