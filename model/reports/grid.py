"""A table of words and figures, and how it is shown: on the terminal, or in Markdown for a page."""

import dataclasses

from rich.table import Table


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

    def table(self) -> Table:
        """Returns it for the terminal."""
        table = Table(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Returns it for a Markdown page."""
        lines = [self.columns, ("---",) + ("--:",) * (len(self.columns) - 1), *self.rows]
        return f"{self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
