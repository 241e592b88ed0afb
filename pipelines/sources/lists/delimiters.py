"""What separates the cells of a text table: a comma, a semicolon, a tab or a bar, found out from its first lines.

Names that end with `.tsv` or `.tab` say it themselves: tabs, and no quotes. In all others a cell may be quoted, as in
RFC 4180. A header decides by the columns that we know; without a header, all of the first lines have as many cells.
"""

import contextlib
import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence

from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources.text import decode_line, read_raw_lines

_SHOWN = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_PEEKED_LINES = 20


def read_cells(uri: str, names: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, list[str]]]:
    """Yields place and cells of each line that is not empty, including the header.

    Args:
        uri: of the table, which may be compressed.
        names: the names that each of our fields may have, as `sample.field_names` returns them.

    Raises:
        UserError: if a line cannot be read, or two separators would do.
    """
    lines = (decode_line(uri, number, line) for number, line in read_raw_lines(uri))
    if ".tsv" in storage.name(uri) or ".tab" in storage.name(uri):
        reader = csv.reader(lines, csv.excel_tab, quoting=csv.QUOTE_NONE)
    else:
        first = list(itertools.islice(lines, _PEEKED_LINES))
        reader = csv.reader(itertools.chain(first, lines), delimiter=_find(uri, first, names), strict=True)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{uri}, line {reader.line_num}: cannot be read as a table ({error})") from error
        if cells is None:
            return
        if cells:
            yield f"{uri}, line {reader.line_num}", cells


def is_numbered(names: Mapping[str, tuple[str, ...]]) -> bool:
    """Tells whether columns are named by their numbers, because there is no header."""
    return any(len(theirs) == 1 and theirs[0].isdecimal() for theirs in names.values())


def _find(uri: str, lines: Sequence[str], names: Mapping[str, tuple[str, ...]]) -> str:
    score = _numbered_score if is_numbered(names) else _header_score
    tables = {mark: _cells(lines, mark) for mark in _SHOWN}
    scores = {mark: score(rows, names) for mark, rows in tables.items() if rows and len(rows[0]) > 1}
    found = [mark for mark, reached in scores.items() if reached == max(scores.values())]
    if len(found) < 2:
        # If nothing is separated, the table has one column.
        return found[0] if found else ","
    raise UserError(
        f"{uri}: its cells may be separated by {' or by '.join(_SHOWN[mark] for mark in found)}; add a first line with "
        "names of columns, such as path and caption, or write it as JSON Lines or Parquet"
    )


def _cells(lines: Sequence[str], mark: str) -> list[list[str]]:
    """Returns the cells of the first lines, as far as they can be read."""
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):
        rows.extend(cells for cells in csv.reader(lines, delimiter=mark) if cells)
    # The last row may go on in lines that were not looked at.
    return rows[:-1] if len(lines) == _PEEKED_LINES else rows


def _header_score(rows: list[list[str]], names: Mapping[str, tuple[str, ...]]) -> tuple[int, int]:
    """Returns how many of our fields the header has and, if it has none, how many cells."""
    known = sum(not set(theirs).isdisjoint(rows[0]) for theirs in names.values())
    return known, 0 if known else len(rows[0])


def _numbered_score(rows: list[list[str]], names: Mapping[str, tuple[str, ...]]) -> tuple[int, int]:
    """Returns whether all rows have as many cells, and those that are named."""
    numbers = [int(name) for theirs in names.values() for name in theirs if name.isdecimal()]
    widths = {len(cells) for cells in rows}
    return int(len(widths) == 1 and widths.pop() > max(numbers)), 0
