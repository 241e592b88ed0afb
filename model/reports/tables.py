"""Tables of the pages: cells with what they are sorted by, and the texts to copy."""

import dataclasses
import re

from model.reports.grid import Grid
from model.reports.pages.site import plain

_FIGURE = re.compile(r"[+-]?\d[\d,]*(\.\d+)?(?=[ %]|$)")
_DURATION = re.compile(r"(?:(\d+)h)?(\d+)m(?:(\d+)s)?")
_NOTHING = ("", "-")
_MOST_CHARS = 120


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: that is shown.
        order: a figure, a text, or nothing, by which rows are sorted.
    """

    text: str
    order: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as `parts.table` shows it.

    Attributes:
        title: above it.
        columns: their titles.
        rows: a cell for each column.
        words: the columns, from 0, that have words instead of figures.
        notes: sentences below it.
        latex: its text for LaTeX.
        markdown: its text for Markdown.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    words: set[int]
    notes: tuple[str, ...]
    latex: str
    markdown: str


def order(text: str) -> str:
    """Returns what a cell is sorted by: its first figure or its seconds, otherwise its words; empty for no figure."""
    if text in _NOTHING:
        return ""
    if found := _DURATION.fullmatch(text):
        hours, minutes, secs = (int(part or 0) for part in found.groups())
        return str(3600 * hours + 60 * minutes + secs)
    found = _FIGURE.match(text)
    return str(float(found[0].replace(",", ""))) if found else text


def table(grid: Grid) -> Table:
    """Returns a grid as it is shown; texts of strangers are cut and lose what a browser or terminal would obey."""
    rows = [tuple(plain(cell, _MOST_CHARS) for cell in row) for row in grid.rows]
    safe = dataclasses.replace(grid, rows=rows)
    cells = [(Cell(row[0], row[0]), *(Cell(cell, order(cell)) for cell in row[1:])) for row in rows]
    words = {place for place in range(len(grid.columns)) if any(_is_word(row[place]) for row in cells)}
    return Table(grid.title, grid.columns, cells, words | {0}, grid.notes, safe.latex(), safe.markdown())


def _is_word(cell: Cell) -> bool:
    try:
        float(cell.order or 0)
    except ValueError:
        return True
    return False
