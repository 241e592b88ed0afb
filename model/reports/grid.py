"""A table of words and figures, to print or as Markdown."""

import dataclasses

from pipelines import progress


@dataclasses.dataclass(frozen=True)
class Grid:
    """One table.

    Attributes:
        title: above the table.
        columns: their titles; the first has names, the others have figures.
        rows: a cell for each column.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def show(self) -> None:
        """Prints it."""
        progress.table(self.title, self.columns, self.rows)

    def markdown(self) -> str:
        """Returns it as Markdown."""
        lines = [self.columns, ("---",) + ("--:",) * (len(self.columns) - 1), *self.rows]
        return f"{self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
