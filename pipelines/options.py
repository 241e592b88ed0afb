"""Command line to configuration: loads a config file, applies `--config.a.b=value`, words every mistake.

Owns the `main` that all commands share: a `UserError` ends in one sentence and exit code 2, never a traceback.
Which flags Beam understands is left to `runner`; what the fields mean to `configs.base`.
"""

import argparse
import dataclasses
import difflib
import importlib.util
import logging
import math
import pathlib
import sys
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import configs
from configs.base import Config
from pipelines import generation
from pipelines.errors import UserError

_OVERRIDE = "--config."


def nearest(wrong: str, right: Sequence[str]) -> str:
    """Returns `did you mean 'x'?` with the nearest right name, or all of them where none is near."""
    found = difflib.get_close_matches(wrong, right, n=1, cutoff=0.5)
    return f"did you mean {found[0]!r}?" if found else f"known are {', '.join(sorted(right))}"


def load_config(path: str) -> Config:
    """Runs `get_config()` of a config file; `configs/x.py` is also found in the installed package.

    Raises:
        UserError: if there is no such file, or it does not return a `Config`.
    """
    file = pathlib.Path(path)
    installed = pathlib.Path(configs.__path__[0])
    if not file.exists() and file.parent.name == "configs":
        file = installed / file.name
    if not file.exists():
        known = sorted(f"configs/{f.name}" for f in installed.glob("*.py") if f.stem not in ("__init__", "base"))
        raise UserError(f"--config={path}: no such file; {nearest(path, known)}")
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path}: is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:
        raise UserError(f"--config={path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, Config):
        raise UserError(f"--config={path}: get_config() must return a configs.base.Config, not {type(config).__name__}")
    return config


def _parse_value(text: str, kind: Any, flag: str) -> Any:
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return tuple(_parse_value(part.strip(), item, flag) for part in text.split(",") if part.strip())
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
    new = override(value, rest, text, flag) if rest else _parse_value(text, hints[head], flag)
    return dataclasses.replace(config, **{head: new})


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the fields of nested dataclasses as `{"index.shards": 2}`."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{field.name}.")
        else:
            flat[f"{prefix}{field.name}"] = value
    return flat


def _help_of_fields(config: Config) -> str:
    lines = [
        f"  --config.{name}={','.join(map(str, v)) if isinstance(v, tuple) else v}"
        for name, v in flatten(config).items()
    ]
    return "config fields and their values:\n" + "\n".join(lines)


def parse(
    argv: Sequence[str],
    description: str,
    switches: Mapping[str, str] | None = None,
    values: Mapping[str, tuple[Any, str]] | None = None,
) -> tuple[Config, dict[str, Any], list[str]]:
    """Parses a command line.

    Args:
        argv: arguments without the program's name.
        description: first line of `--help`.
        switches: flags that are on or off, with their help.
        values: flags that have a value, with their default, which says their type, and their help.

    Returns:
        The resolved config, switches and values by name, and the arguments that are not ours, in order.

    Raises:
        UserError: for a config or override that is wrong.
    """
    parser = argparse.ArgumentParser(
        description=description,
        add_help=False,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="config file, such as configs/demo.py")
    parser.add_argument("--help", "-h", action="store_true", help="show this and every config field")
    for name, text in (switches or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    for name, (_, text) in (values or {}).items():
        parser.add_argument(f"--{name}", metavar=name.upper(), help=text)
    overrides = [arg for arg in argv if arg.startswith(_OVERRIDE)]
    known, rest = parser.parse_known_args([arg for arg in argv if not arg.startswith(_OVERRIDE)])
    config = load_config(known.config) if known.config else Config()
    for arg in overrides:
        flag, equals, text = arg.partition("=")
        if not equals:
            raise UserError(f"{flag}: give the value as {flag}=VALUE")
        config = override(config, flag[len(_OVERRIDE) :].split("."), text, flag)
    if known.help:
        parser.epilog = _help_of_fields(config)
        parser.print_help()
        raise SystemExit(0)
    for name, value in flatten(config).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
            raise UserError(f"{_OVERRIDE}{name}={value}: must be finite")
    if not known.config:
        raise UserError("--config is missing: name a config file, such as --config=configs/demo.py")
    chosen = {name: getattr(known, name) for name in switches or {}}
    for name, (default, _) in (values or {}).items():
        text = getattr(known, name)
        chosen[name] = default if text is None else _parse_value(text, type(default), f"--{name}")
    return config, chosen, rest


def main(
    run: Callable[..., None],
    description: str,
    argv: Sequence[str] | None = None,
    beam: bool = False,
    switches: Mapping[str, str] | None = None,
    values: Mapping[str, tuple[Any, str]] | None = None,
) -> int:
    """Runs a command and returns its exit code.

    Args:
        run: takes the config and the arguments left for Beam, and each switch and value by its name.
        description: first line of `--help`.
        argv: arguments; those of the process by default.
        beam: whether unknown arguments go to Beam; otherwise they are an error.
        switches: flags of this command that are on or off, with their help.
        values: flags of this command that have a value, with their default and their help.
    """
    # What libraries warn of is not for the person at the keyboard.
    logging.basicConfig(level=logging.ERROR)
    warnings.simplefilter("ignore")
    # Its runners print the traceback of a worker before they raise it; we word it once.
    logging.getLogger("apache_beam.runners").setLevel(logging.CRITICAL)
    try:
        config, chosen, rest = parse(sys.argv[1:] if argv is None else argv, description, switches, values)
        if rest and not beam:
            known = ["--config", "--help", *(f"--{name}" for name in chosen)]
            raise UserError(f"{rest[0]}: unknown flag; {nearest(rest[0], known)}")
        run(generation.resolve(config), rest, **chosen)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
