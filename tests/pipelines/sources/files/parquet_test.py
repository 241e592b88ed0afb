"""Tables with images in a column: img2dataset's, HuggingFace's, one's own, and broken ones."""

import datetime
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.base import Embed, Source
from pipelines import sources, storage
from pipelines.errors import UserError
from pipelines.sources import Filtered, InputShard, Reject, Sample

_EMBED = Embed(max_image_bytes=1000)
_PEAK = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system does not tell a process's peak")
_SOURCE = Source(format="img2dataset_parquet")


def _shard(path, *fields):
    return InputShard(Source(format="img2dataset_parquet", fields=fields), "0", str(path), 0, "")


def _read(tmp_path, table, *fields, **options):
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), tmp_path / "0.parquet", **options)
    return list(sources.read(_shard(tmp_path / "0.parquet", *fields), _EMBED))


# -- What tools write --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_table_of_img2dataset_itself(tmp_path, img2dataset):
    img2dataset("ParquetSampleWriter", tmp_path)
    (shard,) = sources.plan(Source("img2dataset_parquet", "*.parquet"), str(tmp_path), _EMBED, "")
    first, second, third = sources.read(shard, _EMBED)
    assert first == Sample(
        "0",
        bytes.fromhex("ffd8aa"),
        "a dog",
        url="http://x/0",
        metadata={"similarity": 0.0, "width": 8, "height": 6, "sha256": "00"},
    )
    assert (second.image, second.caption, second.url) == (bytes.fromhex("ffd8bb"), "ein Hund, süß", "http://x/1")
    assert third == Filtered("2", "status", "failed_to_download: HTTP Error 404")


def test_rows_of_img2dataset(tmp_path):
    found = _read(
        tmp_path,
        {
            "key": ["00", "01", "02"],
            "jpg": [b"a", None, None],
            "txt": ["a dog", None, None],
            "caption": ["a dog", "gone", "lost"],
            "url": ["u0", "u1", "u2"],
            "status": ["success", "failed_to_download", "success"],
            "error_message": [None, "404", None],
            "exif": ["{}", None, None],
            "NSFW": ["UNSURE", None, None],
        },
    )
    assert found == [
        Sample("0", b"a", "a dog", url="u0", metadata={"NSFW": "UNSURE"}),
        Filtered("1", "status", "failed_to_download: 404"),
        Reject("2", "read", "MissingImage", "column 'jpg' is empty"),
    ]


def test_images_as_huggingface_has_them(tmp_path):
    found = _read(
        tmp_path,
        {
            "image": [{"bytes": b"a", "path": "x.jpg"}, {"bytes": None, "path": "y.jpg"}, None],
            "label": pa.array([3, 4, 5]),
            "thumbnail": [{"bytes": b"small", "path": None}] * 3,
        },
    )
    assert found[0] == Sample("0", b"a", label=3)
    assert [item.error_type for item in found[1:]] == ["MissingImage", "MissingImage"]


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary(3), pa.dictionary(pa.int8(), pa.binary()), pa.binary_view()]
)
def test_any_column_of_bytes_can_be_the_image(tmp_path, kind):
    values = pa.array([b"abc", None, b"def"], pa.binary())
    images = values.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else values.cast(kind)
    table = {"content": images, "alt": pa.array([b"a cat", b"\xff", "süß".encode()], pa.binary())}
    found = _read(tmp_path, table, "image=content", "caption=alt")
    assert found[0] == Sample("0", b"abc", "a cat")
    assert found[1].error_type == "BadValue" and "utf-8" in found[1].message
    assert found[2] == Sample("2", b"def", "süß")


def test_metadata_are_json_values_and_no_lists(tmp_path):
    found = _read(
        tmp_path,
        {
            "jpg": [b"a", b"b"],
            "score": [0.5, float("nan")],
            "when": [datetime.datetime(2024, 1, 2), None],
            "tags": [["x", "y"], []],
            "box": [{"x": 1, "raw": b"z"}, None],
            "phash": [b"\xff", None],
        },
    )
    assert found[0].metadata == {"score": 0.5, "when": "2024-01-02 00:00:00", "box": {"x": 1, "raw": None}}
    assert found[1].metadata == {}


def test_numbers_of_rows_go_on_over_row_groups(tmp_path):
    table = {"jpg": [b"%d" % i for i in range(200)], "txt": [f"text {i}" for i in range(200)]}
    found = _read(tmp_path, table, row_group_size=70)
    assert found == [Sample(str(i), b"%d" % i, f"text {i}") for i in range(200)]
    assert sources.read_image(_SOURCE, str(tmp_path / "0.parquet"), "150", _EMBED) == b"150"
    with pytest.raises(UserError, match="200: is not there"):
        sources.read_image(_SOURCE, str(tmp_path / "0.parquet"), "200", _EMBED)


# -- What nobody should have written -----------------------------------------------------------


def test_names_that_are_not_there_are_answered_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"0.parquet: has no column 'jpg' or 'png'.*known are a, b"):
        _read(tmp_path, {"a": [1], "b": [2]})
    with pytest.raises(UserError, match="has no column 'imgae'.*did you mean 'image'"):
        _read(tmp_path, {"image": [b"x"]}, "image=imgae")
    with pytest.raises(UserError, match="has no column of single values 'captoin'.*did you mean 'caption'"):
        _read(tmp_path, {"image": [b"x"], "caption": ["x"]}, "caption=captoin")
    with pytest.raises(UserError, match="has no column of single values 'texts'"):
        _read(tmp_path, {"image": [b"x"], "texts": [["x"]]}, "caption=texts")


@pytest.mark.parametrize(
    ("column", "value", "error_type"),
    [
        ("jpg", b"x" * 1001, "TooLarge"),
        ("caption", 3, "BadCaption"),
        ("label", -1, "BadLabel"),
        ("label", "dog", "BadLabel"),
        ("more", "x" * (2 << 20), "TooLarge"),
    ],
)
def test_one_bad_row_is_one_reject(tmp_path, column, value, error_type):
    rows = [{"jpg": b"x"}, {"jpg": b"x", column: value}]
    found = _read(tmp_path, pa.Table.from_pylist(rows, pa.table({"jpg": [b"x"], column: [value]}).schema))
    assert found[0] == Sample("0", b"x") and found[1].error_type == error_type


def test_text_that_is_not_utf8_rejects_its_row(tmp_path):
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"good", b"\xff\xfe"], pa.binary()).buffers())
    found = _read(tmp_path, {"jpg": [b"a", b"b"], "txt": bad})
    assert found[0] == Sample("0", b"a", "good") and found[1].error_type == "BadValue"


def test_a_column_of_another_type_rejects_the_file(tmp_path):
    for values in (["http://x"], [3], [{"path": "x"}]):
        (found,) = _read(tmp_path, {"jpg": values})
        assert found.error_type == "BrokenParquet" and "not bytes of images" in found.message
    twice = pa.Table.from_arrays([pa.array([b"x"]), pa.array([b"x"])], ["jpg", "jpg"])
    (found,) = _read(tmp_path, twice)
    assert found == Reject("", "read", "BrokenParquet", "has two columns 'jpg'")


def _damaged(tmp_path, place, value=b"\xff\xff\xff"):
    table = pa.table({"jpg": [os.urandom(500) for _ in range(30)], "txt": [f"{i}" for i in range(30)]})
    path = tmp_path / "0.parquet"
    pq.write_table(table, path, row_group_size=10, compression="none", use_dictionary=False, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    place = place(data, pq.read_metadata(path))
    data[place : place + len(value)] = value
    path.write_bytes(data)
    return list(sources.read(_shard(path), _EMBED))


def test_a_damaged_page_loses_its_row_group_alone(tmp_path):
    found = _damaged(tmp_path, lambda data, meta: meta.row_group(1).column(0).data_page_offset + 2000)
    assert [item.member for item in found] == [*map(str, range(11)), *map(str, range(20, 30))]
    assert found[10].error_type == "BrokenParquet"
    assert found[10].message.startswith("rows 10 to 19 cannot be read: ") and "CRC" in found[10].message


@pytest.mark.parametrize("cut", [0, 3, 4, 8, 11, 12, 100, 5000])
def test_a_cut_file_is_one_reject(tmp_path, cut):
    pq.write_table(pa.table({"jpg": [os.urandom(500) for _ in range(30)]}), tmp_path / "0.parquet")
    data = (tmp_path / "0.parquet").read_bytes()
    (tmp_path / "0.parquet").write_bytes(data[:cut])
    (found,) = sources.read(_shard(tmp_path / "0.parquet"), _EMBED)
    assert found.error_type == "BrokenParquet" and found.member == ""


def test_a_footer_that_claims_gigabytes_is_not_believed(tmp_path):
    path = tmp_path / "0.parquet"
    path.write_bytes(b"PAR1" + (3 << 30).to_bytes(4, "little") + b"PAR1")
    (found,) = sources.read(_shard(path), _EMBED)
    assert found.message == "its footer claims 3,221,225,472 bytes"


def test_rows_that_disagree_with_the_footer_are_noticed(tmp_path):
    table = pa.table({"jpg": [b"x"] * 100})
    pq.write_table(table, tmp_path / "0.parquet", compression="none")
    data = (tmp_path / "0.parquet").read_bytes()
    tail = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    # The row group's 100 rows, a varint, become 101; the file's number comes before it.
    last = data.rindex(b"\x16\xc8\x01", tail)
    (tmp_path / "0.parquet").write_bytes(data[:last] + b"\x16\xca\x01" + data[last + 3 :])
    *samples, reject = sources.read(_shard(tmp_path / "0.parquet"), _EMBED)
    assert samples == [Sample(str(i), b"x") for i in range(len(samples))] and len(samples) in (0, 100)
    assert reject.error_type == "BrokenParquet"


def test_a_storage_error_fails_the_shard(tmp_path, monkeypatch):
    pq.write_table(pa.table({"jpg": [os.urandom(900) for _ in range(3000)]}), tmp_path / "0.parquet")
    real = storage.open_read

    def failing(uri):
        file = real(uri)

        class Failing:
            def read(self, size=-1):
                if 500_000 < file.tell() < 2_000_000:
                    raise OSError(5, "Input/output error")
                return file.read(size)

            def __getattr__(self, name):
                return getattr(file, name)

        return Failing()

    monkeypatch.setattr(storage, "open_read", failing)
    with pytest.raises(UserError, match="reading failed .*run the same command again"):
        list(sources.read(_shard(tmp_path / "0.parquet"), _EMBED))


def test_more_empty_rows_than_bytes_are_not_read_one_by_one(tmp_path):
    (found,) = _read(tmp_path, {"jpg": pa.nulls(1_000_000, pa.binary())})
    assert found.error_type == "BrokenParquet" and "claims 1,000,000 rows in" in found.message


def _peak_mib(program: str, *args: str) -> int:
    """Runs a program and returns the most memory it had; `getrusage` would count that of its parent, too."""
    status = "print(open('/proc/self/status').read())"
    command = [sys.executable, "-c", f"{textwrap.dedent(program)}\n{status}", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(re.search(r"VmHWM:\s+(\d+)", done.stdout)[1]) >> 10


_READ = """
    import sys
    from configs.base import Embed, Source
    from pipelines import sources
    count = 0
    shard = sources.InputShard(Source(format="img2dataset_parquet"), "0", sys.argv[1], 0, "")
    for item in sources.read(shard, Embed()):
        count += 1
        assert isinstance(item, sources.Sample) and len(item.image) == int(sys.argv[2]), item
    assert count == int(sys.argv[3]), count
"""


@pytest.mark.slow
@_PEAK
def test_memory_is_bounded_by_a_few_images(tmp_path):
    base = _peak_mib("from pipelines import sources")
    image = os.urandom(1 << 19)
    with pq.ParquetWriter(
        tmp_path / "plain", pa.schema([("jpg", pa.binary())]), use_dictionary=False, write_batch_size=8
    ) as writer:
        writer.write_table(pa.table({"jpg": [image] * 500}))
    assert _peak_mib(_READ, str(tmp_path / "plain"), str(1 << 19), "500") < base + 120
    # One value that a small file names many times.
    large = pa.DictionaryArray.from_arrays(pa.array(np.zeros(300, np.int32)), pa.array([image * 16], pa.binary()))
    pq.write_table(pa.table({"jpg": large}), tmp_path / "bomb", store_schema=False, dictionary_pagesize_limit=1 << 30)
    assert _peak_mib(_READ, str(tmp_path / "bomb"), str(8 << 20), "300") < base + 350


# -- What fuzzing found ------------------------------------------------------------------------


def test_a_time_zone_that_nobody_knows_rejects_its_rows(tmp_path):
    times = pa.array([0, None], pa.timestamp("ns", "Mars/Phobos"))
    found = _read(tmp_path, {"jpg": [b"a", b"b"], "when": times})
    assert found[0].error_type == "BadValue" and "Mars/Phobos" in found[0].message
    assert found[1] == Sample("1", b"b")


@_PEAK
def test_a_page_that_claims_gigabytes_takes_none(tmp_path):
    path = tmp_path / "0.parquet"
    pq.write_table(pa.table({"jpg": [b"x" * 100]}), path, compression="none", use_dictionary=False)
    data = path.read_bytes()
    start = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    # Type, then size unpacked and packed as zigzag varints of two bytes each.
    head = data[start : start + 8]
    assert head[:3] == b"\x15\x00\x15" and head[5:6] == b"\x15"
    claim = b"\xfe\xff\xff\xff\x0f"
    path.write_bytes(data[:start] + b"\x15\x00\x15" + claim + b"\x15" + claim + data[start + 8 :])
    program = """
        import sys
        from configs.base import Embed, Source
        from pipelines import sources
        (found,) = sources.read(sources.InputShard(Source("img2dataset_parquet"), "0", sys.argv[1], 0, ""), Embed())
        assert found.error_type == "BrokenParquet" and "2147483647" in found.message, found
    """
    assert _peak_mib(program, str(path)) < _peak_mib("from pipelines import sources") + 100


@pytest.mark.slow
def test_no_byte_of_a_footer_ends_the_process(tmp_path):
    table = pa.table({"jpg": [b"x", None], "box": [{"x": "a"}, None], "tags": [["a"], []]})
    pq.write_table(table, tmp_path / "good", store_schema=False)
    program = """
        import sys
        from configs.base import Embed, Source
        from pipelines import sources
        shard = sources.InputShard(Source("img2dataset_parquet"), "0", sys.argv[1] + "/0.parquet", 0, "")
        good, path = open(sys.argv[1] + "/good", "rb").read(), shard.uri
        for place in range(len(good) - 8 - int.from_bytes(good[-8:-4], "little"), len(good)):
            for change in (1, 2, 0x7F):
                data = bytearray(good)
                data[place] ^= change
                open(path, "wb").write(data)
                try:
                    found = list(sources.read(shard, Embed()))
                except sources.UserError:
                    continue
                assert all(isinstance(item, sources.Sample | sources.Reject) for item in found)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
