"""The Parquet table that img2dataset writes beside each tar, joined with it by key.

Columns that a user adds to it become metadata. Labels and scores are joined in other tools, which may store keys as
numbers; a table that is not of its tar is an error, because its columns would be missing without a word.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipelines.errors import UserError
from pipelines.sources.files.parquet import BrokenParquet, Table, check_single, open_table, readable_columns, row_values

_MAX_TABLE_BYTES = 256 << 20
_KEY = "key"
_MAX_DIGITS = 80
# If none of so many keys of a tar is in its table, none will be.
_ENOUGH_KEYS = 1000
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)


class Sibling:
    """The table beside a tar: its rows by key, and how many keys of the tar have one.

    A column of numbers is compared with the tar's keys as numbers, since zeros before them are lost there.
    """

    def __init__(self, uri: str, single: Mapping[str, tuple[str, ...]]) -> None:
        """Reads the table.

        Args:
            uri: of the table.
            single: the names of our fields that may not be lists, as `sample.field_names` returns them.

        Raises:
            UserError: if it is not a whole Parquet file, has no keys, has lists of labels, or would not fit into
                memory.
        """
        self._uri, self._asked, self._found, self._missing = uri, 0, 0, ""
        self._rows: dict[str | int, dict[str, Any] | ValueError] = {}
        try:
            with open_table(uri) as table:
                check_single(table.schema, single, uri)
                self._read(table)
        except (BrokenParquet, ValueError) as error:
            raise UserError(f"{uri}: is not a whole Parquet file ({error}); remove it or repair it") from error

    def _read(self, table: Table) -> None:
        columns = readable_columns(table.schema, {_KEY})
        if _KEY not in columns:
            raise UserError(f"{self._uri}: has no column 'key' to join it with its tar; remove it or repair it")
        kind = table.schema.field(_KEY).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        self._by_number = any(is_kind(kind) for is_kind in _NUMBERS)
        others, size = [name for name in columns if name != _KEY], 0
        for batch in (batch for group in range(len(table.group_rows)) for batch in table.batches(group, columns)):
            for number in range(len(batch)):
                key = self._key(row_values(batch, number, [_KEY])[_KEY])
                if key is None:
                    continue
                try:
                    values = row_values(batch, number, others)
                except ValueError as error:
                    self._rows[key] = error
                    continue
                size += sum(len(value) if isinstance(value, str) else 64 for value in values.values())
                if size > _MAX_TABLE_BYTES:
                    raise UserError(f"{self._uri}: has more than {_MAX_TABLE_BYTES:,} bytes of metadata; split it")
                self._rows[key] = values

    def _key(self, value: Any) -> str | int | None:
        """Returns a key as it is looked up; None for a row without one."""
        if not self._by_number:
            return value.decode() if isinstance(value, bytes) else None if value is None else str(value)
        try:
            return int(value) if value == int(value) else None
        except (TypeError, ValueError, OverflowError):
            return None

    def row(self, key: str) -> dict[str, Any]:
        """Returns the row of a key of the tar, empty if there is none.

        Raises:
            ValueError: if the row has a value that does not fit its type.
            UserError: as `check`, if none of the tar's first keys has a row.
        """
        row: dict[str, Any] | ValueError | None
        if self._by_number:
            row = self._rows.get(int(key)) if key.isascii() and key.isdigit() and len(key) <= _MAX_DIGITS else None
        else:
            row = self._rows.get(key)
        self._asked += 1
        if row is None:
            self._missing = self._missing or key
            if self._asked == _ENOUGH_KEYS:
                self.check(most_missing=1)
            return {}
        self._found += 1
        if isinstance(row, ValueError):
            raise row
        return row

    def check(self, most_missing: float = 0.5) -> None:
        """Raises a `UserError` if the table is not of its tar: if this share of the keys, or more, has no row."""
        if self._asked and self._asked - self._found >= max(most_missing * self._asked, 1):
            first = ", ".join(repr(key) for key in itertools.islice(self._rows, 2))[:200] or "none"
            raise UserError(
                f"{self._uri}: has rows for {self._found:,} of {self._asked:,} keys of its tar; the tar has "
                f"{self._missing[:80]!r}, the table's first keys are {first}; repair its column 'key' or remove it"
            )
