"""Tables with an image in each row: CSV, TSV, JSON Lines (all also compressed) or Parquet, with paths or URLs.

The source's `fields` name the columns: `path=`, `url=`, `caption=`, `label=`; by default they have these names or a few
common ones. A number names a column of a CSV or TSV without a header, from 0 (`url=0`). A text with columns in braces
is made of their values, such as `path={id}.jpg` or `label={genus} {species}`. If there is a column of paths, images are
read below the image root and the URL is only recorded; otherwise they are downloaded. A label is a number or the name
of a class. All other columns except those of bytes are metadata.

CSV has quotes as in RFC 4180, and `delimiters` finds out what separates its cells; TSV has no quotes: a line is a row.
A line of JSON Lines is an object, and may lack fields that others have; the first one says whether the table is of
paths or of URLs.

Each run that needs the images downloads them again; use img2dataset for large tables.
"""

import ast
import contextlib
import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.base import Source
from pipelines import storage
from pipelines.errors import UserError, one_line
from pipelines.sources import parts
from pipelines.sources.files import parquet_bounds
from pipelines.sources.files.parquet import is_image, row_values
from pipelines.sources.listing import Row
from pipelines.sources.lists.delimiters import is_numbered, read_cells
from pipelines.sources.naming import Naming, class_label, same_in_all
from pipelines.sources.sample import field_names, is_missing, number_or_name, without_login
from pipelines.sources.text import decode_line, files, read_raw_lines

FIELDS = {
    "path": ("path", "file", "file_name", "filename", "filepath", "image_path", "image"),
    "url": ("url", "URL", "image_url"),
    "caption": ("caption", "text", "TEXT", "title"),
    "label": ("label",),
}
# `["a dog", "one dog"]`, or `['a dog']`, which pandas writes.
_LIST = re.compile(r"""\[\s*["'].*["']\s*\]""", re.DOTALL)
_JSON_LINES = re.compile(r"\.(jsonl|ndjson|jsonlines)(\.|$)", re.IGNORECASE)
_IN_BRACES = re.compile(r"\{([^{}]+)\}")


def rows(source: Source) -> Iterator[Row]:
    """Yields the rows of the tables of a source.

    Raises:
        UserError: if a table lacks a column, or a line is wrong: it is named by file and line.
    """
    for uri in files(source):
        yield from rows_of(uri, source)


def rows_of(uri: str, source: Source) -> Iterator[Row]:
    """Yields the rows of one table of a source; errors as `rows`."""
    names = field_names(source, FIELDS)
    explicit = {entry.partition("=")[0] for entry in source.fields}
    if _JSON_LINES.search(storage.name(uri)):
        yield from _json_rows(uri, names, explicit)
        return
    found: dict[str, str] = {}
    for where, values in _read_parquet(uri) if _is_parquet(uri) else _read_text(uri, names):
        if isinstance(values, ValueError):
            yield Row("", problem=f"{where}: {values}")
            continue
        # All rows have the same columns.
        found = found or _find_columns(where, values, names, explicit)
        row = _row(where, values, found)
        if row.problem:
            # A column has one type, so no other row is better.
            raise UserError(row.problem)
        yield row


def columns(uri: str) -> list[str]:
    """Returns the names of a table's columns; of JSON Lines, the fields of the first line. Errors as `rows`."""
    if _is_parquet(uri):
        return _schema(uri).names
    if _JSON_LINES.search(storage.name(uri)):
        return list(next(_read_json_lines(uri), ("", {}))[1])
    return next(read_cells(uri, FIELDS), ("", []))[1]


def _is_parquet(uri: str) -> bool:
    return storage.name(uri).endswith((".parquet", ".pq"))


def _json_rows(uri: str, names: Mapping[str, tuple[str, ...]], explicit: set[str]) -> Iterator[Row]:
    """Yields the rows of a file of JSON Lines, whose objects may lack fields; those of the first are no exception."""
    seen: set[str] = set()
    image = where = ""
    for where, values in _read_json_lines(uri):
        found = _find_columns(where, values, names, set() if image else explicit & {"path", "url"}, bool(image))
        image = image or ("path" if "path" in found else "url")
        seen |= found.keys()
        # A table of paths never reaches the network, and a path is never taken for a URL.
        yield _row(where, values, {**found, image: found.get(image, names[image][0])}, image == "url")
    for field in explicit - seen if where else ():
        raise UserError(f"{uri}: no line has a field {names[field][0]!r}, which 'fields' names as {field}")


def _read_json_lines(uri: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields place and fields of each line that is not blank."""
    for number, line in read_raw_lines(uri):
        where, text = f"{uri}, line {number}", decode_line(uri, number, line)
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: is not JSON ({error})") from error
        if not isinstance(values, dict):
            raise UserError(f'{where}: must be an object such as {{"path": "a.jpg"}}, found {text[:80]!r}')
        yield where, values


def _read_parquet(uri: str) -> Iterator[tuple[str, dict[str, Any] | ValueError]]:
    with storage.open_read(uri) as file:
        try:
            parquet = pq.ParquetFile(file, pre_buffer=False)
            columns = [field.name for field in parquet.schema_arrow if not is_image(field.type)]
            number = itertools.count()
            for batch in parquet_bounds.batches(file, parquet, columns):
                for values in _values(batch, columns):
                    yield f"{uri}, row {next(number)}", values
        except parquet_bounds.Excess as error:
            raise UserError(f"{uri}: {error}; if it is not hostile, write it again as several files") from error
        except storage.BROKEN_PARQUET as error:
            raise _not_whole(uri, error) from error


def _values(batch: pa.RecordBatch, columns: list[str]) -> Iterator[dict[str, Any] | ValueError]:
    """Yields the fields of each row, or what is wrong with them."""
    try:
        yield from batch.to_pylist()
    # A value that does not fit its type, such as a time beyond the year 9999: its row is found one by one.
    except (ValueError, LookupError, ArithmeticError, TypeError, pa.ArrowException):
        for row in range(len(batch)):
            try:
                yield row_values(batch, row, columns)
            except ValueError as error:
                yield error


def _read_text(uri: str, names: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields place and cells of each row; empty cells are None."""
    # What is in braces is a column, too.
    names = {**names, **{name: (name,) for theirs in names.values() for text in theirs for name in _in_braces(text)}}
    lines = read_cells(uri, names)
    place, header = next(lines, ("", []))
    if is_numbered(names):
        # There is no header: columns are named by their numbers.
        lines = itertools.chain([(place, header)] if header else [], lines)
        header = [str(number) for number in range(len(header))]
    if len(set(header)) < len(header):
        raise UserError(f"{place}: two columns have the same name; its columns are {_listed(header)}")
    for where, cells in lines:
        if len(cells) != len(header):
            raise UserError(f"{where}: has {len(cells)} columns, the lines before have {len(header)}")
        yield where, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _row(where: str, values: Mapping[str, Any], found: Mapping[str, str], is_url: bool | None = None) -> Row:
    """Returns a row, given the column of each of our fields."""
    metadata = {name: value for name, value in values.items() if not is_missing(value)}
    try:
        ours = {field: _value(name, metadata) for field, name in found.items()}
    except ValueError as error:
        return Row("", problem=f"{where}: {error}")
    for name in found.values():
        metadata.pop(name, None)
    is_url = "path" not in ours if is_url is None else is_url
    member = ours.get("url" if is_url else "path")
    if not isinstance(member, str | None):
        return Row("", problem=f"{where}: {found['url' if is_url else 'path']!r} is {str(member)[:80]!r}, not a text")
    ours.pop("path", None)
    if is_url and member:
        # The rows are stored as they are here.
        member = ours["url"] = without_login(member)
    ours |= {"caption": _texts(ours["caption"])} if "caption" in ours else {}
    # What is no label is left as it is, and makes the row a reject.
    with contextlib.suppress(ValueError):
        ours |= {"label": number_or_name(ours["label"])} if "label" in ours else {}
    return Row(member or "", {**metadata, **ours}, is_url)


def _in_braces(text: str) -> list[str]:
    """Returns the columns whose values a text with braces is made of."""
    return _IN_BRACES.findall(text)


def _value(name: str, values: Mapping[str, Any]) -> Any:
    """Returns the value of a column, or the text that the values of columns in braces make; None if one is missing."""
    if name in values or not (columns := _in_braces(name)):
        return values.get(name)
    for column in columns:
        if not isinstance(values.get(column), str | int | float | None):
            raise ValueError(f"{column!r} is of type {type(values[column]).__name__}, which makes no part of {name!r}")
    if any(values.get(column) is None for column in columns):
        return None
    return _IN_BRACES.sub(lambda match: str(values[match[1]]), name)


def _texts(caption: Any) -> Any:
    """Returns the texts of a cell with a list of them, as JSON and Python write it; any other caption as it is."""
    if not isinstance(caption, str) or not _LIST.fullmatch(caption.strip()):
        return caption
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            texts = parse(caption.strip())
            if isinstance(texts, list) and all(isinstance(text, str | None) for text in texts):
                return texts
    return caption


def _find_columns(
    where: str, values: Iterable[str], names: Mapping[str, tuple[str, ...]], explicit: set[str], optional: bool = False
) -> dict[str, str]:
    """Returns the column of each of our fields that the table has; `optional` tells whether it may have no image."""
    present = set(values)
    several = {
        field: [name for name in theirs if name in present or present.issuperset(_in_braces(name) or [name])]
        for field, theirs in names.items()
    }
    found = {field: candidates[0] for field, candidates in several.items() if candidates}
    for field, candidates in several.items():
        if len(candidates) > 1:
            raise UserError(
                f"{where}: {' and '.join(map(repr, candidates))} may each be the {field}; say which by "
                f"the source's fields={field}={candidates[0]}"
            )
    for field in explicit - found.keys():
        named = names[field][0]
        lost = next((column for column in _in_braces(named) if column not in present), named)
        raise UserError(f"{where}: has no column {lost!r}; its columns are {_listed(values)}")
    if "path" not in found and "url" not in found and not optional:
        raise UserError(
            f"{where}: has no column of paths or URLs, name it by the source's fields=path=x or url=x; its columns are "
            f"{_listed(values)}"
        )
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))[:500]


def naming(source: Source) -> Naming | None:
    """Returns the names that Parquet tables themselves give to their labels; None if they give none.

    Raises:
        UserError: if two tables give different names, or one cannot be read.
    """
    columns = field_names(source, FIELDS)["label"]
    found = same_in_all((uri, class_label(_schema(uri), columns)) for uri in files(source) if _is_parquet(uri))
    return Naming(found, functools.partial(_count_declared, source, found), declared=True) if found else None


def _count_declared(source: Source, names: tuple[str, ...]) -> Counter[str]:
    numbers = Counter(row.fields.get("label") for row in parts.having(source, rows(source)))
    return Counter({name: numbers[number] for number, name in enumerate(names) if numbers[number]})


def _schema(uri: str) -> pa.Schema:
    with storage.open_read(uri) as file:
        try:
            return pq.read_schema(file)
        except storage.BROKEN_PARQUET as error:
            raise _not_whole(uri, error) from error


def _not_whole(uri: str, error: Exception) -> UserError:
    return UserError(f"{uri}: is not a whole Parquet file ({one_line(error)}); remove it or repair it")
