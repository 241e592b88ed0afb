"""Config files and overrides: runs a config file, and sets fields of a config from text.

Which values a field takes is checked by `fields`, the command line is read by `options`.
"""

import dataclasses
import pathlib
import types
import typing
from collections.abc import Sequence
from typing import Any

import configs
from configs.base import Config
from pipelines.errors import UserError, nearest

# Modules of `configs` that are no experiments.
_NO_CONFIGS = ("__init__", "base", "published")


def load(path: str) -> Config:
    """Runs `get_config()` of a config file; `configs/x.py` is also found in the installed package.

    Raises:
        UserError: if there is no such file, or it does not return a `Config`.
    """
    file = pathlib.Path(path)
    installed = pathlib.Path(configs.__path__[0])
    if not file.exists() and file.parent.name == "configs":
        file = installed / file.name
    if not file.exists():
        known = sorted(f"configs/{f.name}" for f in installed.glob("*.py") if f.stem not in _NO_CONFIGS)
        raise UserError(f"--config={path}: no such file; {nearest(path, known)}")
    if file.suffix != ".py" or not file.is_file():
        raise UserError(f"--config={path}: is not a Python file")
    module = types.ModuleType(f"config_{file.stem}")
    module.__file__ = str(file)
    try:
        # Never from bytecode, which is out of date for a second after a file was changed.
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
        config = module.get_config()
    except Exception as error:
        raise UserError(f"--config={path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(f"--config={path}: get_config() must return a configs.base.Config, not {type(config).__name__}")
    return config


def parse_value(text: str, kind: Any, flag: str) -> Any:
    """Returns the value of a type that a text stands for; a `UserError` that names the flag if it is none."""
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return tuple(parse_value(part.strip(), item, flag) for part in text.split(",") if part.strip())
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UserError(f"{flag}={text}: must be true or false")
    try:
        return kind(text)
    except ValueError as error:
        raise UserError(f"{flag}={text}: must be of type {kind.__name__}") from error


def override(config: Any, path: Sequence[str], text: str, flag: str) -> Any:
    """Returns a copy of a dataclass with the field at `path` set from its text.

    Raises:
        UserError: if a name or the type is wrong; the sentence names the nearest right field.
    """
    hints = typing.get_type_hints(type(config))
    names = [field.name for field in dataclasses.fields(config)]
    head, rest = path[0], path[1:]
    if head not in names:
        raise UserError(f"{flag}: no field {head!r}; {nearest(head, names)}")
    value = getattr(config, head)
    if rest and not dataclasses.is_dataclass(value):
        raise UserError(f"{flag}: {head!r} has no fields below it")
    if not rest and dataclasses.is_dataclass(value):
        inner = [field.name for field in dataclasses.fields(value)]
        raise UserError(f"{flag}: name a field below {head!r}: {', '.join(inner)}")
    new = override(value, rest, text, flag) if rest else parse_value(text, hints[head], flag)
    return dataclasses.replace(config, **{head: new})
