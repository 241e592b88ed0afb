"""The trials of a head as a table."""

from model.measures.metrics import GROUPS
from model.reports.grid import Grid
from model.training.trials import Trial


def grid(tried: list[Trial], head: str) -> Grid:
    """Returns the trials of a head, the best on val first, those that diverged last; accuracies in percent."""
    columns, rows = ("all", *GROUPS), []
    for trial in sorted(tried, key=lambda trial: (-trial.steps, trial.diverged, -trial.value)):
        reached = {} if trial.diverged else trial.result["accuracy"]
        cells = [f"{100 * reached[column]:.1f}" if column in reached else "-" for column in columns]
        if trial.diverged:
            cells[0] = "diverged"
        rows.append((str(trial.number), *map(str, trial.point.values()), *cells))
    title = f"{head}: {len(tried)} trials, val accuracy, %"
    return Grid(title, ("trial", *tried[0].point, *columns), rows)
