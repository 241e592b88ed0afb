"""The shape of a JSON object: which entries it must have, and of which types."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from pipelines import storage
from pipelines.errors import UserError


def read_json(uri: str, shape: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """Reads a JSON object that `storage.write_json` wrote, and checks that it is whole and of a shape.

    Args:
        uri: of the file.
        shape: the entries that it must have, as `misshapen` takes them; others are allowed.
        remedy: what to do if it is not, the end of the error's sentence.

    Returns:
        The object without its seal.

    Raises:
        UserError: if it is missing, damaged, edited, of an older version, or of another kind.
    """
    value = storage.read_json(uri, remedy, sealed=True)
    if where := misshapen(value, shape):
        raise UserError(f"{uri}: is not a file of this kind and version ({where}); {remedy}")
    return dict(value)


def shape_of(kind: type) -> dict[str, Any]:
    """Returns the shape of a dataclass as a JSON object; entries with a default may be missing."""
    types = typing.get_type_hints(kind)
    return {
        field.name: _shape_of(types[field.name])
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }


def _shape_of(kind: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return shape_of(typing.cast(type, kind))
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        return {str: _shape_of(arguments[1])}
    if origin in (list, tuple):
        return [_shape_of(arguments[0])]
    return object if origin or kind is Any else kind


def misshapen(value: Any, shape: Any, where: str = "") -> str:
    """Returns what of a JSON value is not of a shape; empty if nothing is.

    Args:
        value: to check.
        shape: a type (`float` takes whole numbers, `int` takes no booleans, `object` takes all) or a tuple of types;
            `[shape]` for a list of such values; `{str: shape}` for an object of such values; or the entries that an
            object must have, by their names.
        where: path of the value.
    """
    parts: list[tuple[Any, Any, str]]
    if isinstance(shape, Mapping) and isinstance(value, dict):
        if missing := [name for name in shape if name is not str and name not in value]:
            return f"{where or 'it'} has no {missing[0]!r}"
        known = {name: shape.get(str, shape.get(name)) for name in value if str in shape or name in shape}
        parts = [(value[name], kind, f"{where}.{name}" if where else name) for name, kind in known.items()]
    elif isinstance(shape, list) and isinstance(value, list):
        parts = [(part, shape[0], f"{where}[{number}]") for number, part in enumerate(value)]
    else:
        kinds = shape if isinstance(shape, tuple) else (shape,)
        is_right = type(value) in kinds or object in kinds or (type(value) is int and float in kinds)
        return "" if is_right else f"{where or 'it'} is {'of another type' if where else 'no object'}"
    return next(filter(None, (misshapen(*part) for part in parts)), "")
