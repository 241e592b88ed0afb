"""Which rows of a source are wanted: conditions on size, caption and metadata, checked before anything is encoded.

`conditions` compares values. Filters that need vectors or other folders (copies of queries, duplicates) are up to
`selection`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from configs.base import Filters
from pipelines.filtering.conditions import Condition
from pipelines.mentions import Names
from pipelines.sources.sample import Filtered, Sample

_SIZES = ("width", "height")
_MAX_SHOWN_CHARS = 200


class RowFilters:
    """The filters of one source that look at a row alone."""

    def __init__(self, filters: Filters, names: Sequence[str] = ()) -> None:
        """Parses the conditions; a `UserError` if one is wrong.

        Args:
            filters: of the memory.
            names: of the classes, one of which a caption must name if the filters say so.
        """
        self._filters = filters
        self._names = Names(names) if filters.concepts else None
        self._conditions = [Condition.parse(text) for text in filters.metadata]

    def unwanted(self, sample: Sample) -> Filtered | None:
        """Returns why a sample is not wanted, from what is known before its image is decoded."""
        wanted, caption = self._filters, sample.caption or ""
        if len(caption) < wanted.min_caption_chars:
            return Filtered(sample.member, "min_caption_chars", str(len(caption)))
        if wanted.max_caption_chars and len(caption) > wanted.max_caption_chars:
            return Filtered(sample.member, "max_caption_chars", str(len(caption)))
        if self._names and not self._names.find(caption):
            return Filtered(sample.member, "concepts", caption[:_MAX_SHOWN_CHARS])
        if not self._conditions:
            return None
        known = {**sample.metadata, "caption": sample.caption, "label": sample.label, "url": sample.url}
        stated = [c for c in self._conditions if not (sample.image and _waits(c, known))]
        return _failure(sample.member, stated, known)

    def wrong_size(
        self, member: str, width: int, height: int, metadata: Mapping[str, Any] | None = None
    ) -> Filtered | None:
        """Returns why an image of this size, in pixels, is not wanted.

        Args:
            member: of the image.
            width: of the decoded image.
            height: of the decoded image.
            metadata: of its row; conditions on a width or height that it states have been checked before.
        """
        short, long = sorted((width, height))
        if short < self._filters.min_side:
            return Filtered(member, "min_side", f"{width} x {height}")
        if self._filters.max_aspect and long > self._filters.max_aspect * short:
            return Filtered(member, "max_aspect", f"{width} x {height}")
        left = [condition for condition in self._conditions if _waits(condition, metadata or {})]
        return _failure(member, left, {"width": width, "height": height}) if left else None


def _waits(condition: Condition, known: Mapping[str, Any]) -> bool:
    """Tells whether a condition is on a size that only the decoded image tells."""
    return condition.field in _SIZES and known.get(condition.field) is None


def _failure(member: str, conditions: list[Condition], known: Mapping[str, Any]) -> Filtered | None:
    for condition in conditions:
        if failure := condition.failure(known):
            found = known.get(condition.field)
            has = ", ".join(sorted(name for name, value in known.items() if value is not None))
            shown = f"has only {has}" if found is None else str(found)
            return Filtered(member, failure, shown[:_MAX_SHOWN_CHARS])
    return None
