"""Tables with an image in each row: CSV, TSV (both also compressed) or Parquet, with a column of paths or of URLs.

The source's `fields` name the columns: `path=`, `url=`, `caption=`, `label=`; by default they have these names or a few
common ones. A number names a column of a CSV or TSV without a header, from 0 (`url=0`). If there is a column of paths,
images are read below the image root and the URL is only recorded; otherwise they are downloaded. All other columns
except those of bytes are metadata.

CSV has quotes as in RFC 4180; TSV has none: a line is a row. Each run that needs the images downloads them again; use
img2dataset for large tables.
"""

import csv
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.base import Source
from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources.files import parquet_bounds
from pipelines.sources.listing import Row
from pipelines.sources.sample import MAX_LABEL, field_names
from pipelines.sources.text import decode_line, files, read_raw_lines

_FIELDS = {
    "path": ("path", "file", "file_name", "filename", "image_path"),
    "url": ("url", "URL", "image_url"),
    "caption": ("caption", "text", "TEXT"),
    "label": ("label",),
}


def rows(source: Source) -> Iterator[Row]:
    """Yields the rows of the tables of a source.

    Raises:
        UserError: if a table lacks a column, or a line is wrong: it is named by file and line.
    """
    names = field_names(source, _FIELDS)
    explicit = {entry.partition("=")[0] for entry in source.fields}
    for uri in files(source):
        parquet = storage.name(uri).endswith((".parquet", ".pq"))
        for where, values in _read_parquet(uri) if parquet else _read_text(uri, names):
            yield _row(where, values, names, explicit)


def _read_parquet(uri: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with storage.open_read(uri) as file:
        try:
            parquet = pq.ParquetFile(file, pre_buffer=False)
            columns = [field.name for field in parquet.schema_arrow if not _is_bytes(field.type)]
            number = itertools.count()
            for batch in parquet_bounds.batches(file, parquet, columns):
                for values in batch.to_pylist():
                    yield f"{uri}, row {next(number)}", values
        except parquet_bounds.Excess as error:
            raise UserError(f"{uri}: {error}; if it is not hostile, write it again as several files") from error
        except storage.BROKEN_PARQUET as error:
            # Arrow's messages have several lines.
            problem = " ".join(str(error).split())
            raise UserError(f"{uri}: is not a whole Parquet file ({problem}); remove it or repair it") from error


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _read_text(uri: str, names: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields place and cells of each row; empty cells are None."""
    lines = _read_cells(uri)
    place, header = next(lines, ("", []))
    if any(len(theirs) == 1 and theirs[0].isdecimal() for theirs in names.values()):
        # There is no header: columns are named by their numbers.
        lines = itertools.chain([(place, header)] if header else [], lines)
        header = [str(number) for number in range(len(header))]
    if len(set(header)) < len(header):
        raise UserError(f"{place}: two columns have the same name; its columns are {_listed(header)}")
    for where, cells in lines:
        if len(cells) != len(header):
            raise UserError(f"{where}: has {len(cells)} columns, the lines before have {len(header)}")
        yield where, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _read_cells(uri: str) -> Iterator[tuple[str, list[str]]]:
    """Yields place and cells of each line that is not empty, including the header."""
    lines = (decode_line(uri, number, line) for number, line in read_raw_lines(uri))
    tabs = ".tsv" in storage.name(uri) or ".tab" in storage.name(uri)
    reader = csv.reader(lines, csv.excel_tab, quoting=csv.QUOTE_NONE) if tabs else csv.reader(lines, strict=True)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{uri}, line {reader.line_num}: cannot be read as a table ({error})") from error
        if cells is None:
            return
        if cells:
            yield f"{uri}, line {reader.line_num}", cells


def _row(where: str, values: dict[str, Any], names: Mapping[str, tuple[str, ...]], explicit: set[str]) -> Row:
    found = _find_columns(where, values, names, explicit)
    metadata = {name: value for name, value in values.items() if not _is_nan(value)}
    ours = {field: metadata.pop(name, None) for field, name in found.items()}
    is_url = "path" not in ours
    member = ours.get("url" if is_url else "path")
    if not isinstance(member, str | None):
        raise UserError(f"{where}: {found['url' if is_url else 'path']!r} is {str(member)[:80]!r}, not a text")
    ours.pop("path", None)
    if "label" in ours:
        ours["label"] = _label(ours["label"], where)
    return Row(member or "", {**metadata, **ours}, is_url)


def _find_columns(
    where: str, values: Iterable[str], names: Mapping[str, tuple[str, ...]], explicit: set[str]
) -> dict[str, str]:
    """Returns the column of each of our fields that the table has."""
    present = set(values)
    found = {field: name for field in names if (name := next((n for n in names[field] if n in present), None))}
    for field in explicit - found.keys():
        raise UserError(f"{where}: has no column {names[field][0]!r}; its columns are {_listed(values)}")
    if "path" not in found and "url" not in found:
        raise UserError(
            f"{where}: has no column of paths or URLs, name it by --config..fields=path=x or url=x; its columns are "
            f"{_listed(values)}"
        )
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))[:500]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _label(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 10:
        value = int(value)
    # Pandas stores a column of whole numbers with missing values as floats.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_LABEL:
        raise UserError(f"{where}: label must be a whole number from 0, found {str(value)[:80]!r}")
    return value
