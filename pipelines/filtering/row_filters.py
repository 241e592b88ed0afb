"""Which rows of a source are wanted: conditions on size, caption and metadata, checked before anything is encoded.

Filters that need vectors or other folders (copies of queries, duplicates) are up to `selection`.
"""

import dataclasses
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from configs.base import Filters
from pipelines.errors import UserError
from pipelines.sources.sample import Filtered, Sample

_CONDITION = re.compile(r"([^<>=!]+?)\s*(==|!=|>=|<=|>|<)\s*([^=\s].*)")
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclasses.dataclass(frozen=True)
class Condition:
    """A condition on one field of the metadata, such as `similarity>=0.3`.

    Attributes:
        text: as it was written; rows that do not meet the condition are counted under it.
        field: of the metadata.
        operator: `==`, `!=`, `>=`, `<=`, `>` or `<`.
        values: to compare the field with; more than one only for `==` (any of them) and `!=` (none of them).
    """

    text: str
    field: str
    operator: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Parses a condition; a `UserError` if it is wrong."""
        match = _CONDITION.fullmatch(text.strip())
        if not match:
            raise UserError(
                f"--config.filters.metadata={text}: must be field, ==, !=, >=, <=, > or <, and a value, such as "
                "similarity>=0.3"
            )
        field, comparison, value = match.groups()
        if comparison in _ORDER and _number(value) is None:
            raise UserError(f"--config.filters.metadata={text}: {comparison} needs a number, not {value!r}")
        return cls(text, field, comparison, tuple(value.split("|")) if comparison in ("==", "!=") else (value,))

    def holds(self, metadata: Mapping[str, Any]) -> bool:
        """Tells whether the metadata has the field and it meets the condition; numbers are compared as numbers."""
        found = metadata.get(self.field)
        if found is None:
            return False
        if self.operator in _ORDER:
            number = _number(found)
            return number is not None and _ORDER[self.operator](number, _number(self.values[0]))
        return any(_equal(found, value) for value in self.values) == (self.operator == "==")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _equal(found: Any, value: str) -> bool:
    if isinstance(found, bool) or _number(found) is None or _number(value) is None:
        return str(found) == value
    return _number(found) == _number(value)


class RowFilters:
    """The filters of one source that look at a row alone."""

    def __init__(self, filters: Filters) -> None:
        """Parses the conditions; a `UserError` if one is wrong."""
        self._filters = filters
        self._conditions = [Condition.parse(text) for text in filters.metadata]

    def unwanted(self, sample: Sample) -> Filtered | None:
        """Returns why a sample is not wanted, from what is known before its image is decoded."""
        wanted, caption = self._filters, sample.caption or ""
        if len(caption) < wanted.min_caption_chars:
            return Filtered(sample.member, "min_caption_chars", str(len(caption)))
        if wanted.max_caption_chars and len(caption) > wanted.max_caption_chars:
            return Filtered(sample.member, "max_caption_chars", str(len(caption)))
        known = {**sample.metadata, "label": sample.label, "url": sample.url}
        for condition in self._conditions:
            if not condition.holds(known):
                return Filtered(sample.member, condition.text, str(known.get(condition.field)))
        return None

    def wrong_size(self, member: str, width: int, height: int) -> Filtered | None:
        """Returns why an image of this size, in pixels, is not wanted."""
        short, long = sorted((width, height))
        if short < self._filters.min_side:
            return Filtered(member, "min_side", f"{width} x {height}")
        if self._filters.max_aspect and long > self._filters.max_aspect * short:
            return Filtered(member, "max_aspect", f"{width} x {height}")
        return None
