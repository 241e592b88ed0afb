"""How a config field is declared: its default, what it means, and which values it takes.

The declaration is the one place for all three: `pipelines.fields` checks values against it, and prints it as `--help`
and as docs/config.md.
"""

import dataclasses
from typing import Any

_KEY = "field"


def _number(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"


@dataclasses.dataclass(frozen=True)
class Field:
    """What is known of a field.

    Attributes:
        help: what it means, one sentence; `[I]` at its end marks what is inferred, not taken from the paper.
        choices: the values that it takes; empty for any.
        at_least: smallest value.
        above: a bound that values must exceed.
        at_most: largest value.
        below: a bound that values must stay under.
        required: whether a list must not be empty.
        distinct: whether the values of a list must differ.
    """

    help: str
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    required: bool = False
    distinct: bool = False

    @property
    def span(self) -> str:
        """The bounds in words, such as `at least 0 and less than 1`; empty without any."""
        if (self.at_least, self.at_most) == (0, 1):
            return "0 to 1"
        if (self.above, self.below) == (0, 1):
            return "between 0 and 1"
        bounds = (("at least", self.at_least), ("above", self.above), ("at most", self.at_most))
        named = [
            f"{name} {_number(bound)}" for name, bound in (*bounds, ("less than", self.below)) if bound is not None
        ]
        return " and ".join(named)

    def holds(self, value: Any) -> bool:
        """Tells whether a number, or each of several, is within the bounds."""
        values = value if isinstance(value, tuple) else (value,)
        return all(
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
            for number in values
        )


def option(default: Any, help: str, **bounds: Any) -> Any:
    """Declares a field of a config dataclass; `bounds` are attributes of `Field`."""
    return dataclasses.field(default=default, metadata={_KEY: Field(help, **bounds)})


def of(field: "dataclasses.Field[Any]") -> Field:
    """Returns what a dataclass field was declared with; a `KeyError` if it was not declared by `option`."""
    return field.metadata[_KEY]
