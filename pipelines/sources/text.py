"""What the parsers of lists share: their files, and bounded streams of lines (`class_names`) and of JSON objects."""

import io
import json
from collections.abc import Iterator
from typing import Any

from configs.base import Source
from pipelines import storage
from pipelines.class_names import BLOCK_BYTES, open_text
from pipelines.class_names import decode_line as decode_line
from pipelines.class_names import read_lines as read_lines
from pipelines.class_names import read_raw_lines as read_raw_lines
from pipelines.errors import UserError
from pipelines.sources import patterns


def files(source: Source) -> list[str]:
    """Returns the lists that a source names, sorted; errors as `patterns.files`."""
    return [file.uri for file in patterns.files(source.path)]


def read_json_arrays(uri: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yields the objects of the arrays of a JSON object in order: name of the array, place in it, the object.

    `{"images": [{..}, {..}], "year": 2021}` yields `("images", 0, {..})` and `("images", 1, {..})`; other values are
    skipped. A file of any size is read in the memory of a few objects.

    Raises:
        UserError: if the file is not such JSON, with the place.
    """
    with open_text(uri) as file:
        scanner = _Scanner(file)
        try:
            yield from scanner.arrays()
        except (ValueError, RecursionError) as error:
            problem = getattr(error, "msg", error)
            raise UserError(f"{uri}: is not the JSON that is expected, {scanner.place} ({problem})") from error
        except storage.BROKEN_STREAM as error:
            raise UserError(f"{uri}: breaks off, {scanner.place} ({error})") from error


class _Scanner:
    """Reads JSON values from a stream, each no longer than a block."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8-sig")
        self._decode = json.JSONDecoder().raw_decode
        self._buffer, self._at, self._ended = "", 0, False
        self.place = "at its start"

    def _more(self) -> bool:
        if self._ended or len(self._buffer) - self._at > 2 * BLOCK_BYTES:
            return False
        block = self._text.read(BLOCK_BYTES)
        self._buffer, self._at, self._ended = self._buffer[self._at :] + block, 0, not block
        return not self._ended

    def _peek(self) -> str:
        """Returns the next character that is not a space, or nothing at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at : self._at + 1]

    def _take(self, expected: str) -> str:
        found = self._peek()
        if not found or found not in expected:
            raise ValueError(f"found {found or 'the end'}, expected one of {expected}")
        self._at += 1
        return found

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
                # A number may continue in the next block.
                if end < len(self._buffer) or not self._more():
                    self._at = end
                    return value
            except ValueError:
                if not self._more():
                    raise

    def arrays(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        self._take("{")
        separator = "," if self._peek() != "}" else self._take("}")
        while separator == ",":
            name = self._value()
            self.place = f"at {str(name)[:80]!r}"
            self._take(":")
            if self._peek() == "[":
                self.place = f"at entry 0 of {str(name)[:80]!r}"
                for index, value in enumerate(self._elements()):
                    if not isinstance(value, dict):
                        raise ValueError(f"is of type {type(value).__name__}, not an object")
                    yield str(name), index, value
                    self.place = f"at entry {index + 1} of {str(name)[:80]!r}"
            else:
                self._value()
            separator = self._take(",}")
        if self._peek():
            raise ValueError("something follows its end")

    def _elements(self) -> Iterator[Any]:
        self._take("[")
        separator = "," if self._peek() != "]" else self._take("]")
        while separator == ",":
            yield self._value()
            separator = self._take(",]")
