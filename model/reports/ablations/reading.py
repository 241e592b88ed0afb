"""What the values of an ablation mean: a function for each thing that is varied reads the text of a value.

All raise a `UserError` that says what is wrong with a text.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from model.data.datasets import Task
from model.reports.ablations import false_captions
from model.reports.ablations.base import Base
from pipelines.errors import UserError, nearest
from pipelines.manifest import Embeddings

_FOLDER, _URL, _FILE = "folder:", "url:", "file:"


def _number(text: str, kind: type, low: float, high: float, name: str) -> float:
    """Parses a number or a fraction such as `1/16`."""
    try:
        number = float(Fraction(text))
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"--vary={name}={text}: must be a number, such as 2 or 1/2") from error
    if not low <= number <= high or number != kind(number):
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"--vary={name}={text}: must be {what} from {low:g} to {high:g}")
    return number


def whole(name: str, high: int) -> Callable[[Base, str], int]:
    """Returns what reads a whole number from 1."""
    return lambda base, text: int(_number(text, int, 1, high, name))


def share(name: str, high: float) -> Callable[[Base, str], float]:
    """Returns what reads a number or a fraction from 0."""
    return lambda base, text: _number(text, float, 0, high, name)


def word(name: str, known: Sequence[str]) -> Callable[[Base, str], str]:
    """Returns what reads one of some words."""
    return lambda base, text: _one_of(text, known, name)


def k(base: Base, text: str) -> int:
    """Returns the length of lists, which the lists must have."""
    return int(_number(text, int, 1, base.lists.k, "k"))


def _one_of(text: str, known: Sequence[str], name: str, others: str = "") -> str:
    if text not in known:
        raise UserError(f"--vary={name}={text}: is not known; {nearest(text, tuple(known))}{others}")
    return text


def kinds(base: Base) -> tuple[str, ...]:
    """Returns the kinds of values that the lists have."""
    return tuple(role.removeprefix("value_") for role in base.lists.encoders if role.startswith("value_"))


def values(base: Base, text: str) -> tuple[str, ...]:
    """Returns kinds of values, which the lists must have."""
    return tuple(_one_of(kind, kinds(base), "values") for kind in text.split("+"))


def memory(base: Base, text: str) -> str | re.Pattern[str] | Embeddings:
    """Returns a word, the expression that URLs must match, or another memory, whose encoders are the same."""
    if text.startswith(_FOLDER):
        embeddings = Embeddings(text.removeprefix(_FOLDER))
        for column in ("key", *(f"value_{kind}" for kind in base.train.values)):
            if embeddings.encoder(column).fingerprint != base.lists.encoders[column].fingerprint:
                raise UserError(
                    f"--vary=memory={text}: its {column} is of another encoder than that of the memory; embed it with "
                    "the same encoders"
                )
        return embeddings
    if not text.startswith(_URL):
        known = ("all", "named", "unnamed", "train", "all+train", "random")
        return _one_of(text, known, "memory", f", {_URL} and a pattern, or {_FOLDER} and a memory")
    try:
        return re.compile(text.removeprefix(_URL))
    except re.error as error:
        raise UserError(f"--vary=memory={text}: is not a regular expression ({error})") from error


def poison(base: Base, text: str) -> tuple[int, int] | None:
    """Returns victim and target; None if nothing is to be rewritten."""
    task = base.task()
    parts, classes = text.split("-"), len(task.class_counts)
    if text == "0":
        return None
    if len(parts) != 2 or parts[0] == parts[1] or not all(p.isdecimal() and int(p) < classes for p in parts):
        raise UserError(
            f"--vary=poison={text}: must be 0, or the numbers of two classes below {classes}, the victim first, "
            "such as 3-7"
        )
    victim, target = map(int, parts)
    if not (task.splits["test"].labels == victim).any():
        raise UserError(f"--vary=poison={text}: class {victim} has no test image; name another victim")
    embedded_names(task)
    return victim, target


def embedded_names(task: Task) -> np.ndarray:
    """Returns the names of the classes as text values, float32 `[C, V]`; a `UserError` if there are none."""
    if "text" not in task.values or "text" not in task.name_vectors:
        raise UserError(
            "--vary=poison: rewrites captions to the name of a class; set --config.train.values=text and "
            "--config.class_names, and run web-memory embed"
        )
    return task.name_vectors["text"]


def noise(base: Base, text: str) -> float:
    """Returns the share of captions that are permuted."""
    if "text" not in base.train.values:
        raise UserError("--vary=noise: permutes captions; set --config.train.values=text")
    return _number(text, float, 0, 1, "noise")


def captions(base: Base, text: str) -> str | tuple[str, ...]:
    """Returns a word, or the lines of a file."""
    if "text" not in base.train.values:
        raise UserError("--vary=captions: replaces captions; set --config.train.values=text")
    if text.startswith(_FILE):
        return false_captions.read(text.removeprefix(_FILE))
    return _one_of(text, ("own", "junk"), "captions", f", {_FILE} and a text file")
