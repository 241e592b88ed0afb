"""The wire format of protocol buffers, as far as an ONNX file needs it: numbered fields, read without copying."""

from collections.abc import Iterator

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_WIDTHS = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_MAX_VARINT_BYTES = 10
_SIGN = 1 << 63

Value = int | memoryview


def fields(message: Value) -> Iterator[tuple[int, Value]]:
    """Yields number and value of each field of a message: an int, or the bytes of all that is no varint.

    Raises:
        ValueError: if the bytes are not a message.
    """
    data, place = raw(message), 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == _BYTES:
            length, place = _varint(data, place)
        elif kind in _WIDTHS:
            length = _WIDTHS[kind]
        else:
            raise ValueError(f"a field has the type {kind}")
        if not number or length > len(data) - place:
            raise ValueError("a field ends after its message")
        yield number, data[place : place + length]
        place += length


def raw(value: Value) -> memoryview:
    """Returns the bytes of a field; a `ValueError` if it holds a number."""
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return value


def text(value: Value) -> str:
    """Returns the text of a field; a `ValueError` if it holds none."""
    return str(raw(value), "utf-8")


def integers(value: Value) -> list[int]:
    """Returns the signed integers of a field, which is one of them or, packed, any number."""
    if isinstance(value, int):
        return [value - 2 * _SIGN if value >= _SIGN else value]
    found, place = [], 0
    while place < len(value):
        number, place = _varint(value, place)
        found += integers(number)
    return found


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Returns a varint and the place after it."""
    number = 0
    for shift, byte in enumerate(data[place : place + _MAX_VARINT_BYTES]):
        number |= (byte & 127) << (7 * shift)
        if byte < 128:
            return number, place + shift + 1
    raise ValueError("a number has no end")
