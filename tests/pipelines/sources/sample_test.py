"""What a value of a source stands for: one rule for labels, captions and URLs in all formats."""

import decimal
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from configs.base import Source
from pipelines.sources import Filtered, Reject, Sample
from pipelines.sources.sample import InputShard, caption_of, label_of, storable_text, to_sample


def _shard(kind: str) -> InputShard:
    return InputShard(Source(format=kind), "s", "s", 1, "e")


_TABLE, _IMG2DATASET = _shard("table"), _shard("img2dataset")
_LARGEST = 2**31 - 1


@pytest.mark.parametrize("number", [0, 1, 12, _LARGEST])
@pytest.mark.parametrize("kind", [int, float, decimal.Decimal, str, np.int64, np.float64])
def test_whole_numbers_are_labels_in_every_type(number, kind):
    assert label_of(kind(number)) == label_of([kind(number)]) == number
    assert type(label_of(kind(number))) is int


@pytest.mark.parametrize(
    ("value", "label"), [("1.0", 1), (" 7\n", 7), ("007", 7), ("3.", 3), (decimal.Decimal("2.00"), 2), (-0.0, 0)]
)
def test_digits_with_nothing_behind_the_point_are_labels(value, label):
    assert label_of(value) == label


@pytest.mark.parametrize(
    "value", [None, float("nan"), np.float32("nan"), decimal.Decimal("nan"), "", " \n", [], [None]]
)
def test_null_nan_and_blank_are_no_label(value):
    assert label_of(value) is None


@pytest.mark.parametrize(
    "value",
    [
        *("cat", "nan", "inf", "1e3", "1_0", "+1", "-1", "0x1", "1.5", "\u0661", "\ud800", "9" * 5000, "2147483648"),
        *(True, False, -1, 0.5, 2**31, 1e300, float("inf"), decimal.Decimal("1e5000"), decimal.Decimal("0.1")),
        *([1, 2], {"a": 1}, b"1", (None, None), [[1, 2]]),
    ],
    ids=repr,
)
def test_anything_else_is_no_label_and_is_named(value):
    with pytest.raises(ValueError, match=r"label is .*, must be a whole number from 0"):
        label_of(value)


@pytest.mark.parametrize(
    ("value", "number", "caption"),
    [
        (" a dog ", 0, "a dog"),
        (" ", 0, None),
        (None, 0, None),
        (float("nan"), 0, None),
        (["a dog", "one dog"], 0, "a dog"),
        (["a dog", "one dog"], 1, "one dog"),
        ([None, " ", "one dog"], 0, "one dog"),
        (["a dog", None], 1, None),
        ([], 0, None),
    ],
)
def test_the_caption_of_a_list_is_its_first_or_the_one_that_is_named(value, number, caption):
    assert caption_of(value, number) == caption


@pytest.mark.parametrize(
    ("value", "number", "sentence"),
    [
        (5, 0, "caption is of type int, not a text"),
        (["a", 5], 0, "caption is of type int in a list, not a text"),
        ([["a"]], 0, "caption is of type list in a list, not a text"),
        ({"en": "a cow"}, 0, "caption is an object with the fields en, not a text"),
        (["a"], 1, "has 1 caption, so there is none of number 1, counted from 0"),
        ("a", 2, "has 1 caption, so there is none of number 2"),
    ],
)
def test_what_is_no_caption_is_named(value, number, sentence):
    with pytest.raises(ValueError, match=sentence):
        caption_of(value, number)


def test_a_users_own_fields_are_metadata_whatever_their_name():
    fields = {"status": "on display", "key": "k1", "error_message": "none", "width": 12.5, "height": 3, "exif": "{}"}
    kept = {name: value for name, value in fields.items() if name != "exif"}
    assert to_sample(_TABLE, "x", b"i", fields).metadata == kept
    assert to_sample(_TABLE, "x", b"i", {"status": "failed_to_download"}).metadata == {"status": "failed_to_download"}


@pytest.mark.parametrize("kind", ["img2dataset", "img2dataset_parquet", "tfrecord", "vectors"])
def test_the_status_of_img2dataset_is_special_in_its_own_formats(kind):
    source = _shard(kind)
    fields = {"status": "failed_to_download", "error_message": "404"}
    assert to_sample(source, "x", b"i", fields) == Filtered("x", "status", "failed_to_download: 404")
    assert to_sample(source, "x", b"i", {"status": "success", "key": "k", "width": 8}).metadata == {"width": 8}
    assert to_sample(source, "x", b"i", {"status": "published"}).metadata == {"status": "published"}
    assert to_sample(source, "x", b"i", {"status": None}).metadata == {}


@pytest.mark.parametrize(
    ("value", "url"),
    [("http://x", "http://x"), (None, None), (float("nan"), None), ("", None), (["http://x"], "http://x")],
)
def test_a_url_is_a_text_or_none(value, url):
    assert to_sample(_TABLE, "x", b"i", {"url": value}).url == url


@pytest.mark.parametrize("value", [5, True, {"a": 1}, ["http://x", "http://y"]])
def test_a_url_that_is_no_text_is_a_reject_for_it_could_not_be_opted_out(value):
    assert to_sample(_TABLE, "x", b"i", {"url": value}).error_type == "BadUrl"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (2**64, 2**64),
        (1453000000000000001, 1453000000000000001),
        (decimal.Decimal("5.00"), 5),
        (decimal.Decimal("5.25"), 5.25),
        (decimal.Decimal("0.1234567890123456789"), "0.1234567890123456789"),
        (decimal.Decimal(10**70), 10**70),
        (decimal.Decimal("1e5000"), "1E+5000"),
        (np.float32(0.5), 0.5),
        (float("-inf"), None),
        (b"bytes", None),
        ("a\0b", "a\0b"),
        ({1: [float("nan"), (True,)]}, {"1": [None, [True]]}),
    ],
)
def test_metadata_are_stored_exactly(value, stored):
    metadata = to_sample(_TABLE, "x", b"i", {"v": value}).metadata
    assert metadata == ({} if stored is None else {"v": stored})
    assert json.loads(json.dumps(metadata)) == metadata


@pytest.mark.parametrize("fields", [{"caption": "\ud800"}, {"url": "\ud800"}, {"a": ["\ud800"]}, {"\ud800": 1}])
def test_half_a_surrogate_pair_is_a_reject(fields):
    found = to_sample(_TABLE, "x", b"i", fields)
    assert found.error_type == "BadMetadata" and "surrogates not allowed" in found.message
    assert found.message.encode()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.decimals() | st.text(st.characters()) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=8,
)
_NAMES = st.sampled_from(["caption", "label", "url", "status", "width", "sha256", "key"]) | st.text(st.characters())


@hypothesis.given(st.sampled_from([_TABLE, _IMG2DATASET]), st.dictionaries(_NAMES, _JSON, max_size=6))
def test_any_fields_make_a_sample_that_can_be_stored_or_a_reject(source, fields):
    found = to_sample(source, "x", b"i", fields)
    if isinstance(found, Sample):
        text = json.dumps(dict(found.metadata), ensure_ascii=False, sort_keys=True, allow_nan=False)
        assert (text + (found.caption or "") + (found.url or "")).encode()
        assert found.label is None or 0 <= found.label <= _LARGEST
    else:
        assert isinstance(found, Reject | Filtered)


@hypothesis.given(st.text(st.characters()))
def test_storable_text_is_utf8_and_leaves_what_is(text):
    stored = storable_text(text)
    assert stored.encode().decode() == stored
    assert stored == text or any("\ud800" <= character <= "\udfff" for character in text)
