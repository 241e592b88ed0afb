import pytest

from configs.base import Filters
from pipelines.errors import UserError
from pipelines.filtering.row_filters import Condition, RowFilters
from pipelines.sources import Filtered, Sample


@pytest.mark.parametrize(
    ("text", "metadata", "expected"),
    [
        ("similarity>=0.3", {"similarity": 0.3}, True),
        ("similarity>=0.3", {"similarity": "0.31"}, True),
        ("similarity>0.3", {"similarity": 0.3}, False),
        ("similarity>=0.3", {"similarity": None}, False),
        ("similarity>=0.3", {}, False),
        ("similarity<=0.3", {"similarity": "high"}, False),
        ("similarity<0.3", {"similarity": -1}, True),
        ("NSFW==UNLIKELY|UNSURE", {"NSFW": "UNSURE"}, True),
        ("NSFW == UNLIKELY", {"NSFW": "NSFW"}, False),
        ("LICENSE!=?", {"LICENSE": "?"}, False),
        ("LICENSE!=?|none", {"LICENSE": "CC0"}, True),
        ("LICENSE!=?", {}, False),
        ("width==10", {"width": 10.0}, True),
        ("flag==True", {"flag": True}, True),
    ],
)
def test_conditions(text, metadata, expected):
    assert Condition.parse(text).holds(metadata) is expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("similarity", "must be field, ==, !=, >=, <=, > or <, and a value"),
        (">=3", "must be field"),
        ("similarity>=", "must be field"),
        ("similarity>=high", ">= needs a number, not 'high'"),
    ],
)
def test_wrong_conditions_are_worded(text, sentence):
    with pytest.raises(UserError, match=sentence):
        RowFilters(Filters(metadata=(text,)))


def test_captions_and_conditions():
    filters = RowFilters(Filters(min_caption_chars=3, max_caption_chars=5, metadata=("a>=1", "label==2")))
    sample = Sample("x", b"", "four", 2, metadata={"a": 1})
    assert filters.unwanted(sample) is None
    assert filters.unwanted(Sample("x", b"", None, 2)) == Filtered("x", "min_caption_chars", "0")
    assert filters.unwanted(Sample("x", b"", "a longer one", 2)) == Filtered("x", "max_caption_chars", "12")
    assert filters.unwanted(Sample("x", b"", "four", 2, metadata={"a": 0})) == Filtered("x", "a>=1", "0")
    assert filters.unwanted(Sample("x", b"", "four", None, metadata={"a": 1})) == Filtered("x", "label==2", "None")


def test_sizes():
    filters = RowFilters(Filters(min_side=10, max_aspect=2.0))
    assert filters.wrong_size("x", 10, 20) is None
    assert filters.wrong_size("x", 9, 10) == Filtered("x", "min_side", "9 x 10")
    assert filters.wrong_size("x", 21, 10) == Filtered("x", "max_aspect", "21 x 10")
    assert RowFilters(Filters()).wrong_size("x", 1, 10_000) is None
