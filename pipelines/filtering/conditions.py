"""Conditions on the fields of a row, such as `similarity>=0.3`: how they are parsed, and how values are compared.

The value of a condition is text until it meets a field. A text is compared with it as text, a number as a number,
a boolean as true or false. No value is rounded: integers beyond 2^53 differ if one digit does.
"""

import dataclasses
import decimal
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipelines.errors import UserError
from pipelines.sources.sample import is_missing

_CONDITION = re.compile(r"([^<>=!]+?)\s*(==|!=|>=|<=|>|<)\s*([^=\s].*)")
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
# Python's own parsers also take `12_3`, `nan`, `inf` and digits of other scripts.
_NUMBER = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,4})?")
_TRUTHS = {"true": True, "false": False}
_DIGITS = {"1": True, "0": False}

_MISSING, _NOT_COMPARABLE = " (missing)", " (not comparable)"


@dataclasses.dataclass(frozen=True)
class _Number:
    """A number that a text writes: exact, and as the float that JSON has for the same digits."""

    exact: int | decimal.Decimal
    rounded: float

    @classmethod
    def parse(cls, text: str) -> "_Number | None":
        """Returns the number that a text writes; None for any other text."""
        text = text.strip()
        if not _NUMBER.fullmatch(text):
            return None
        exact = int(text) if text.lstrip("+-").isdigit() else decimal.Decimal(text)
        return cls(exact, float(text))

    def beside(self, found: int | float | decimal.Decimal) -> Any:
        """Returns the number to compare a value with: 0.3 is the float 0.3, but next to an integer it is 3/10."""
        return self.rounded if isinstance(found, float) and not isinstance(self.exact, int) else self.exact


@dataclasses.dataclass(frozen=True)
class _Operand:
    """A value that a condition names."""

    text: str
    number: _Number | None
    truth: bool | None

    @classmethod
    def of(cls, text: str) -> "_Operand":
        number = _Number.parse(text)
        truth = _TRUTHS.get(text.strip().lower())
        if truth is None and number and number.exact in (0, 1):
            truth = bool(number.exact)
        return cls(text, number, truth)

    def equals(self, found: Any) -> bool | None:
        """Tells whether a field has this value; None if the two cannot be compared."""
        if isinstance(found, bool):
            return None if self.truth is None else found == self.truth
        if isinstance(found, int | float):
            if self.number:
                return bool(found == self.number.beside(found))
            # Flags are booleans in one file and 0 and 1 in the next.
            return found == self.truth if self.truth is not None and found in (0, 1) else False
        if isinstance(found, str):
            # Tables of text, such as CSV, have no other flags.
            word = found.strip().lower()
            if self.truth is not None and (word in _TRUTHS or (word in _DIGITS and self.number is None)):
                return self.truth == {**_TRUTHS, **_DIGITS}[word]
            return found == self.text
        return None


@dataclasses.dataclass(frozen=True)
class Condition:
    """A condition on one field of a row, such as `similarity>=0.3`.

    Attributes:
        text: as it was written; rows that do not meet the condition are counted under it.
        field: of the metadata, or `label`, `url`, `caption`, `width`, `height`.
        operator: `==`, `!=`, `>=`, `<=`, `>` or `<`.
        values: to compare the field with; more than one only for `==` (any of them) and `!=` (none of them).
    """

    text: str
    field: str
    operator: str
    values: tuple[_Operand, ...]

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Parses a condition; a `UserError` if it is wrong."""
        match = _CONDITION.fullmatch(text.strip())
        if not match:
            raise UserError(
                f"--config.filters.metadata={text}: must be field, ==, !=, >=, <=, > or <, and a value, such as "
                "similarity>=0.3"
            )
        field, comparison, value = match.groups()
        try:
            return cls.of(field, comparison, value.split("|") if comparison in ("==", "!=") else [value], text)
        except ValueError as error:
            raise UserError(f"--config.filters.metadata={text}: {error}") from error

    @classmethod
    def of(cls, field: str, comparison: str, values: Iterable[str], text: str = "") -> "Condition":
        """Returns a condition; a `ValueError` if an order is asked for and the value is no number."""
        operands = tuple(map(_Operand.of, values))
        if comparison in _ORDER and operands[0].number is None:
            raise ValueError(f"{comparison} needs a number, not {operands[0].text!r}")
        return cls(text, field, comparison, operands)

    def holds(self, fields: Mapping[str, Any]) -> bool:
        """Tells whether a row has the field and it meets the condition."""
        return self.failure(fields) is None

    def failure(self, fields: Mapping[str, Any]) -> str | None:
        """Returns under which name a row is counted that does not meet the condition; None if it does.

        That is the condition; with `(missing)` after it if the row lacks the field or has null or NaN there, and with
        `(not comparable)` if no answer would be right, such as for `size>3` and the text `large`.
        """
        found = fields.get(self.field)
        if is_missing(found):
            return self.text + _MISSING
        answer = self._ordered(found) if self.operator in _ORDER else self._equal(found)
        if answer is None:
            return self.text + _NOT_COMPARABLE
        return None if answer else self.text

    def _ordered(self, found: Any) -> bool | None:
        if isinstance(found, str):
            # Tables of text, such as CSV, have no other numbers.
            parsed = _Number.parse(found)
            found = parsed.exact if parsed else None
        if not isinstance(found, int | float | decimal.Decimal):
            return None
        number = self.values[0].number
        return None if number is None else _ORDER[self.operator](found, number.beside(found))

    def _equal(self, found: Any) -> bool | None:
        answers = [value.equals(found) for value in self.values]
        if all(answer is None for answer in answers):
            return None
        return any(answers) == (self.operator == "==")

    def remark(self, filtered: Mapping[str, int], kept: int) -> str | None:
        """Returns what is odd about the rows that the condition let pass or not; None if nothing is.

        Args:
            filtered: rows by the name under which they are counted.
            kept: rows that met all conditions.
        """
        failed, missing, odd = (filtered.get(self.text + why, 0) for why in ("", _MISSING, _NOT_COMPARABLE))
        if kept:
            is_idle = self.operator == "!=" and not failed + missing + odd
            return f"{self.text} excluded no row, check how the source writes {self.field!r}" if is_idle else None
        if missing and not failed + odd:
            return f"no row has the field {self.field!r} of {self.text}"
        return f"no row can meet {self.text}" if failed + odd else None


def remarks(conditions: Iterable[str], filtered: Mapping[str, int], kept: int) -> list[str]:
    """Returns what is odd about the rows that conditions let pass or not; arguments as of `Condition.remark`."""
    found = [Condition.parse(text).remark(filtered, kept) for text in conditions]
    return [remark for remark in found if remark]
