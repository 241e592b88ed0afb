"""A table of words and figures, and how it is shown: printed, or in Markdown for a page."""

import dataclasses

from pipelines import progress


@dataclasses.dataclass(frozen=True)
class Grid:
    """One table.

    Attributes:
        title: what stands above it.
        columns: the first is of names, the others of figures.
        rows: a cell for each column.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def show(self) -> None:
        """Prints it."""
        progress.table(self.title, self.columns, self.rows)

    def markdown(self) -> str:
        """Returns it for a Markdown page."""
        lines = [self.columns, ("---",) + ("--:",) * (len(self.columns) - 1), *self.rows]
        return f"{self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
