"""Lists of lines `relative/path label`: ImageNet-LT, Places-LT and any list of one's own.

The lists of Places-LT name their images in the style of one of three downloads; the image root may be of another.
"""

from collections.abc import Iterator

from configs.base import Source
from pipelines.errors import UserError
from pipelines.sources.listing import Row, read_lines
from pipelines.sources.sample import MAX_LABEL


def parse_line(uri: str, number: int, line: str) -> Row:
    """Returns the row of a line `relative/path label`; a `UserError` names the line if it is something else."""
    path, _, label = line.rpartition(" ")
    if not path or not label.isdecimal() or int(label) > MAX_LABEL:
        raise UserError(f"{uri}, line {number}: must be `relative/path label`, found {line[:80]!r}")
    return Row(path, {"label": int(label)})


def rows(source: Source) -> Iterator[Row]:
    """Yields the rows of a list file; every line is checked."""
    for number, line in read_lines(source.path):
        yield parse_line(source.path, number, line)
