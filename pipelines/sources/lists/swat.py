"""Lists of SWAT (Liu et al., arXiv 2406.11148): `relative/path label source`.

They name the images of few-shot sets, and images found by the name of a class. The source is 1 for the former and 0 for
the latter; it becomes metadata. Labels are numbers.
"""

import dataclasses
from collections.abc import Iterator

from configs.base import Source
from pipelines.errors import UserError
from pipelines.sources.images import below
from pipelines.sources.listing import Row
from pipelines.sources.lists.image_list import parse_line
from pipelines.sources.text import files, read_lines

_SOURCES = ("0", "1")


def rows(source: Source) -> Iterator[Row]:
    """Yields the rows of the lists of a source.

    Raises:
        UserError: if a line is not a path, a label and the number of its source.
    """
    place = below(source.image_root)
    for uri in files(source):
        for number, line in read_lines(uri):
            if line.strip():
                row = _row(uri, number, line)
                yield dataclasses.replace(row, member=place(row.member))


def _row(uri: str, number: int, line: str) -> Row:
    rest, _, origin = line.rstrip(" \t").rpartition(" ")
    if origin not in _SOURCES or not rest.strip():
        raise UserError(f"{uri}, line {number}: must be `relative/path label source`, found {line[:80]!r}")
    row = parse_line(uri, number, rest)
    return dataclasses.replace(row, fields={**row.fields, "source": int(origin)})
