"""The label space: which class has which number, the same in the memory and in all splits.

A label is a whole number, or the name of a class: a folder, a text in a table, a list, a record or a tar, an entry of a
ClassLabel or of COCO's categories. Names are compared in Unicode normal form C, without the white space around them. In
which order a source's names are numbered is up to `naming`, which source decides to `pipelines.embedding.classes`.
"""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.errors import UserError, nearest
from pipelines.progress import counted

_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
_MOST_NAMED = 5


class UnknownClass(ValueError):
    """The name of a class that the label space does not have."""


def normal(name: str) -> str:
    """Returns the form in which a class name is compared and stored."""
    return unicodedata.normalize("NFC", name).strip()


def is_name(label: object) -> bool:
    """Tells whether a label is the name of a class: a text that is neither empty nor a number."""
    text = label.strip() if isinstance(label, str) else ""
    return bool(text) and not text.isnumeric() and not _NUMBER.fullmatch(text)


@dataclasses.dataclass(frozen=True)
class LabelSpace:
    """The classes of a training set.

    Attributes:
        names: of the classes, in normal form; the first is class 0.
        all_names: those that its source has before `classes` and `part` choose among them; `names` by default.
    """

    names: tuple[str, ...]
    all_names: tuple[str, ...] = ()

    @functools.cached_property
    def numbers(self) -> Mapping[str, int]:
        """The number of each name; the first, if a list of classes has it twice."""
        return {name: number for number, name in reversed(list(enumerate(self.names)))}


@dataclasses.dataclass(frozen=True)
class Labels:
    """How the labels of one source become numbers.

    Attributes:
        space: of the training set.
        declared: names that the source itself gives to its numbers, the first to 0; empty if it gives none.
        own: all names of the source, in its own order, of which `Source.class_names` has one a line.
        is_memory: whether rows of unknown classes are kept without a label; in a split they are errors.
    """

    space: LabelSpace
    declared: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    is_memory: bool = False

    def number(self, label: Any) -> Any:
        """Returns the number of a label, None for an unknown class of a memory; what is no name is left as it is.

        Raises:
            UnknownClass: if a split has a label that is not in the space.
        """
        if self.declared and isinstance(label, float) and label.is_integer():
            label = int(label)
        if self.declared and isinstance(label, int) and 0 <= label < len(self.declared):
            if self.declared == self.space.names:
                return label
            label = self.declared[label]
        elif not isinstance(label, str) or not label.strip():
            return label
        number = self.space.numbers.get(normal(label))
        if number is None and not self.is_memory:
            raise UnknownClass(f"the training set has no class {normal(label)[:80]!r}")
        return number


def describe_unknown(where: str, unknown: Mapping[Any, int], known: Sequence[str]) -> str:
    """Returns the sentence for classes of a split that the training set does not have.

    Args:
        where: the split and its source.
        unknown: images of each such class, by its name or number.
        known: names of the training set's classes; empty if it has numbers.
    """
    shown = [
        f"{name!r} ({counted(count, 'image')}{_suggestion(name, known)})"
        for name, count in list(unknown.items())[:_MOST_NAMED]
    ]
    more = f" and {len(unknown) - _MOST_NAMED:,} more" if len(unknown) > _MOST_NAMED else ""
    return (
        f"{where}: has {counted(len(unknown), 'class')} that the training set does not have: {', '.join(shown)}{more}; "
        "write the names alike in every split, remove these images, or add images of the same classes to the training "
        "set"
    )


def _suggestion(name: str | int, known: Sequence[str]) -> str:
    if isinstance(name, int) or not known:
        return ""
    alike = next((other for other in known if other.lower() == name.lower()), None)
    found = f"did you mean {alike!r}?" if alike else nearest(name, known)
    return f"; {found}" if found.startswith("did you mean") else ""


def mixed(where: str, name: str, number: int | str) -> UserError:
    """Returns the error for a source whose labels are names and numbers."""
    return UserError(
        f"{where}: its labels are names, such as {name[:80]!r}, and numbers, such as {str(number)[:80]!r}; write all "
        "of them as names or all as numbers"
    )


def refuse_case(where: str, names: Iterable[str]) -> None:
    """Raises a `UserError` that names two classes that differ in upper and lower case only."""
    seen: dict[str, str] = {}
    for name in sorted(names):
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise UserError(
                f"{where}: has the classes {other!r} and {name!r}, which differ only in upper and lower case; if they "
                "are one class, give them one name, otherwise rename one of them"
            )
