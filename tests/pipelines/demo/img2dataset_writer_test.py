"""The layout of img2dataset 1.47, field by field."""

import hashlib
import json
import pathlib
import tarfile

import pyarrow.parquet as pq
import pytest

from pipelines.demo import img2dataset_writer
from pipelines.demo.img2dataset_writer import Pair

# What img2dataset 1.47 writes with `--compute_hash sha256`; saved additional columns come first.
FIELDS = [
    *("license", "caption", "url", "key", "status", "error_message", "width", "height"),
    *("original_width", "original_height", "exif", "sha256"),
]
STATS = {"count", "successes", "failed_to_download", "failed_to_resize", "duration", "start_time", "end_time"}


def _pairs(count: int) -> list[Pair]:
    return [Pair(b"jpeg %d" % i, 8, 6, f"caption {i} é", f"pkg:npm/x@1#{i}", "MIT") for i in range(count)]


def test_a_shard_looks_like_img2datasets(tmp_path: pathlib.Path) -> None:
    img2dataset_writer.write_shard(tmp_path, 3, _pairs(201), 1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00003.parquet", "00003.tar", "00003_stats.json"]

    with tarfile.open(tmp_path / "00003.tar") as tar:
        members = tar.getmembers()
        contents = {member.name: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    assert [member.name for member in members[:4]] == ["00003000.jpg", "00003000.json", "00003000.txt", "00003001.jpg"]
    assert len(members) == 3 * 201
    assert {(m.mode, m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {
        (0o444, 0, 0, 0, "bigdata", "bigdata")
    }
    assert contents["00003200.jpg"] == b"jpeg 200"
    assert contents["00003200.txt"].decode() == "caption 200 é"
    metadata = json.loads(contents["00003200.json"])
    assert list(metadata) == FIELDS
    assert metadata == {
        "license": "MIT",
        "caption": "caption 200 é",
        "url": "pkg:npm/x@1#200",
        "key": "00003200",
        "status": "success",
        "error_message": None,
        "width": 8,
        "height": 6,
        "original_width": 8,
        "original_height": 6,
        "exif": "{}",
        "sha256": hashlib.sha256(b"jpeg 200").hexdigest(),
    }

    file = pq.ParquetFile(tmp_path / "00003.parquet")
    assert file.schema_arrow.names == FIELDS
    assert {str(field.type) for field in file.schema_arrow} == {"string", "int32"}
    assert file.num_row_groups == 3
    rows = file.read().to_pylist()
    assert rows == [json.loads(contents[f"{row['key']}.json"]) for row in rows]

    stats = json.loads((tmp_path / "00003_stats.json").read_text())
    assert set(stats) == STATS | {"status_dict"}
    assert stats["count"] == stats["successes"] == 201
    assert stats["status_dict"] == {"success": 201}


@pytest.mark.parametrize(
    ("pairs_per_shard", "key"), [(2000, "000010002"), (10_000, "000010002"), (1000, "00001002"), (3, "000012")]
)
def test_keys_have_as_many_digits_as_img2datasets(tmp_path: pathlib.Path, pairs_per_shard: int, key: str) -> None:
    img2dataset_writer.write_shard(tmp_path, 1, _pairs(3), pairs_per_shard)
    assert pq.read_table(tmp_path / "00001.parquet")["key"].to_pylist()[2] == key


def test_equal_pairs_give_equal_bytes(tmp_path: pathlib.Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        img2dataset_writer.write_shard(tmp_path / name, 0, _pairs(5), 10)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_too_many_pairs_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="4 pairs in a shard of 3"):
        img2dataset_writer.write_shard(tmp_path, 0, _pairs(4), 3)
