"""Tables beside tars, as pandas, DuckDB and others leave them: keys as numbers, keys of another tar, odd values."""

import decimal
import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError
from pipelines.sources import InputShard

_KEYS = [f"{number:09d}" for number in (0, 1, 2, 30)]


def _read(tmp_path, table, keys=_KEYS, fields=()):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for key in keys:
            for suffix, data in (("jpg", b"image"), ("json", json.dumps({"key": key}).encode())):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    pq.write_table(pa.table(table), tmp_path / "0.parquet")
    siblings = (str(tmp_path / "0.parquet"),)
    shard = InputShard(Source(fields=fields), "0", str(tmp_path / "0.tar"), 0, "", siblings=siblings)
    return list(sources.read(shard, Embed()))


@pytest.mark.parametrize(
    "keys",
    [
        _KEYS,
        [0, 1, 2, 30],
        pa.array([0, 1, 2, 30], pa.uint8()),
        pa.array([0.0, 1.0, 2.0, 30.0]),
        pa.array([decimal.Decimal(number) for number in (0, 1, 2, 30)]),
        pa.array(_KEYS).dictionary_encode(),
        pa.array([0, 1, 2, 30]).dictionary_encode(),
        pa.array([key.encode() for key in _KEYS]),
    ],
    ids=lambda keys: str(getattr(keys, "type", type(keys[0]).__name__)),
)
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2]])
def test_keys_are_joined_whatever_their_type_and_order(tmp_path, keys, order):
    whole = pa.table({"key": keys, "score": [5.0, 6.0, 7.0, 8.0], "label": [3.0, 2.0, float("nan"), 0.0]})
    found = _read(tmp_path, whole.take(order))
    assert [(item.member, item.metadata["score"], item.label) for item in found] == [
        ("000000000.jpg", 5, 3),
        ("000000001.jpg", 6, 2),
        ("000000002.jpg", 7, None),
        ("000000030.jpg", 8, 0),
    ]


def test_numbers_beyond_a_float_are_different_keys(tmp_path):
    keys = [2**60, 2**60 + 1]
    found = _read(tmp_path, {"key": keys, "score": [1, 2]}, [str(key) for key in keys])
    assert [item.metadata["score"] for item in found] == [1, 2]


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (["0", "1", "2", "30"], 0),
        (["0/000000000", "x", "y", "z"], 0),
        ([100, 101, 102, 103], 0),
        ([0, 101, 102, 103], 1),
        ([0, 1, 102, None], 2),
        ([None, None, None, float("nan")], 0),
    ],
)
def test_a_table_with_few_of_the_keys_is_refused(tmp_path, keys, found):
    said = (
        rf"0.parquet: has rows for {found} of 4 keys of its tar; the tar has '0000000\d\d', the table's first keys are"
    )
    with pytest.raises(UserError, match=said):
        _read(tmp_path, {"key": keys, "score": [1, 2, 3, 4]})


def test_a_table_may_have_more_and_a_few_less_than_its_tar(tmp_path):
    found = _read(tmp_path, {"key": [0, 1, 30, 77], "score": [1, 2, 3, 4]})
    assert [item.metadata.get("score") for item in found] == [1, 2, None, 3]


def test_a_table_of_another_tar_is_noticed_before_the_tar_ends(tmp_path):
    keys = [f"{number:09d}" for number in range(1200)]
    with pytest.raises(UserError, match="has rows for 0 of 1,000 keys"):
        _read(tmp_path, {"key": ["x"], "score": [1]}, keys)


def test_a_row_with_a_value_that_cannot_be_read_is_one_reject(tmp_path):
    table = {"key": [0, 1, 2, 30], "when": pa.array([0, None, 0, None], pa.timestamp("us", "Mars/Phobos"))}
    found = _read(tmp_path, table)
    assert [getattr(item, "error_type", None) for item in found] == ["BadValue", None, "BadValue", None]
    assert "its row in the table: a value of type timestamp[us, tz=Mars/Phobos] cannot" in found[0].message


def test_a_list_of_labels_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="0.parquet: column 'label', the label, is of type list"):
        _read(tmp_path, {"key": _KEYS, "label": [[1]] * 4})
