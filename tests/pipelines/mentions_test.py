import pytest

from pipelines import mentions
from pipelines.mentions import Mentions


def test_words_have_no_case_and_no_plural():
    assert mentions.words("Golden_Retrievers.jpg, BERRIES; glass\u00a0\uff21") == (
        *("golden", "retriever", "jpg", "berry", "glass", "a"),
    )


def test_a_name_of_signs_alone_has_no_words():
    assert mentions.synonyms(" , (only brackets), --") == []
    assert mentions.phrase("(only brackets)") == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("two School Buses, a cat", {("cat",)}),
        ("a school bus", {("school", "bus")}),
        ("school, bus", {("school", "bus")}),
        ("a bus of the school; cats", {("cat",)}),
        ("concat", set()),
        ("", set()),
    ],
)
def test_a_phrase_is_whole_words_one_after_another(text, found):
    assert Mentions([("school", "bus"), ("cat",), ()]).of(text) == found
