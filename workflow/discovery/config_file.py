"""The text of a config: Python that a person reads and changes."""

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping

from configs.base import Source, Train

_WIDTH = 100
ALL_VECTORS = "All vectors are used as they are; `images` may be any name for the model that made them."
PAIR_VECTORS = (
    "TO DO: the memory is vectors and the labelled images are pictures, so name the encoder that made the vectors: "
    "encoders.key='its handle' (docs/encoders.md)."
)


@dataclasses.dataclass(frozen=True)
class Draft:
    """What a config is to say.

    Attributes:
        name: of the config.
        sources: of each field, `memory` and the splits, with the comments above it.
        class_names: file of the class names; empty for none.
        vectors_note: what is said of these vectors.
        texts: whether the memory has captions.
        vectors: columns that the memory brings as vectors, if it does.
        notes: what is said of the whole.
    """

    name: str
    sources: Mapping[str, tuple[Source, tuple[str, ...]]]
    class_names: str = ""
    texts: bool = True
    vectors: tuple[str, ...] = ()
    vectors_note: str = ""
    notes: tuple[str, ...] = ()


def comment(text: str, indent: str) -> list[str]:
    """Returns lines of a comment; nothing in the text can end it."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return textwrap.wrap(plain, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _source(source: Source, indent: str) -> str:
    """Returns a source as Python, on several lines if it is long."""
    defaults = Source()
    names = [field.name for field in dataclasses.fields(Source)]
    given = [name for name in names if name == "format" or getattr(source, name) != getattr(defaults, name)]
    fields = [f"{name}={literal(getattr(source, name))}" for name in given]
    inline = ", ".join(fields)
    if len(inline) + len(indent) < _WIDTH:
        return f"Source({inline})"
    return "\n".join(["Source(", *(f"{indent}    {field}," for field in fields), f"{indent})"])


def _cut(draft: Draft) -> Source | None:
    """Returns the source of which all splits are parts; None if they are not parts of one."""
    splits = [source for name, (source, _) in draft.sources.items() if name != "memory"]
    wholes = {dataclasses.replace(source, part=()) for source in splits}
    return wholes.pop() if len(wholes) == 1 and all(source.part for source in splits) else None


def literal(value: object) -> str:
    """Returns a value as Python, texts in double quotes where they need no escape."""
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    plain = isinstance(value, str) and repr(value) == f"'{value}'" and '"' not in value
    return f'"{value}"' if plain else repr(value)


def _fields(draft: Draft) -> Iterable[str]:
    indent, whole = " " * 8, _cut(draft)
    for name, (source, notes) in draft.sources.items():
        for note in notes:
            yield from comment(note, indent)
        if whole and source.part and dataclasses.replace(source, part=()) == whole:
            yield f"{indent}{name}=dataclasses.replace(IMAGES, part={literal(source.part)}),"
        else:
            yield f"{indent}{name}={_source(source, indent)},"
    if draft.class_names:
        yield f"{indent}class_names={literal(draft.class_names)},"
    yield from _encoders(draft, indent)
    yield from _train(draft, indent)


def _choice(draft: Draft) -> dict[str, object]:
    """Returns the encoders that differ from the defaults."""
    chosen: dict[str, object] = {}
    if draft.vectors:
        if draft.vectors_note == ALL_VECTORS:
            chosen["key"] = "precomputed:images"
        chosen["value_image"] = ("precomputed:images",) if "value_image" in draft.vectors else ()
        if "value_text" in draft.vectors:
            chosen["value_text"] = ("precomputed:texts",)
    if not draft.texts:
        chosen["value_text"] = ()
        chosen.setdefault("value_image", ("efficientnet-lite2",))
    return chosen


def _encoders(draft: Draft, indent: str) -> Iterable[str]:
    if draft.vectors:
        yield from comment(draft.vectors_note, indent)
    if not draft.texts:
        yield from comment("The memory has no captions, so there are no texts to embed.", indent)
    if chosen := _choice(draft):
        yield f"{indent}encoders=Encoders({', '.join(f'{name}={literal(value)}' for name, value in chosen.items())}),"


def _train(draft: Draft, indent: str) -> Iterable[str]:
    fields = []
    if chosen := _choice(draft):
        kinds = tuple(kind for kind in ("text", "image") if chosen.get(f"value_{kind}", kind == "text"))
        fields += [f"values={literal(kinds)}"] if kinds != Train.values else []
    if fields:
        yield f"{indent}train=Train({', '.join(fields)}),"


def text(draft: Draft) -> str:
    """Returns the text of the config."""
    body = list(_fields(draft))
    used = [name for name in ("Config", "Encoders", "Source", "Train") if any(f"{name}(" in line for line in body)]
    whole = _cut(draft)
    if whole:
        used.append("Source")
    lines = [
        f'"""{draft.name}, as web-memory init found it; change what is wrong.',
        "",
        f"    web-memory check --config={draft.name}.py",
        f"    web-memory run --config={draft.name}.py",
        "",
        "docs/config.md has all fields, docs/sources.md all formats.",
        '"""',
        "",
        *(["import dataclasses", ""] if whole else []),
        f"from configs.base import {', '.join(sorted({'Config', *used}))}",
        "",
        *(line for note in draft.notes for line in comment(note, "")),
        *([f"IMAGES = {_source(whole, '')}"] if whole else []),
        "",
        "",
        "def get_config() -> Config:",
        '    """Returns the configuration."""',
        "    return Config(",
        f"        workdir={literal('out/' + draft.name)},",
        *body,
        "    )",
    ]
    return "\n".join(lines) + "\n"
