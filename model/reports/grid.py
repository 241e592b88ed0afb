"""A table of words and figures, to print or as text of another program."""

import dataclasses

from pipelines import progress

_LATEX = {
    **{char: rf"\{char}" for char in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "−": "$-$", "→": r"$\to$", "…": r"\ldots{}", "<": "$<$", ">": "$>$", "|": "$|$"},
}


@dataclasses.dataclass(frozen=True)
class Grid:
    """One table.

    Attributes:
        title: above the table.
        columns: their titles; the first has names, the others have figures.
        rows: a cell for each column.
        notes: what its words mean, a sentence each, below the table where there is room.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: tuple[str, ...] = ()

    def show(self) -> None:
        """Prints it."""
        progress.table(self.title, self.columns, self.rows)

    def markdown(self) -> str:
        """Returns it as Markdown."""
        lines = [_markdown(self.columns), ("---",) + ("--:",) * (len(self.columns) - 1), *map(_markdown, self.rows)]
        return f"{self.title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def latex(self) -> str:
        """Returns it as a `tabular` of LaTeX with the rules of booktabs, its title as a comment."""
        head, *lines = (" & ".join(map(_latex, line)) + r" \\" for line in (self.columns, *self.rows))
        aligned = f"l{'r' * (len(self.columns) - 1)}"
        body = [rf"\begin{{tabular}}{{{aligned}}}", r"\toprule", head, r"\midrule", *lines, r"\bottomrule"]
        return "\n".join([f"% {' '.join(self.title.split())}", *body, r"\end{tabular}"]) + "\n"


def _markdown(cells: tuple[str, ...]) -> tuple[str, ...]:
    """Returns cells that end neither their line nor their column."""
    return tuple(" ".join(cell.split()).replace("\\", "\\\\").replace("|", "\\|") for cell in cells)


def _latex(cell: str) -> str:
    line = "".join(_LATEX.get(char, char) for char in " ".join(cell.split()))
    # A hyphen before a figure is a minus.
    return f"$-${line[1:]}" if line[:1] == "-" and line[1:2].isdigit() else line
