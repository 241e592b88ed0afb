"""Values are compared as what they are: numbers exactly, texts as texts, flags as flags, and nothing with nothing."""

import decimal
import fractions
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.filtering.conditions import Condition, remarks

# Two snowflake ids that are one float.
_POST = {"post": 1453000000000000001}


@pytest.mark.parametrize(
    ("text", "metadata", "expected"),
    [
        ("similarity>=0.3", {"similarity": 0.3}, True),
        ("similarity>=0.3", {"similarity": "0.31"}, True),
        ("similarity>0.3", {"similarity": 0.3}, False),
        ("similarity>=0.3", {"similarity": None}, False),
        ("similarity>=0.3", {"similarity": float("nan")}, False),
        ("similarity!=0.3", {"similarity": float("nan")}, False),
        ("similarity>=0.3", {}, False),
        ("similarity<=0.3", {"similarity": "high"}, False),
        ("similarity<0.3", {"similarity": -1}, True),
        ("similarity==.5", {"similarity": 0.5}, True),
        ("similarity==5e-1", {"similarity": 0.5}, True),
        ("NSFW==UNLIKELY|UNSURE", {"NSFW": "UNSURE"}, True),
        ("NSFW == UNLIKELY", {"NSFW": "NSFW"}, False),
        ("LICENSE!=?", {"LICENSE": "?"}, False),
        ("LICENSE!=?|none", {"LICENSE": "CC0"}, True),
        ("LICENSE!=?", {}, False),
        ("LICENSE!=?|none", {"LICENSE": 5}, True),
        ("width==10", {"width": 10.0}, True),
        # Integers exactly.
        ("post==1453000000000000001", _POST, True),
        ("post==1453000000000000002", _POST, False),
        ("post!=1453000000000000002", _POST, True),
        ("post>1453000000000000000", _POST, True),
        ("post>1453000000000000000.5", _POST, True),
        ("post<=1453000000000000000", _POST, False),
        ("post>=1453000000000000002", {"post": "1453000000000000001"}, False),
        ("big==18446744073709551615", {"big": 2**64 - 1}, True),
        ("big==18446744073709551616", {"big": 2**64 - 1}, False),
        ("big==9007199254740993", {"big": 9007199254740992.0}, False),
        ("big>0.5", {"big": 10**400}, True),
        # Texts as texts, whatever they look like.
        ("user==123", {"user": "12_3"}, False),
        ("user==123", {"user": 123}, True),
        ("user==12_3", {"user": 123}, False),
        ("user==12_3", {"user": "12_3"}, True),
        ("user>100", {"user": "12_3"}, False),
        ("zip==01210", {"zip": "1210"}, False),
        ("zip==01210", {"zip": "01210"}, True),
        ("zip==1210", {"zip": "01210"}, False),
        ("score==0.30", {"score": "0.3"}, False),
        ("LANGUAGE==nan", {"LANGUAGE": "nan"}, True),
        ("LANGUAGE!=nan", {"LANGUAGE": "nan"}, False),
        ("LANGUAGE==NaN", {"LANGUAGE": "nan"}, False),
        ("score>=5", {"score": "inf"}, False),
        ("score>=5", {"score": "7"}, True),
        ("score>=5", {"score": "\u0667"}, False),
        ("score==inf", {"score": "inf"}, True),
        # Flags, as JSON, pandas and CSV write them.
        *((f"flag=={yes}", {"flag": found}, True) for yes in ("true", "True", "TRUE", "1") for found in (True, "true")),
        *((f"flag!={yes}", {"flag": found}, False) for yes in ("true", "TRUE", "1") for found in (True, "True")),
        *((f"flag!={yes}", {"flag": found}, True) for yes in ("true", "1", "1.0") for found in (False, "FALSE", 0)),
        *(
            (f"flag=={no}", {"flag": found}, True)
            for no in ("false", "False")
            for found in (False, "False", 0, "0", 0.0)
        ),
        ("flag!=true", {"flag": 1}, False),
        ("flag!=true", {"flag": "1"}, False),
        ("flag==true", {"flag": 0.5}, False),
        ("flag==false", {"flag": 0.5}, False),
        ("flag==true", {"flag": "yes"}, False),
        ("flag==1", {"flag": "1"}, True),
        ("flag==01", {"flag": "1"}, False),
        ("flag<1", {"flag": False}, True),
        # No answer would be right, so neither holds.
        ("flag==yes", {"flag": True}, False),
        ("flag!=yes", {"flag": True}, False),
        ("tags==a", {"tags": ["a"]}, False),
        ("tags!=a", {"tags": ["a"]}, False),
    ],
)
def test_conditions(text, metadata, expected):
    assert Condition.parse(text).holds(metadata) is expected


_NUMBERS = st.one_of(
    st.integers(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.integers(-2, 2)
)


@hypothesis.given(_NUMBERS, _NUMBERS, st.sampled_from(["==", "!=", ">=", "<=", ">", "<"]))
def test_numbers_are_compared_exactly(found, other, comparison):
    """JSON writes a number and reads it back; what a condition writes of it is then the same number."""
    condition = Condition.parse(f"x{comparison}{json.dumps(other)}")
    exact = fractions.Fraction(found), fractions.Fraction(other)
    if isinstance(found, int) and isinstance(other, float):
        # Next to an integer a decimal fraction is what it says.
        exact = fractions.Fraction(found), fractions.Fraction(decimal.Decimal(json.dumps(other)))
    left, right = exact
    expected = {
        "==": left == right,
        "!=": left != right,
        ">=": left >= right,
        "<=": left <= right,
        ">": left > right,
        "<": left < right,
    }
    assert condition.holds({"x": found}) is expected[comparison]


@hypothesis.given(st.text(), st.text(min_size=1))
def test_texts_are_equal_if_they_are_the_same(found, other):
    hypothesis.assume(other == other.strip() and other[0] != "=" and "|" not in other and "\n" not in other)
    hypothesis.assume(other.lower() not in ("true", "false") and found.strip().lower() not in ("true", "false"))
    assert Condition.parse(f"x=={other}").holds({"x": found}) is (found == other)
    assert Condition.parse(f"x!={other}").holds({"x": found}) is (found != other)


def test_why_a_row_does_not_meet_a_condition():
    condition = Condition.parse("nsfw!=yes")
    assert condition.failure({"nsfw": "yes"}) == "nsfw!=yes"
    assert condition.failure({"nsfw": None}) == condition.failure({}) == "nsfw!=yes (missing)"
    assert condition.failure({"nsfw": True}) == "nsfw!=yes (not comparable)"
    assert condition.failure({"nsfw": "no"}) is None


@pytest.mark.parametrize(
    ("condition", "filtered", "kept", "remark"),
    [
        ("a==1", {"a==1 (missing)": 3}, 0, "no row has the field 'a' of a==1"),
        ("a==1", {"a==1 (missing)": 3, "a==1": 1}, 0, "no row can meet a==1"),
        ("a!=yes", {"a!=yes (not comparable)": 1}, 0, "no row can meet a!=yes"),
        ("a!=yes", {}, 5, "a!=yes excluded no row, check how the source writes 'a'"),
        ("a!=yes", {"a!=yes": 1}, 5, None),
        ("a>=1", {}, 5, None),
        ("a>=1", {"b==1": 3}, 0, None),
    ],
)
def test_what_is_odd_about_a_condition_is_said(condition, filtered, kept, remark):
    assert remarks([condition], filtered, kept) == ([remark] if remark else [])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("similarity", "must be field, ==, !=, >=, <=, > or <, and a value"),
        (">=3", "must be field"),
        ("similarity>=", "must be field"),
        ("similarity>=high", ">= needs a number, not 'high'"),
        ("similarity>=1_0", ">= needs a number, not '1_0'"),
        ("similarity>=nan", ">= needs a number, not 'nan'"),
    ],
)
def test_wrong_conditions_are_worded(text, sentence):
    with pytest.raises(UserError, match=sentence):
        Condition.parse(text)
