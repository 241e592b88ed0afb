"""Filters over the columns of a memory, such as `similarity>=0.3 and LICENSE=cc0`: their language, and how it is read.

    filter    any ("or" any)*, where "and" binds closer, and "not" closer still; parentheses group
    test      NAME = VALUE      also !=, <, <=, >, >=; `==` and `<>` are known too
              NAME in (VALUE, VALUE, ..)      or `not in`
              NAME is null      or `is not null`
    NAME      a column of the memory, or else a field of its column `metadata`; `metadata.NAME` always is the field
    VALUE     a word without spaces and any of ( ) , = < > ! ' ", or a text in single or double quotes, where the quote
              itself is written twice; a name may be quoted too

As in SQL, a test of a row that has no such value is neither true nor false, so the row is not found, with `not` or
without, except by `is null`. Fields of the metadata are compared as by `filters.metadata` (docs/filters.md).
"""

import dataclasses
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import schemas
from pipelines.errors import UserError
from pipelines.filtering.conditions import Condition
from pipelines.sources.sample import is_missing

METADATA = "metadata"
MOST_CHARS = 50_000
_MOST_TESTS = 1000
_TOKEN = re.compile(r"""\s*(?:(?P<sign>==|=|!=|<>|<=|>=|<|>|\(|\)|,)|(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*")"""
                    r"""|(?P<word>[^\s()<>=!,'"]+))""")  # fmt: skip
_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SAME = {"==": "=", "<>": "!="}
_KEYWORDS = ("and", "or", "not", "in", "is", "null")
_NULL = pa.scalar(None, pa.bool_())
_SCHEMA = schemas.embeddings({"key": 1}, thumbnails=True)
COLUMNS = [
    field.name for field in _SCHEMA if not pa.types.is_fixed_size_list(field.type) and field.name != schemas.THUMBNAIL
]
_WHOLE, _MOST_WHOLE = re.compile(r"[+-]?[0-9]{1,30}"), 2**63
_NUMBER = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]{0,30})?|\.[0-9]{1,30})([eE][+-]?[0-9]{1,2})?")


@dataclasses.dataclass(frozen=True)
class FieldTest:
    """A test of a field of the metadata.

    Attributes:
        field: its name.
        place: of the name in the filter, counted from 1.
        condition: None for `is null`.
    """

    field: str
    place: int
    condition: Condition | None = None

    def answer(self, value: Any) -> bool | None:
        """Returns whether a value meets it; None if there is no value, or none that can be compared."""
        if self.condition is None:
            return is_missing(value)
        failure = self.condition.failure({self.field: value})
        return True if failure is None else False if failure == self.condition.text else None


@dataclasses.dataclass(frozen=True)
class Filter:
    """A filter that has been read.

    Attributes:
        text: as it was written.
        flag: how errors name it.
        expression: over `columns` of the memory and the columns that `tests` add.
        columns: that it reads.
        tests: of fields of the metadata, by the name of the column of booleans that each of them adds.
        compared: columns of the memory that are compared with a value, each with the place of its name, from 1.
    """

    text: str
    flag: str
    expression: pc.Expression
    columns: Sequence[str]
    tests: Mapping[str, FieldTest]
    compared: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class _Token:
    """A part of the text: its kind, `sign`, `quoted`, `word` or `end`, what it stands for, and where it begins."""

    kind: str
    value: str
    place: int

    def is_keyword(self, *names: str) -> bool:
        return self.kind == "word" and self.value.lower() in names


def parse(text: str, flag: str = "where") -> Filter:
    """Reads a filter.

    Args:
        text: of the filter.
        flag: how errors name it.

    Raises:
        UserError: if it is wrong; the sentence says where, and names the columns if one is unknown.
    """
    return _Parser(text, flag).parse()


class _Parser:
    """Reads a filter from left to right, one function for each rule."""

    def __init__(self, text: str, flag: str) -> None:
        self._text, self._flag = text, flag
        if len(text) > MOST_CHARS:
            raise UserError(f"{flag}: has more than {MOST_CHARS:,} characters")
        self._tokens, self._next = list(self._split()), 0
        self._columns: set[str] = set()
        self._tests: dict[str, FieldTest] = {}
        self._compared: dict[str, int] = {}
        self._count = 0

    def parse(self) -> Filter:
        try:
            found = self._any()
        except RecursionError as error:
            raise UserError(f"{self._flag}: has too many parentheses inside each other") from error
        if self._peek().kind != "end":
            raise self._wrong("expected `and`, `or` or the end")
        return Filter(self._text, self._flag, found, sorted(self._columns), self._tests, self._compared)

    def _split(self) -> Iterator[_Token]:
        place, end = 0, len(self._text.rstrip())
        while place < end:
            match = _TOKEN.match(self._text, place)
            if not match:
                begin = place + len(self._text[place:]) - len(self._text[place:].lstrip())
                quote = self._text[begin] in "'\""
                what = "is not closed" if quote else "has no meaning here"
                raise UserError(f"{self._flag}: character {begin + 1}: {self._text[begin]!a} {what}")
            kind = str(match.lastgroup)
            value = match.group(kind)
            if kind == "quoted":
                value = value[1:-1].replace(value[0] * 2, value[0])
            yield _Token(kind, value, match.start(kind))
            place = match.end()
        yield _Token("end", "", end)

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += token.kind != "end"
        return token

    def _took(self, sign: str) -> bool:
        is_next = self._peek().kind == "sign" and self._peek().value == sign
        self._next += is_next
        return is_next

    def _took_keyword(self, *names: str) -> bool:
        is_next = self._peek().is_keyword(*names)
        self._next += is_next
        return is_next

    def _wrong(self, expected: str, token: _Token | None = None) -> UserError:
        token = token or self._peek()
        found = f"found {token.value[:80]!a}" if token.kind != "end" else "the filter ends"
        return UserError(f"{self._flag}: character {token.place + 1}: {expected}, {found}")

    def _any(self) -> pc.Expression:
        found = [self._all()]
        while self._took_keyword("or"):
            found.append(self._all())
        return _balanced(operator.or_, found)

    def _all(self) -> pc.Expression:
        found = [self._one()]
        while self._took_keyword("and"):
            found.append(self._one())
        return _balanced(operator.and_, found)

    def _one(self) -> pc.Expression:
        if self._took_keyword("not"):
            return ~self._one()
        if self._took("("):
            found = self._any()
            if not self._took(")"):
                raise self._wrong("expected `)`")
            return found
        self._count += 1
        if self._count > _MOST_TESTS:
            raise UserError(f"{self._flag}: has more than {_MOST_TESTS:,} tests")
        return self._test()

    def _test(self) -> pc.Expression:
        name = self._take()
        if name.kind not in ("word", "quoted") or name.is_keyword(*_KEYWORDS):
            raise self._wrong("expected the name of a column", name)
        if self._took_keyword("is"):
            is_not = self._took_keyword("not")
            if not self._took_keyword("null"):
                raise self._wrong("expected `null`")
            missing = self._is_null(name)
            return ~missing if is_not else missing
        is_not = self._took_keyword("not")
        if self._took_keyword("in"):
            values = self._values()
            return self._compare(name, "!=" if is_not else "=", values)
        sign = self._take()
        comparison = _SAME.get(sign.value, sign.value)
        if is_not or sign.kind != "sign" or comparison not in _SIGNS:
            expected = "expected `in`" if is_not else "expected =, !=, <, <=, >, >=, `in`, `not in` or `is null`"
            raise self._wrong(expected, sign)
        return self._compare(name, comparison, [self._value()])

    def _values(self) -> list[_Token]:
        if not self._took("("):
            raise self._wrong("expected `(`")
        values = [self._value()]
        while self._took(","):
            values.append(self._value())
        if not self._took(")"):
            raise self._wrong("expected `,` or `)`")
        return values

    def _value(self) -> _Token:
        token = self._take()
        if token.kind not in ("word", "quoted") or token.is_keyword("and", "or", "not", "in", "is"):
            raise self._wrong("expected a value", token)
        if token.is_keyword("null"):
            raise self._wrong("expected a value (`is null` asks for none)", token)
        return token

    def _field(self, name: _Token) -> str | None:
        """Returns the field of the metadata that a name means; None for a column."""
        if name.value in _SCHEMA.names:
            if name.value not in COLUMNS:
                raise UserError(
                    f"{self._flag}: character {name.place + 1}: {name.value} holds vectors or pixels, which no test is "
                    f"for; {known_columns()}"
                )
            self._columns.add(name.value)
            return None
        self._columns.add(METADATA)
        return name.value.removeprefix(f"{METADATA}.")

    def _add(self, field: str, name: _Token, condition: Condition | None = None) -> pc.Expression:
        column = f"test {len(self._tests)}"
        self._tests[column] = FieldTest(field, name.place + 1, condition)
        return pc.field(column)

    def _is_null(self, name: _Token) -> pc.Expression:
        field = self._field(name)
        return pc.field(name.value).is_null() if field is None else self._add(field, name)

    def _compare(self, name: _Token, comparison: str, values: Sequence[_Token]) -> pc.Expression:
        field = self._field(name)
        if field is not None:
            sign = "==" if comparison == "=" else comparison
            try:
                return self._add(field, name, Condition.of(field, sign, [value.value for value in values]))
            except ValueError as error:
                raise UserError(f"{self._flag}: character {values[0].place + 1}: {error}") from error
        self._compared.setdefault(name.value, name.place + 1)
        kind = _SCHEMA.field(name.value).type
        if comparison not in ("=", "!=") and not pa.types.is_integer(kind):
            raise UserError(
                f"{self._flag}: character {name.place + 1}: {name.value} holds {_kind(kind)}, which have no order "
                "here; compare by =, != or in"
            )
        operands = [self._operand(name.value, kind, value) for value in values]
        column = pc.field(name.value)
        if len(operands) == 1:
            return _SIGNS[comparison](column, operands[0])
        is_one = pc.if_else(column.is_valid(), _balanced(operator.or_, [column == each for each in operands]), _NULL)
        return ~is_one if comparison == "!=" else is_one

    def _operand(self, name: str, kind: pa.DataType, value: _Token) -> Any:
        where = f"{self._flag}: character {value.place + 1}: {name} holds {_kind(kind)}"
        if pa.types.is_integer(kind) and _WHOLE.fullmatch(value.value):
            if not -_MOST_WHOLE <= int(value.value) < _MOST_WHOLE:
                raise UserError(f"{where} from -2**63 to 2**63 - 1, and {value.value} is beyond them")
        try:
            if pa.types.is_integer(kind):
                if _WHOLE.fullmatch(value.value):
                    return pa.scalar(int(value.value), pa.int64())
                if not _NUMBER.fullmatch(value.value):
                    raise ValueError("is no number")
                return pa.scalar(float(value.value), pa.float64())
            if pa.types.is_fixed_size_binary(kind):
                return pa.scalar(bytes.fromhex(value.value), kind)
            return pa.scalar(value.value, kind)
        except (ValueError, OverflowError, pa.ArrowException) as error:
            raise UserError(f"{where}, and {value.value[:80]!a} is not one") from error


def _balanced(join: Callable[[Any, Any], Any], parts: Sequence[Any]) -> Any:
    """Joins expressions two by two, so that they are no deeper inside each other than need be."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return join(_balanced(join, parts[:half]), _balanced(join, parts[half:]))


def _kind(kind: pa.DataType) -> str:
    """Returns what a column holds, in words."""
    if pa.types.is_integer(kind):
        return "whole numbers"
    return "digests of 64 hexadecimal digits" if pa.types.is_fixed_size_binary(kind) else "texts"


def known_columns() -> str:
    """Returns the names of the columns that a filter may test, as the end of a sentence."""
    return f"the columns are {', '.join(COLUMNS)}"
