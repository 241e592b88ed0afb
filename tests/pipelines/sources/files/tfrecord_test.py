"""TFRecords as TensorFlow writes them, and as nobody should."""

import bz2
import gzip
import lzma
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib

import google_crc32c
import hypothesis
import hypothesis.strategies as st
import pytest

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError
from pipelines.sources import InputShard, Reject, Sample
from pipelines.sources.files import tfrecord

_EMBED = Embed(max_image_bytes=1000)


def _masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def _field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _example(**features) -> bytes:
    """Returns an encoded `tf.train.Example`, written by hand from its .proto."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = _field(1, _field(1, value))
        elif isinstance(value, float):
            feature = _field(2, _field(1, struct.pack("<f", value)))
        else:
            feature = _field(3, _field(1, _varint(value & (1 << 64) - 1)))
        entries += _field(1, _field(1, name.replace("__", "/").encode()) + _field(2, feature))
    return _field(1, entries)


def _read(tmp_path, data: bytes, *fields, name="0.tfrecord"):
    (tmp_path / name).write_bytes(data)
    shard = InputShard(Source(format="tfrecord", fields=fields), "0", str(tmp_path / name), len(data), "")
    return list(sources.read(shard, _EMBED))


# -- What tools write --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_of_img2dataset_itself(tmp_path, img2dataset):
    img2dataset("TFRecordSampleWriter", tmp_path)
    (shard,) = sources.plan(Source("tfrecord", "*.tfrecord"), str(tmp_path), _EMBED, "")
    assert shard.name == "00000"
    assert list(sources.read(shard, _EMBED)) == [
        Sample(
            "0",
            bytes.fromhex("ffd8aa"),
            "a dog",
            url="http://x/0",
            metadata={"similarity": 0.0, "width": 8, "height": 6, "sha256": "00"},
        ),
        Sample(
            "1",
            bytes.fromhex("ffd8bb"),
            "ein Hund, süß",
            url="http://x/1",
            metadata={"similarity": 0.25, "width": 8, "height": 6, "sha256": "00"},
        ),
    ]


@pytest.mark.slow
def test_files_that_tensorflow_writes(tmp_path):
    import tensorflow as tf

    def feature(value):
        kinds = {bytes: "bytes_list", int: "int64_list", float: "float_list"}
        lists = {"bytes_list": tf.train.BytesList, "int64_list": tf.train.Int64List, "float_list": tf.train.FloatList}
        kind = kinds[type(value[0])]
        return tf.train.Feature(**{kind: lists[kind](value=value)})

    rows = {
        "image/encoded": [b"x"],
        "image/text": ["süß".encode()],
        "image/class/label": [7],
        "box": [0.5, 0.25],
        "ids": [1, -2, 1 << 40],
        "raw": [b"\xff"],
        "tags": [b"a", b"b"],
    }
    example = tf.train.Example(features=tf.train.Features(feature={name: feature(v) for name, v in rows.items()}))
    with tf.io.TFRecordWriter(str(tmp_path / "w.tfrecord")) as writer:
        writer.write(example.SerializeToString())
    with tf.io.TFRecordWriter(str(tmp_path / "w.tfrecord.gz"), tf.io.TFRecordOptions("GZIP")) as writer:
        writer.write(example.SerializeToString())
    expected = Sample("0", b"x", "süß", 7, metadata={"box": [0.5, 0.25], "ids": [1, -2, 1 << 40], "tags": ["a", "b"]})
    for name in ("w.tfrecord", "w.tfrecord.gz"):
        data = (tmp_path / name).read_bytes()
        assert _read(tmp_path, data, "label=image/class/label", name=name) == [expected]


@hypothesis.given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=9),
        st.one_of(
            st.lists(st.binary(max_size=9), max_size=5),
            st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=5),
            st.lists(st.floats(width=32, allow_nan=False), max_size=5),
        ),
        max_size=5,
    )
)
@hypothesis.settings(deadline=None, max_examples=100)
@pytest.mark.slow
def test_messages_are_those_that_protobuf_reads(features):
    from tensorflow.core.example import example_pb2

    example = example_pb2.Example()
    for name, values in features.items():
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(values[0]) if values else bytes]
        getattr(example.features.feature[name], kind).value.extend(values)
    found = tfrecord.parse_example(example.SerializeToString())
    assert {name: list(tfrecord.feature_values(feature)) for name, feature in found.items()} == features


def test_loads_no_tensorflow():
    program = "import sys, pipelines.sources; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, env={**os.environ}).returncode == 0


def test_names_of_files_and_features_can_be_any(tmp_path):
    records = [_example(image__x=b"a", text=b"a cat", n=-1, s=0.5), _example(image__x=b"b")]
    for part in range(2):
        (tmp_path / f"web.tfrecord-{part:05d}-of-00002").write_bytes(_frame(records[part]) * (1 + 99 * part))
    source = Source("tfrecord", "web.tfrecord-*", fields=("image=image/x", "caption=text"))
    shards = sources.plan(source, str(tmp_path), _EMBED, "")
    assert [shard.name for shard in shards] == ["web-tfrecord-00000-of-00002", "web-tfrecord-00001-of-00002"]
    assert list(sources.read(shards[0], _EMBED)) == [Sample("0", b"a", "a cat", metadata={"n": -1, "s": 0.5})]
    assert sources.read_image(source, shards[0].uri, "0", _EMBED) == b"a"
    with pytest.raises(UserError, match="no record has a feature 'text'.*known are image/x"):
        list(sources.read(shards[1], _EMBED))


# -- What nobody should have written -----------------------------------------------------------


def test_a_file_cut_anywhere_loses_nothing_silently(tmp_path):
    frames = [_frame(_example(jpg=b"%d" % i)) for i in range(3)]
    whole = b"".join(frames)
    for cut in range(len(whole) + 1):
        found = _read(tmp_path, whole[:cut])
        ends = [sum(map(len, frames[:n])) for n in range(4)]
        count = max(n for n in range(4) if ends[n] <= cut)
        assert found[:count] == [Sample(str(i), b"%d" % i) for i in range(count)]
        assert [item.error_type for item in found[count:]] == ([] if cut in ends else ["TruncatedRecords"])


def test_damage_is_one_reject_where_the_framing_holds(tmp_path):
    frames = [bytearray(_frame(_example(jpg=b"%d" % i))) for i in range(3)]
    frames[1][20] ^= 1
    found = _read(tmp_path, b"".join(frames))
    assert found == [
        Sample("0", b"0"),
        Reject("1", "read", "BrokenRecord", "the checksum of its data is wrong"),
        Sample("2", b"2"),
    ]
    frames[1][0] ^= 1
    found = _read(tmp_path, b"".join(frames))
    assert found[0] == Sample("0", b"0") and [item.error_type for item in found[1:]] == ["TruncatedRecords"]
    assert "the checksum of a record's length is wrong" in found[1].message


@pytest.mark.parametrize(
    ("record", "error_type"),
    [
        (_example(), "MissingImage"),
        (b"", "MissingImage"),
        (_example(jpg=3), "MissingImage"),
        (_example(jpg=b"x" * 1001), "TooLarge"),
        (_example(jpg=b"x", label=-1), "BadLabel"),
        (_example(jpg=b"x", caption=0.5), "BadCaption"),
        (_example(jpg=b"x", txt=b"\xff"), "CaptionNotUtf8"),
        (_example(jpg=b"x")[:-1], "BrokenRecord"),
        (b"\xff" * 20, "BrokenRecord"),
        (b"\x0b\x0c", "BrokenRecord"),
        (_field(1, _field(1, _field(1, b"\xff"))), "BrokenRecord"),
        (_field(1, b"\x0a\x00" * 5000), "BrokenRecord"),
        (b"\x12\x00" * 500_000, "BrokenRecord"),
        (_field(1, _field(1, _field(1, b"jpg") + _field(2, _field(2, _field(1, b"123"))))), "BrokenRecord"),
    ],
)
def test_one_bad_record_is_one_reject(tmp_path, record, error_type):
    found = _read(tmp_path, _frame(record) + _frame(_example(jpg=b"y")))
    assert found[0].error_type == error_type and found[1] == Sample("1", b"y")


def test_sizes_are_bounded_before_anything_is_read(tmp_path):
    length = struct.pack("<Q", 1 << 62)
    records = _frame(bytes(8 << 20)) + _frame(_example(jpg=b"x")) + length + _masked(length)
    packed = gzip.compress(records)
    tracemalloc.start()
    found = _read(tmp_path, packed, name="0.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [getattr(item, "error_type", "") for item in found] == ["BrokenRecord", "", "TruncatedRecords"]
    assert "has 8,388,608 bytes, the limit is" in found[0].message
    assert peak < 4 << 20


# -- Compression ---------------------------------------------------------------------------------


def test_compression_is_recognised_without_a_suffix(tmp_path):
    data = b"".join(_frame(_example(image=bytes([65 + row]), label=row)) for row in range(5))
    expected = [Sample(str(row), bytes([65 + row]), label=row) for row in range(5)]
    packed = [gzip.compress(data), bz2.compress(data), lzma.compress(data), zlib.compress(data), zlib.compress(data, 1)]
    for whole in (data, *packed, zlib.compress(data, 9), zlib.compress(data, 0)):
        assert _read(tmp_path, whole, name="train-00000-of-00001.tfrecord") == expected
    for whole in packed:
        *_, last = _read(tmp_path, whole[:-3])
        assert last.error_type == "TruncatedRecords"


@pytest.mark.parametrize("head", [b"\x1f\x8b\x08\0", b"x\x9c\0\0", b"x^\x01\0"])
def test_a_length_that_looks_like_a_compression_is_a_length(tmp_path, head):
    length = int.from_bytes(head, "little")
    image = bytes(2 * length - 100 - len(_example(image=bytes(length - 100))))
    record = _example(image=image)
    assert len(record) == length and _frame(record).startswith(head)
    (tmp_path / "0").write_bytes(_frame(record))
    shard = InputShard(Source(format="tfrecord"), "0", str(tmp_path / "0"), length, "")
    assert list(sources.read(shard, Embed())) == [Sample("0", image)]
