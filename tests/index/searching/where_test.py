"""Filters against the same conditions in Python, over a memory whose rows are known."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.searching import matching, where
from pipelines import schemas
from pipelines.errors import UserError

METADATA = [
    {"similarity": 0.31, "LICENSE": "cc0", "size": 3},
    {"similarity": "0.29", "LICENSE": "cc-by-4.0", "NSFW": False},
    {"similarity": None, "LICENSE": "it's", "size": 9007199254740993},
    {"similarity": 1, "nsfw": "UNLIKELY", "width": 5, "deep": {"a": 1}},
    None,
    {},
]
WIDTHS = [8, 16, None, 8, 64, 2]
CAPTIONS = ["a red bird", "", None, 'say "hi"', "and", "picture's"]


class Memory:
    """A memory of rows that are known, in shards."""

    folder = "mem"

    def __init__(self, metadata=METADATA, widths=WIDTHS, captions=CAPTIONS, shards: int = 2) -> None:
        n = len(metadata)
        self.table = pa.table(
            {
                "id": pa.array(range(n), pa.int64()),
                "content_key": pa.array([bytes([i]) * 32 for i in range(n)], pa.binary(32)),
                "source_shard": pa.array(["a.tar"] * n),
                "member": pa.array([f"{i}.jpg" for i in range(n)]),
                "url": pa.nulls(n, pa.string()),
                "caption": pa.array(captions, pa.string()),
                "label": pa.nulls(n, pa.int32()),
                "width": pa.array(widths, pa.int32()),
                "height": pa.array(widths, pa.int32()),
                "metadata": pa.array([None if m is None else json.dumps(m) for m in metadata], pa.string()),
            }
        )
        self._bounds = [n * i // shards for i in range(shards + 1)]
        self.shard_rows = {i: self._bounds[i + 1] - self._bounds[i] for i in range(shards)}

    def read(self, shard: int, columns: list[str]) -> pa.Table:
        return self.table.slice(self._bounds[shard], self.shard_rows[shard]).select(columns)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("similarity>=0.3", [0, 3]),
        ("similarity>=0.29 and LICENSE=cc0", [0]),
        ("similarity < 0.3 or width = 64", [1, 4]),
        ("not similarity>=0.3", [1]),
        ("not (similarity>=0.3 or width=16)", []),
        ("similarity is null", [2, 4, 5]),
        ("similarity is not null", [0, 1, 3]),
        ("LICENSE in (cc0, 'it''s')", [0, 2]),
        ('LICENSE not in (cc0, "it\'s")', [1]),
        ("LICENSE != cc0", [1, 2]),
        ("LICENSE <> cc0 AND NOT LICENSE = cc-by-4.0", [2]),
        ("size=9007199254740993", [2]),
        ("size=9007199254740992 or size==3.0", [0]),
        ("NSFW=false", [1]),
        ("width=8", [0, 3]),
        ("metadata.width=5", [3]),
        ("width>=8.5", [1, 4]),
        ("width < 1e1", [0, 3, 5]),
        ("width in (8, 2)", [0, 3, 5]),
        ("width not in (8, 2)", [1, 4]),
        ("not width in (8, 2)", [1, 4]),
        ("width is null", [2]),
        ("width > 9999999999", []),
        ("width < 9223372036854775807 and id > -9223372036854775808", [0, 1, 3, 4, 5]),
        ("label is null and url is null", [0, 1, 2, 3, 4, 5]),
        ("caption = ''", [1]),
        ("caption='a red bird'", [0]),
        ('caption="say ""hi"""', [3]),
        ("caption='and'", [4]),
        ('"caption" = "picture\'s"', [5]),
        ("caption!=''", [0, 3, 4, 5]),
        ("metadata is null", [4]),
        (f"content_key={'03' * 32}", [3]),
        ("id>=2 and id<=3", [2, 3]),
        ("width=8 or width=16 and id=5", [0, 3]),
        ("(width=8 or width=16) and id=1", [1]),
        ("member in (1.jpg,3.jpg)", [1, 3]),
        ("width=8" + " or width=16" * 900, [0, 1, 3]),
    ],
)
def test_rows_that_pass(text, rows):
    assert matching.ids(Memory(), text).tolist() == rows


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "character 1: expected the name of a column, the filter ends"),
        ("   ", "character 1: expected the name of a column, the filter ends"),
        ("width", "character 6: expected =, !=, <, <=, >, >=, `in`, `not in` or `is null`, the filter ends"),
        ("width 8", "character 7: expected =, !=, <, <=, >, >=, `in`, `not in` or `is null`, found '8'"),
        ("width = 8 width", "character 11: expected `and`, `or` or the end, found 'width'"),
        ("width = and", "character 9: expected a value, found 'and'"),
        ("width = null", "character 9: expected a value (`is null` asks for none), found 'null'"),
        ("width = (8)", "character 9: expected a value, found '('"),
        ("(width = 8", "character 11: expected `)`, the filter ends"),
        ("width = 8)", "character 10: expected `and`, `or` or the end, found ')'"),
        ("width in 8", "character 10: expected `(`, found '8'"),
        ("width in (8 16)", "character 13: expected `,` or `)`, found '16'"),
        ("width in ()", "character 11: expected a value, found ')'"),
        ("width not = 8", "character 11: expected `in`, found '='"),
        ("width is 8", "character 10: expected `null`, found '8'"),
        ("caption = 'open", 'character 11: "\'" is not closed'),
        ("width ! 8", "character 7: '!' has no meaning here"),
        ("and = 3", "character 1: expected the name of a column, found 'and'"),
        ("width = wide", "character 9: width holds whole numbers, and 'wide' is not one"),
        (
            "width<9223372036854775808",
            "character 7: width holds whole numbers from -2**63 to 2**63 - 1, and 9223372036854775808 is beyond them",
        ),
        ("width = 8 or id in (1, -9223372036854775809)", "and -9223372036854775809 is beyond them"),
        ("label=1or label=2", "character 7: label holds whole numbers, and '1or' is not one"),
        ("width = 1_0", "character 9: width holds whole numbers, and '1_0' is not one"),
        ("content_key = 12", "character 15: content_key holds digests of 64 hexadecimal digits, and '12' is not one"),
        ("caption > a", "character 1: caption holds texts, which have no order here; compare by =, != or in"),
        ("key = 1", "character 1: key holds vectors or pixels, which no test is for; the columns are id, content_key"),
        ("thumbnail is null", "character 1: thumbnail holds vectors or pixels, which no test is for"),
        ("similarity > high", "character 14: > needs a number, not 'high'"),
        (
            "width=8 and simlarity>=0.3",
            "character 13: 'simlarity' is no column of mem, and no row has it in its metadata",
        ),
        ("simlarity>=0.3", "did you mean 'similarity'?; the columns are id, content_key, source_shard, member, url, "),
        ("nothing is null", "character 1: 'nothing' is no column of mem"),
        (
            "width=8 and label = 1",
            "character 13: no row of mem has a value of 'label', so none can be compared; `label is null` finds them",
        ),
        ("width=8 or not url in (a, b)", "character 16: no row of mem has a value of 'url', so none can be compared"),
        ("LICENSE > 3", "character 1: no row of mem has a value of 'LICENSE' that can be compared so"),
        ("deep = 1", "character 1: no row of mem has a value of 'deep' that can be compared so"),
        ("(" * 3000 + "width=8", "has too many parentheses inside each other"),
        ("not " * 2000 + "width=8", "has too many parentheses inside each other"),
        ("x" * 50_001, "has more than 50,000 characters"),
        ("width=8" + " or a=1" * 1000, "has more than 1,000 tests"),
        ("width=8\x00", "character 7: width holds whole numbers, and '8\\x00' is not one"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text, sentence):
    with pytest.raises(UserError) as raised:
        matching.ids(Memory(), text)
    assert str(raised.value).startswith("where: ") and sentence in str(raised.value)
    assert "\n" not in str(raised.value) and str(raised.value).isprintable()


@pytest.mark.parametrize("has_label", range(4))
def test_a_value_in_any_shard_is_enough(has_label):
    memory = Memory(["{}"] * 4, [1] * 4, [""] * 4, shards=4)
    labels = pa.array([5 if row == has_label else None for row in range(4)], pa.int32())
    memory.table = memory.table.set_column(memory.table.schema.get_field_index("label"), "label", labels)
    assert matching.ids(memory, "label=5").tolist() == [has_label]
    assert matching.ids(memory, "label=6").tolist() == []


def test_arrow_expressions():
    expression = (pc.field("width") >= 16) | (pc.field("caption") == "a red bird")
    assert matching.ids(Memory(), expression).tolist() == [0, 1, 4]
    with pytest.raises(UserError, match=r"where: .*nowhere.*; the columns are id, "):
        matching.ids(Memory(), pc.field("nowhere") > 3)


def test_metadata_that_is_no_json_names_the_row():
    memory = Memory()
    table = memory.table.set_column(memory.table.schema.get_field_index("metadata"), "metadata", pa.array(["{"] * 6))
    memory.table = table
    with pytest.raises(UserError, match="^row 0: its metadata is not JSON "):
        matching.ids(memory, "a=1")


def test_a_memory_without_rows():
    assert matching.ids(Memory([], [], []), "similarity>=0.3").tolist() == []


PARTS = "and or not in is null ( ) = < , ' \" width x 1".split()
NUMBERS = st.integers(-1, 3)


def _tests() -> st.SearchStrategy:
    """Filters as text, with what they say of a row as a function: true, false or, as of SQL, None."""
    signs = {"=": "__eq__", "!=": "__ne__", "<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}

    def test(sign: str, number: int):
        return f"width{sign}{number}", lambda row: None if row is None else getattr(row, signs[sign])(number)

    leaf = st.builds(test, st.sampled_from(sorted(signs)), NUMBERS)
    leaf |= st.just(("width is null", lambda row: row is None))
    leaf |= st.builds(
        lambda values: (
            f"width in ({', '.join(map(str, values))})",
            lambda row: None if row is None else row in values,
        ),
        st.lists(NUMBERS, min_size=1, max_size=3),
    )

    def either(left, right):
        def answer(row):
            answers = left[1](row), right[1](row)
            return True if True in answers else None if None in answers else False

        return f"({left[0]} or {right[0]})", answer

    def both(left, right):
        def answer(row):
            answers = left[1](row), right[1](row)
            return False if False in answers else None if None in answers else True

        return f"({left[0]} and {right[0]})", answer

    def inverse(one):
        return f"not {one[0]}", lambda row: None if one[1](row) is None else not one[1](row)

    return st.recursive(
        leaf, lambda more: st.builds(either, more, more) | st.builds(both, more, more) | st.builds(inverse, more)
    )


@settings(max_examples=150, deadline=None)
@given(_tests(), st.lists(st.none() | NUMBERS, max_size=12), st.booleans())
def test_logic_is_that_of_sql(made, values, as_metadata):
    text, answer = made
    # The first row has a value, so that there is one to compare.
    values = [0, *values]
    if as_metadata:
        text = text.replace("width", "size")
    n = len(values)
    memory = Memory([{"size": value} for value in values], [None] * n if as_metadata else values, ["c"] * n)
    assert matching.ids(memory, text).tolist() == [i for i, value in enumerate(values) if answer(value) is True]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(PARTS)).map(" ".join))
def test_hostile_texts_are_read_or_refused(text):
    try:
        found = where.parse(text)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert set(found.columns) <= set(where.COLUMNS)


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=20), st.sampled_from("'\""))
def test_quoted_texts_are_themselves(text, quote):
    memory = Memory([None] * 2, [1, 2], [text, text + "x"])
    quoted = quote + text.replace(quote, quote * 2) + quote
    assert matching.ids(memory, f"caption={quoted}").tolist() == [0]


def test_columns_are_those_of_the_memory():
    stored = schemas.embeddings({"key": 3, "value_text": 2}, thumbnails=True).names
    assert set(stored) - set(where.COLUMNS) == {"thumbnail", "key", "value_text"}
    assert np.array_equal(where.COLUMNS, [name for name in stored if name in where.COLUMNS])
