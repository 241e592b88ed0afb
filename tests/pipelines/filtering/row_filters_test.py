import pytest

from configs.base import Filters
from pipelines.errors import UserError
from pipelines.filtering.row_filters import RowFilters
from pipelines.sources import Filtered, Sample


def test_a_wrong_condition_is_refused_at_once():
    with pytest.raises(UserError, match="must be field, ==, !=, >=, <=, > or <, and a value"):
        RowFilters(Filters(metadata=("similarity",)))


def test_captions_and_conditions():
    filters = RowFilters(Filters(min_caption_chars=3, max_caption_chars=5, metadata=("a>=1", "label==2")))
    sample = Sample("x", b"", "four", 2, metadata={"a": 1})
    assert filters.unwanted(sample) is None
    assert filters.unwanted(Sample("x", b"", None, 2)) == Filtered("x", "min_caption_chars", "0")
    assert filters.unwanted(Sample("x", b"", "a longer one", 2)) == Filtered("x", "max_caption_chars", "12")
    assert filters.unwanted(Sample("x", b"", "four", 2, metadata={"a": 0})) == Filtered("x", "a>=1", "0")
    missing = Filtered("x", "label==2 (missing)", "has only a, caption")
    assert filters.unwanted(Sample("x", b"", "four", None, metadata={"a": 1})) == missing


def test_captions_that_name_a_class():
    filters = RowFilters(Filters(concepts=True), ["dog, canine", "hot dog"])
    assert filters.unwanted(Sample("x", b"", "Canines!", 2)) is None
    assert filters.unwanted(Sample("x", b"", "dogma " * 90)) == Filtered("x", "concepts", ("dogma " * 90)[:200])
    assert filters.unwanted(Sample("x", b"", None)) == Filtered("x", "concepts", "")
    assert RowFilters(Filters(), ["dog"]).unwanted(Sample("x", b"", "a cat")) is None


@pytest.mark.parametrize("condition", ["caption==a dog", "url!=http://b", "label<4", "label==3"])
def test_a_rows_own_columns_can_be_asked_for(condition):
    filters = RowFilters(Filters(metadata=(condition,)))
    assert filters.unwanted(Sample("x", b"", "a dog", 3, "http://a")) is None
    assert filters.unwanted(Sample("x", b"", "a cat", 4, "http://b")).filter == condition


def test_a_size_is_that_which_the_source_states_or_else_that_of_the_decoded_image():
    filters = RowFilters(Filters(metadata=("width>=512", "height<100")))
    stated, unstated = (Sample("x", b"image", metadata=metadata) for metadata in ({"width": 256, "height": 9}, {}))
    assert filters.unwanted(stated) == Filtered("x", "width>=512", "256")
    assert filters.unwanted(unstated) is None
    assert filters.wrong_size("x", 511, 9, unstated.metadata) == Filtered("x", "width>=512", "511")
    assert filters.wrong_size("x", 600, 100, unstated.metadata) == Filtered("x", "height<100", "100")
    assert filters.wrong_size("x", 600, 99, unstated.metadata) is None
    # Vectors have no image to be decoded.
    assert filters.unwanted(Sample("x", b"")).filter == "width>=512 (missing)"


def test_sizes():
    filters = RowFilters(Filters(min_side=10, max_aspect=2.0))
    assert filters.wrong_size("x", 10, 20) is None
    assert filters.wrong_size("x", 9, 10) == Filtered("x", "min_side", "9 x 10")
    assert filters.wrong_size("x", 21, 10) == Filtered("x", "max_aspect", "21 x 10")
    assert RowFilters(Filters()).wrong_size("x", 1, 10_000) is None
