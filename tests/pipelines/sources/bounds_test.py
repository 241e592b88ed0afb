"""Inputs of a few bytes that claim or unpack to gigabytes: what reading them takes, in a process of its own."""

import bz2
import gzip
import io
import json
import lzma
import struct
import sys
import tarfile
import textwrap

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError
from pipelines.sources import Reject, Sample
from pipelines.sources.sample import MAX_DEPTH, check_depth
from tests import forks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

_EMBED = Embed()
# Beside the imports: blocks of files, a batch of rows, and the rows of the shards that are planned at a time.
_MEBIBYTES = 600
_SCRIPT = textwrap.dedent("""
    import collections, json, pathlib
    from configs.base import Embed, Source
    from pipelines import sources
    from pipelines.errors import UserError
    # Of this process alone: what getrusage says includes the process that started it.
    peak = lambda: int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

    def run(arguments):
        fields, root = json.loads(arguments)
        source, before, found = Source(**fields), peak(), collections.Counter()
        try:
            for shard in sources.plan(source, root, Embed(), root + "/listings"):
                for item in sources.read(shard, Embed()):
                    found[getattr(item, "error_type", type(item).__name__)] += 1
        except UserError as error:
            found[str(error)] += 1
        return json.dumps([peak() - before, found])
""")


def _measure(root, **source) -> tuple[float, dict[str, int]]:
    """Plans and reads a source; returns the MiB that it took, and its rows by kind, or the error."""
    peak, found = json.loads(forks.run(_SCRIPT, json.dumps([source, str(root)]).encode()))
    return peak, found


def _parquet(path, table: pa.Table, **options) -> None:
    pq.write_table(table, path, **{"compression": "zstd", "dictionary_pagesize_limit": 1 << 30, **options})


def _repeated(text: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def _long_value(path):
    """Some hundred bytes: one path of 12 MB in each of many rows."""
    _parquet(path, pa.table({"path": _repeated("x" * 12_000_000, 5000)}))


def _many_values(path):
    """Short enough each, but many."""
    _parquet(path, pa.table({"path": _repeated("x" * 3_000_000, 5000)}))


def _many_columns(path):
    names = [f"c{number}" for number in range(300)]
    column = _repeated("x" * 2_000_000, 600)
    _parquet(path, pa.table({"path": _repeated("a.jpg", 600), **dict.fromkeys(names, column)}))


def _many_rows(path):
    with pq.ParquetWriter(path, pa.schema({"path": pa.dictionary(pa.int32(), pa.string())})) as writer:
        table = pa.table({"path": _repeated("a.jpg", 50_000_000)})
        writer.write_table(table, row_group_size=50_000_000)


def _large_page(path):
    _parquet(path, pa.table({"path": pa.array(["x" * 300_000_000])}), use_dictionary=False, write_statistics=False)


def _repeated_list(path):
    """One row with a list of a million times the same text of 100 KB."""
    items = _repeated("y" * 100_000, 1_000_000)
    lists = pa.ListArray.from_arrays(pa.array([0, len(items)], pa.int32()), items)
    _parquet(path, pa.table({"path": ["a.jpg"], "texts": lists}))


def _long_list(path):
    lists = pa.ListArray.from_arrays(pa.array([0, 30_000_000], pa.int32()), pa.array(np.zeros(30_000_000, np.int8)))
    _parquet(path, pa.table({"path": ["a.jpg"], "numbers": lists}))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_long_value, "a row has 12,000,008 bytes of values, the limit is 4,194,304"),
        (_many_values, "it unpacks to more than 1000 times its"),
        (_many_columns, "a page of each column,"),
        (_many_rows, "its footer claims 50,000,000 rows in"),
        (_large_page, "claims to unpack to 300,000,"),
        (_repeated_list, "bytes of values, the limit is 4,194,304"),
        (_long_list, "claims 30,000,000 values in"),
    ],
)
def test_tables_of_parquet_unpack_within_bounds(tmp_path, make, words):
    make(tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 400_000
    peak, found = _measure(tmp_path, format="table", path="t.parquet")
    assert peak < _MEBIBYTES
    (error,) = found
    assert words in error and "t.parquet" in error


@pytest.mark.parametrize("make", [_large_page, _long_value])
@pytest.mark.parametrize("format", ["img2dataset_parquet"])
def test_images_in_parquet_unpack_within_bounds(tmp_path, make, format):
    make(tmp_path / "t.parquet")
    peak, found = _measure(tmp_path, format=format, path="t.parquet", fields=["image=path"])
    assert peak < _MEBIBYTES and "Sample" not in found


@pytest.mark.parametrize(
    ("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", None)]
)
def test_compressed_tables_of_text_unpack_within_bounds(tmp_path, suffix, pack):
    text = b"path,caption\n" + (b"a.jpg," + b"x" * 5000 + b"\n") * 10_000
    data = pa.compress(text, "zstd", asbytes=True) if pack is None else pack(text)
    (tmp_path / f"t.csv.{suffix}").write_bytes(data)
    del text
    peak, found = _measure(tmp_path, format="table", path=f"t.csv.{suffix}")
    (error,) = found
    assert peak < _MEBIBYTES and "it unpacks to more than 200 times its size" in error


def test_rows_of_long_texts_make_small_shards(tmp_path):
    """Beside each other, thousands of them would not fit."""
    (tmp_path / "t.csv").write_bytes(b"path,caption\n" + (b"a.jpg," + b"x" * 100_000 + b"\n") * 600)
    source = Source(format="table", path="t.csv")
    shards = sources.plan(source, str(tmp_path), _EMBED, f"{tmp_path}/listings")
    assert sum(shard.rows for shard in shards) == 600 and max(shard.rows for shard in shards) < 100


# JSON


def _deep(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 500, 900, 100_000, 400_000])
def test_deep_json_of_a_tar_is_a_reject(tmp_path, depth):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, data in (("a.jpg", b"x"), ("a.json", f'{{"more": {_deep(depth)}}}'.encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (shard,) = sources.plan(Source(path="0.tar"), str(tmp_path), _EMBED, f"{tmp_path}/listings")
    (item,) = sources.read(shard, _EMBED)
    if depth == MAX_DEPTH:
        assert isinstance(item, Sample)
    else:
        assert isinstance(item, Reject) and item.error_type == "BadMetadata"


def test_the_depth_of_values_is_that_of_lists_and_objects_in_each_other():
    check_depth({"a": 1})
    nested: object = 1
    for _ in range(MAX_DEPTH):
        nested = {"a": nested} if isinstance(nested, list) else [nested]
    check_depth({"a": nested})
    with pytest.raises(ValueError, match=f"nested more than {MAX_DEPTH} deep"):
        check_depth({"a": [nested]})


@pytest.mark.parametrize("depth", [70, 900, 3000, 200_000])
def test_deep_json_of_a_list_is_worded(tmp_path, depth):
    image = f'{{"id": 0, "file_name": "a.jpg", "more": {_deep(depth)}}}'
    annotations = '[{"id": 0, "image_id": 0, "category_id": 0}]'
    categories = '[{"id": 0, "name": "a"}]'
    text = f'{{"images": [{image}], "annotations": {annotations}, "categories": {categories}}}'
    (tmp_path / "train.json").write_text(text)
    source = Source(format="inat2021", path="train.json")
    with pytest.raises(UserError, match=r"train\.json: .*(nested more than 64 deep|recursion)"):
        sources.plan(source, str(tmp_path), _EMBED, f"{tmp_path}/listings")


# Claimed sizes


def _npy(path, shape: str, data: bytes = b"") -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-len(header) - 11 % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data)


@pytest.mark.parametrize(
    "shape",
    ["(1000000000000, 512)", "(5, 1000000000)", "(9223372036854775808, 65536)", "(-1, 4)", "(1" + "0" * 900 + ", 4)"],
)
def test_vectors_of_absurd_claimed_sizes_take_no_memory(tmp_path, shape):
    _npy(tmp_path / "img_emb_0.npy", shape, bytes(64))
    peak, found = _measure(tmp_path, format="vectors", path="img_emb_0.npy")
    rejected = found.get("BrokenVectors", 0) + found.get("TruncatedVectors", 0)
    # Four rows of four numbers are there.
    assert peak < _MEBIBYTES and rejected == 1 and found.get("Sample", 0) in (0, 4)


def _masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@pytest.mark.parametrize("length", [1 << 40, (1 << 64) - 1, 67_000_000])
def test_records_of_absurd_claimed_sizes_take_no_memory(tmp_path, length):
    head = struct.pack("<Q", length)
    (tmp_path / "0.tfrecord").write_bytes(head + _masked(head) + bytes(100))
    peak, found = _measure(tmp_path, format="tfrecord", path="0.tfrecord")
    assert peak < _MEBIBYTES and found == {"TruncatedRecords": 1}


@pytest.mark.parametrize("size", [1 << 40, (1 << 63) - 1])
def test_members_of_absurd_claimed_sizes_take_no_memory(tmp_path, size):
    info = tarfile.TarInfo("a.jpg")
    info.size = size
    (tmp_path / "0.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2000))
    peak, found = _measure(tmp_path, format="img2dataset", path="0.tar")
    assert peak < _MEBIBYTES and found == {"TooLarge": 1, "TruncatedTar": 1}
