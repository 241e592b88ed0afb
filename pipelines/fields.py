"""Fields of a config: checks them, sets them from text, describes them for `--help` and docs/config.md.

What a field means and which values it takes is declared in `configs.schema`.
"""

import dataclasses
import math
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from configs.base import Config, DemoConfig, TwoTowerConfig
from configs.schema import fields as declarations
from configs.schema.fields import Field
from pipelines.errors import UserError, nearest

_WIDTH = 100
_COLUMN = 40
_PASSWORD = re.compile(r"://[^\s/?#]*:[^\s/?#]*@")
_T = typing.TypeVar("_T")
# Differences between two configurations that an error shows.
_MOST_SHOWN = 3
# The fields of the config itself.
TOP = "config"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A field with a value: its name such as `index.shards`, its declaration, its type and the value."""

    name: str
    field: Field
    kind: Any
    value: Any

    @property
    def shown(self) -> str:
        """The value as it is written on the command line."""
        return ",".join(map(str, self.value)) if isinstance(self.value, tuple) else str(self.value)


def leaves(section: Any, prefix: str = "") -> Iterator[Leaf]:
    """Yields the fields of a section and of the sections in it; a `UserError` if one is no section."""
    kinds = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value, kind = getattr(section, field.name), kinds[field.name]
        if dataclasses.is_dataclass(kind) and not dataclasses.is_dataclass(value):
            wanted = getattr(kind, "__name__", "")
            raise UserError(f"--config.{prefix}{field.name}: must be {wanted}(..), not of type {type(value).__name__}")
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield Leaf(f"{prefix}{field.name}", declarations.of(field), kind, value)


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
    kinds = typing.get_type_hints(type(config))
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
    new = override(value, rest, text, flag) if rest else parse_value(text, kinds[head], flag)
    return dataclasses.replace(config, **{head: new})


def check(section: Any, prefix: str = "") -> None:
    """Checks every field of a config, or of a section whose name is the prefix (`train.`).

    Raises:
        UserError: names the first field that is wrong, its value, and what it takes.
    """
    for problem in problems(section, prefix):
        raise UserError(problem)


def problems(section: Any, prefix: str = "") -> Iterator[str]:
    """Yields a sentence for each field that `check` refuses; those that do not fit others only if each is right."""
    is_right = True
    try:
        found = list(leaves(section, prefix))
    except UserError as error:
        yield str(error)
        return
    for leaf in found:
        try:
            _check(leaf)
        except UserError as error:
            is_right = False
            yield str(error)
    if is_right:
        yield from (f"--config.{leaf.name}={leaf.shown}: {problem}" for leaf, problem in _problems(section, prefix))


def restore(kind: type[_T], value: Any, prefix: str = "") -> _T:
    """Returns a section that was stored as a JSON object, with every field checked; fields that it lacks have defaults.

    Args:
        kind: of the section.
        value: what `dataclasses.asdict` and JSON made of one.
        prefix: its name with a dot, for errors.

    Raises:
        UserError: if it is of another kind, or a field is unknown or wrong.
    """
    section = _restored(kind, value, prefix)
    check(section, prefix)
    return typing.cast(_T, section)


def _restored(kind: Any, value: Any, prefix: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{prefix.rstrip('.') or kind.__name__}: is no object of fields")
    kinds = typing.get_type_hints(kind)
    if unknown := [name for name in value if name not in kinds]:
        raise UserError(f"{prefix}{unknown[0]}: unknown field; it was stored by another version")
    parts = {}
    for name, part in value.items():
        if dataclasses.is_dataclass(kinds[name]):
            parts[name] = _restored(kinds[name], part, f"{prefix}{name}.")
        else:
            parts[name] = tuple(part) if isinstance(part, list) else part
    return kind(**parts)


def line_problems(config: Config) -> list[str]:
    """Returns what a later stage would refuse although each field is right: a sentence for each problem."""
    known = {leaf.name: leaf for leaf in leaves(config)}
    return [f"--config.{name}={known[name].shown}: {problem}" for name, problem in config.line_problems()]


def _check(leaf: Leaf) -> None:
    flag, field, value = f"--config.{leaf.name}", leaf.field, leaf.value
    values = value if isinstance(value, tuple | list) else (value,)
    if any(isinstance(text, str) and _PASSWORD.search(text) for text in values):
        # Not shown, and not stored: paths are in many files of a run.
        raise UserError(f"{flag}: has a URL with a password; leave it out, and give it in fsspec's own configuration")
    if not _is_of(leaf.kind, value):
        raise UserError(f"{flag}={value!r}: must be {_described(leaf.kind)}, not of type {type(value).__name__}")
    if field.required and not values:
        raise UserError(f"{flag}: must hold at least one value")
    if field.choices and (unknown := [choice for choice in values if choice not in field.choices]):
        raise UserError(f"{flag}={unknown[0]}: unknown; {nearest(unknown[0], field.choices)}")
    if field.distinct and len(set(values)) < len(values):
        raise UserError(f"{flag}={leaf.shown}: names a value twice")
    if not all(math.isfinite(number) for number in values if isinstance(number, float)):
        raise UserError(f"{flag}={leaf.shown}: must be finite")
    if not field.holds(value):
        raise UserError(f"{flag}={leaf.shown}: must be {field.span}")


def _is_of(kind: Any, value: Any) -> bool:
    """Tells whether a value has a type; a whole number is a float, too, and true is no number."""
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return isinstance(value, tuple) and all(_is_of(item, part) for part in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _described(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0].__name__
        return f"a tuple of {item}, such as ({'0.5' if item == 'float' else '1' if item == 'int' else repr('name')},)"
    return f"of type {kind.__name__}"


def _problems(section: Any, prefix: str) -> Iterator[tuple[Leaf, str]]:
    """Yields the fields that do not fit the others, and why, inner sections first."""
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(value := getattr(section, field.name)):
            yield from _problems(value, f"{prefix}{field.name}.")
    if hasattr(section, "problems"):
        known = {leaf.name: leaf for leaf in leaves(section, prefix)}
        yield from ((known[f"{prefix}{name}"], problem) for name, problem in section.problems())


def groups(config: Config) -> dict[str, Any]:
    """Returns the sections of a config by name, `config` for its own fields; those of `train` follow it."""
    found: dict[str, Any] = {TOP: config}
    for field in dataclasses.fields(config):
        section = getattr(config, field.name)
        if dataclasses.is_dataclass(section):
            found[field.name] = section
            inner = [f.name for f in dataclasses.fields(section) if dataclasses.is_dataclass(getattr(section, f.name))]
            found |= {f"{field.name}.{name}": getattr(section, name) for name in inner}
    return found


def _own(group: str, section: Any) -> list[Leaf]:
    prefix = "" if group == TOP else f"{group}."
    return [leaf for leaf in leaves(section, prefix) if "." not in leaf.name.removeprefix(prefix)]


def _meaning(field: Field) -> str:
    """Returns what a field means and takes: `How trials are chosen (grid, random, optuna).`."""
    takes = ", ".join(field.choices) or field.span
    return f"{field.help.rstrip('.')} ({takes})." if takes else field.help


def _summary(section: Any) -> str:
    kind = Config if isinstance(section, Config) else type(section)
    return str(kind.__doc__).splitlines()[0]


def help_text(config: Config, group: str = "") -> str:
    """Returns the fields of all groups, or of one, a line each: flag with its value, meaning, choices or bounds.

    Raises:
        UserError: if there is no such group.
    """
    found = groups(config)
    if group and group not in found:
        raise UserError(f"--help={group}: no such group of fields; {nearest(group, list(found))}")
    lines: list[str] = []
    for name in [group] if group else list(found):
        lines += ["", *textwrap.wrap(f"{name}: {_summary(found[name])}", _WIDTH)]
        for leaf in _own(name, found[name]):
            flag = f"  --config.{leaf.name}={leaf.shown}"
            wrapped = textwrap.wrap(_meaning(leaf.field), _WIDTH - _COLUMN - 2)
            if len(flag) <= _COLUMN:
                lines.append(f"{flag:{_COLUMN}}  {wrapped.pop(0)}")
            else:
                lines.append(flag)
            lines += [f"{'':{_COLUMN}}  {line}" for line in wrapped]
    return "\n".join(lines[1:])


def difference(theirs: Any, ours: Any) -> str:
    """Returns the first fields in which two JSON values differ: `encoders.key.dim was 12 and is now 8 (2 more ..)`."""
    before, now = dict(_leaves(theirs)), dict(_leaves(ours))
    different = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    shown = [f"{name} was {_shown(before, name)} and is now {_shown(now, name)}" for name in different[:_MOST_SHOWN]]
    return ", ".join(shown) + (f" ({len(different) - len(shown)} more differ)" if len(different) > len(shown) else "")


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    return repr(leaves[name]) if name in leaves else "not set"


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        yield name, value
        return
    for key, part in value.items():
        yield from _leaves(part, f"{name}.{key}" if name else key)


def markdown() -> str:
    """Returns docs/config.md: every field with its default, its meaning, and the values it takes."""
    intro = (
        "Every field of `configs.base.Config`, made from the declarations in `configs/schema/` by "
        "`python -m pipelines.fields > docs/config.md`. On the command line a field is set by "
        "`--config.GROUP.FIELD=VALUE`, a list by commas. [I] marks what is inferred, not taken from the paper "
        "([method.md](method.md))."
    )
    parts = ["# Config fields\n", textwrap.fill(intro, 120, break_on_hyphens=False) + "\n"]
    for name, section in (groups(DemoConfig()) | groups(TwoTowerConfig())).items():
        parts.append(f"## {name}\n\n{_summary(section)}\n")
        rows = ["| field | default | meaning | values |", "|---|---|---|---|"]
        for leaf in _own(name, section):
            takes = ", ".join(f"`{choice}`" for choice in leaf.field.choices) or leaf.field.span
            cells = (f"`{leaf.name}`", f"`{leaf.shown}`" if leaf.shown else "", leaf.field.help, takes)
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(markdown(), end="")
