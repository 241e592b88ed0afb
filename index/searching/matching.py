"""The rows of a memory that a filter lets pass, read shard by shard."""

import functools
import json
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index.searching import where
from index.searching.where import METADATA, FieldTest, Filter
from index.store.filtered import Allowed
from index.store.indexed_memory import IndexedMemory
from pipelines.errors import UserError, nearest, one_line
from pipelines.manifest import Embeddings
from pipelines.sources.sample import is_missing

# Names of fields that an error may show, and their characters.
_MOST_NAMES, _MOST_CHARS = 50, 80
# Filters whose rows are remembered.
_MOST_FILTERS = 8
# Values of a field whose answers are kept: most occur again and again.
_KEPT_ANSWERS = 1 << 14

# Yields columns of the rows of a memory.
Tables = Callable[[list[str]], Iterable[pa.Table]]


def ids(memory: Embeddings | IndexedMemory, wanted: "str | Filter | pc.Expression") -> np.ndarray:
    """Returns the ids of the rows of a memory that a filter lets pass, int64, ascending; holds one shard at a time.

    Args:
        memory: that is read.
        wanted: the filter, as text or as an Arrow expression over the columns of the memory.

    Raises:
        UserError: if the filter is wrong, no row has a field that it names, or no row has a value there, or in a column
            that it compares, that can be compared as it asks.
    """
    if isinstance(wanted, pc.Expression):
        wanted = Filter(str(wanted), "where", wanted, where.COLUMNS, {}, {})
    found = where.parse(wanted) if isinstance(wanted, str) else wanted
    return _ids(tables_of(memory), memory.folder, found)


def tables_of(memory: Embeddings | IndexedMemory) -> Tables:
    """Returns what reads columns of a memory, shard by shard."""
    return lambda columns: (memory.read(shard, columns) for shard in memory.shard_rows)


def _ids(tables: Tables, folder: str, found: Filter) -> np.ndarray:
    answers, parts = _Answers(found), [np.empty(0, np.int64)]
    for table in tables(list(dict.fromkeys(["id", *found.columns]))):
        for name, column in answers.of(table).items():
            table = table.append_column(name, column)
        try:
            parts.append(table.filter(found.expression)["id"].to_numpy())
        except pa.ArrowException as error:
            reason = one_line(error)[:200]
            raise UserError(f"{found.flag}: {found.text[:200]!a}: {reason}; {where.known_columns()}") from error
    answers.check(folder, found.flag)
    return np.sort(np.concatenate(parts))


class Filters:
    """The rows that filters let pass in one version of a memory; those of the last few filters are kept.

    Any number of threads may ask.
    """

    def __init__(self, tables: Tables, folder: str, rows: int, flag: str) -> None:
        """Reads nothing yet.

        Args:
            tables: yields columns of the rows, which may be more than can be found.
            folder: of the memory, for errors.
            rows: that can be found.
            flag: how errors name a filter.
        """
        self._tables, self._folder, self._flag = tables, folder, flag
        self._allowed: dict[str, tuple[Allowed, int]] = {"": (Allowed(), rows)}
        self._lock = threading.Lock()

    def allowed(self, text: str) -> tuple[Allowed, int]:
        """Returns the rows that a filter lets pass, and their number; errors as `ids`."""
        with self._lock:
            if text not in self._allowed:
                found = _ids(self._tables, self._folder, where.parse(text, self._flag))
                if len(self._allowed) > _MOST_FILTERS:
                    del self._allowed[list(self._allowed)[1]]
                self._allowed[text] = Allowed(found), len(found)
            return self._allowed[text]


class _Answers:
    """The answers of tests of the metadata, and what was seen of its fields and of the columns that are compared."""

    def __init__(self, found: Filter) -> None:
        tests = self._tests = found.tests
        self._rows, self._blank = 0, dict(found.compared)
        self._names: set[str] = set()
        self._has, self._answered = dict.fromkeys(tests, 0), dict.fromkeys(tests, 0)
        self._kept = {name: _kept(test) for name, test in tests.items()}

    def of(self, table: pa.Table) -> dict[str, pa.Array]:
        """Returns a column of answers for each test."""
        self._rows += table.num_rows
        for name in [name for name in self._blank if table[name].null_count < table.num_rows]:
            del self._blank[name]
        if not self._tests:
            return {}
        answers: dict[str, list[bool | None]] = {name: [] for name in self._tests}
        for text, id_ in zip(table[METADATA].to_pylist(), table["id"].to_pylist(), strict=True):
            fields = _fields(text, id_)
            if len(self._names) < _MOST_NAMES:
                self._names.update(name[:_MOST_CHARS] for name in fields)
            for name, test in self._tests.items():
                value = fields.get(test.field)
                self._has[name] += not is_missing(value)
                is_small = isinstance(value, int | float | None) or isinstance(value, str) and len(value) < _MOST_CHARS
                answers[name].append(self._kept[name](type(value).__name__, value) if is_small else test.answer(value))
        for name, column in answers.items():
            self._answered[name] += len(column) - column.count(None)
        return {name: pa.array(column, pa.bool_()) for name, column in answers.items()}

    def check(self, folder: str, flag: str) -> None:
        """Raises a `UserError` for the first test, of columns or of fields, that no row has a value for."""
        for name, at in self._blank.items() if self._rows else ():
            raise UserError(
                f"{flag}: character {at}: no row of {folder} has a value of {name!r}, so none can be compared; "
                f"`{name} is null` finds them"
            )
        for name, test in self._tests.items() if self._rows else ():
            place, field = f"{flag}: character {test.place}", ascii(test.field[:_MOST_CHARS])
            if not self._has[name]:
                near = f"{nearest(test.field, sorted(self._names))}; " if self._names else ""
                raise UserError(
                    f"{place}: {field} is no column of {folder}, and no row has it in its metadata; {near}"
                    f"{where.known_columns()}"
                )
            if not self._answered[name]:
                raise UserError(f"{place}: no row of {folder} has a value of {field} that can be compared so")


def _kept(test: FieldTest) -> Callable[[str, Any], bool | None]:
    """Returns the function of a test that remembers its answers, by type too: 1, 1.0 and true are one key otherwise."""
    return functools.lru_cache(_KEPT_ANSWERS)(lambda _, value: test.answer(value))


def _fields(text: str | None, id_: int) -> dict[str, Any]:
    """Returns the fields of a row's metadata."""
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"row {id_}: its metadata is not JSON ({one_line(error)}); embed the memory again") from error
    return found if isinstance(found, dict) else {}
