"""Shards one after another: single rows, and the shards beside one that fails."""

import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest

from configs.base import Embed, Filters, Source
from pipelines import manifest, schemas, storage
from pipelines.embedding import shard_run
from pipelines.embedding.inference import ShardJob, Tools
from pipelines.embedding.shard_run import ShardLine
from pipelines.encoders.handles import EncoderSpec
from pipelines.encoders.loaded import EncoderSet
from pipelines.errors import UserError
from pipelines.filtering.row_filters import RowFilters
from pipelines.filtering.unwanted.opt_out import OptOut
from pipelines.schemas import EncoderInfo
from pipelines.sources import Filtered, InputShard, Reject, Sample

_DIGESTS = [hashlib.sha256(bytes([i])).digest() for i in range(9)]
_SPEC = EncoderSpec("precomputed:x", "precomputed", EncoderInfo("print", 2, False, "float32"), "", {})


def _sample(i, vector=(3.0, 4.0), **fields):
    metadata = {"sha256": _DIGESTS[i].hex(), "similarity": i / 10, "original_width": 10 * i, "original_height": 7}
    fields = {"caption": f"caption {i}", "url": f"http://host/{i}", "label": i, **fields}
    return Sample(str(i), b"", metadata=metadata, vectors={"key": np.array(vector, np.float32)}, **fields)


def _embed(tmp_path, monkeypatch, items, filters=None, listed=(), is_memory=True):
    monkeypatch.setattr(shard_run.sources, "read", lambda shard, embed: iter(items))
    shard = InputShard(Source(), "x", "x.tar", 1, "etag", number=3)
    job = ShardJob(shard, str(tmp_path), "hash", "run", {"key": _SPEC}, is_memory)
    opt_out = OptOut(np.array(listed, "S32")) if listed else None
    tools = Tools(EncoderSet({"key": _SPEC}), RowFilters(filters or Filters()), opt_out)
    line = ShardLine(tools, Embed(batch_size=2), 2)
    line.add(job)
    line.finish()
    marker = manifest.read_marker(str(tmp_path), "x", "hash")
    read = {
        "": schemas.embeddings({"key": 2}).names,
        "_rejects/": schemas.REJECTS.names,
        "_filtered/": schemas.FILTERED.names,
    }
    return marker, *(schemas.read(f"{tmp_path}/{f}x.parquet", columns).to_pylist() for f, columns in read.items())


def test_vectors_of_a_source_are_rows_without_an_image(tmp_path, monkeypatch):
    marker, rows, _, _ = _embed(tmp_path, monkeypatch, [_sample(i, (i, 1.0)) for i in range(5)])
    assert (marker.rows_in, marker.rows_out) == (5, 5)
    assert [row["id"] for row in rows] == [(3 << 40) | i for i in range(5)]
    assert [row["key"] for row in rows] == [[float(i), 1.0] for i in range(5)]
    assert [row["content_key"] for row in rows] == _DIGESTS[:5]
    assert [(row["width"], row["height"], row["label"]) for row in rows] == [(10 * i, 7, i) for i in range(5)]
    assert json.loads(rows[2]["metadata"])["similarity"] == 0.2


def test_rows_balance_and_unused_rows_are_listed_in_the_order_of_the_source(tmp_path, monkeypatch):
    items = [
        _sample(0),
        Reject("1", "read", "MissingImage", "gone", retryable=True),
        _sample(2),
        Filtered("3", "status", "failed_to_download: 404"),
        _sample(4, (np.nan, 1)),
        Sample("5", b"not an image", "text"),
        _sample(6, caption="no"),
    ]
    marker, rows, rejects, filtered = _embed(tmp_path, monkeypatch, items, Filters(min_caption_chars=3))
    assert (marker.rows_in, marker.rows_out, marker.rows_rejected, marker.rows_filtered) == (7, 2, 3, 2)
    assert marker.filtered == {"status": 1, "min_caption_chars": 1} and marker.retryable == 1
    assert [row["member"] for row in rows] == ["0", "2"]
    named = [(row["member"], row["stage"], row["error_type"], row["retryable"], row["attempt"]) for row in rejects]
    assert named == [
        ("1", "read", "MissingImage", True, 1),
        ("4", "encode", "NotFinite", False, 1),
        ("5", "read", "MissingVector", False, 1),
    ]
    assert [(row["member"], row["filter"]) for row in filtered] == [("3", "status"), ("6", "min_caption_chars")]
    assert storage.read_json(f"{tmp_path}/_done/x.json")["rows_in"] == 7


@pytest.mark.parametrize(("dtype", "normalized"), [("float16", False), ("float32", False), ("float16", True)])
def test_vectors_without_a_direction_are_rejects_after_the_cast(tmp_path, monkeypatch, dtype, normalized):
    info = EncoderInfo("print", 2, normalized, dtype)
    monkeypatch.setitem(globals(), "_SPEC", EncoderSpec("precomputed:x", "precomputed", info, "", {}))
    vectors = [(3.0, 4.0), (0.0, 0.0), (1e-30, 0.0), (70_000.0, 1.0), (1e-5, 0.0), (np.inf, 1.0)]
    _, rows, rejects, _ = _embed(tmp_path, monkeypatch, [_sample(i, vector) for i, vector in enumerate(vectors)])
    lost = {("float16", False): {"3": "NotFinite", "4": "ZeroVector"}}.get((dtype, normalized), {})
    expected = {"1": "ZeroVector", "2": "ZeroVector", "5": "NotFinite", **lost}
    assert {row["member"]: row["error_type"] for row in rejects} == expected
    assert [row["member"] for row in rows] == [str(i) for i in range(6) if str(i) not in expected]
    assert np.isfinite([row["key"] for row in rows]).all()


@pytest.mark.parametrize("size", [True, -1, 2**31, 2**40, "640", 0.5, float("nan"), None])
def test_a_size_that_no_image_has_is_no_size(tmp_path, monkeypatch, size):
    sample = _sample(1)
    sample.metadata["original_width"] = size
    _, rows, rejects, _ = _embed(tmp_path, monkeypatch, [sample])
    assert (rows[0]["width"], rows[0]["height"], rejects) == (None, 7, [])


def test_why_a_row_is_not_used_can_always_be_written(tmp_path, monkeypatch):
    items = [Reject("a", "read", "Odd", "\ud800" * 5000), Filtered("\udfff", "status", "\ud800"), _sample(2)]
    _, rows, rejects, filtered = _embed(tmp_path, monkeypatch, items)
    assert len(rows) == 1 and rejects[0]["message"].startswith("\\ud800\\ud800") and len(rejects[0]["message"]) == 500
    assert (filtered[0]["member"], filtered[0]["value"]) == ("\\udfff", "\\ud800")


def test_opted_out_images_are_never_stored(tmp_path, monkeypatch):
    listed = [_DIGESTS[1], hashlib.sha256(b"http://host/3").digest()]
    marker, rows, _, filtered = _embed(tmp_path, monkeypatch, [_sample(i) for i in range(5)], None, listed)
    assert [row["member"] for row in rows] == ["0", "2", "4"] and marker.filtered == {"opt_out": 2}
    assert [row["member"] for row in filtered] == ["1", "3"]


def test_queries_are_not_filtered(tmp_path, monkeypatch):
    strict = Filters(min_caption_chars=99, min_side=99, metadata=("similarity>5",))
    marker, rows, _, _ = _embed(tmp_path, monkeypatch, [_sample(1)], strict, [_DIGESTS[1]], is_memory=False)
    assert marker.rows_out == len(rows) == 1


def test_a_file_with_other_rows_than_were_read_gets_no_marker(tmp_path, monkeypatch):
    monkeypatch.setattr(schemas, "count_rows", lambda uri: 1)
    with pytest.raises(ValueError, match="5 rows in, 1 out"):
        _embed(tmp_path, monkeypatch, [_sample(i) for i in range(5)])
    assert not (tmp_path / "_done").exists()


def _line(monkeypatch, folder, contents, threads=2):
    """Returns a line, and a job for each shard of these samples."""
    monkeypatch.setattr(shard_run.sources, "read", lambda shard, embed: iter(contents[shard.number]))
    jobs = [
        ShardJob(InputShard(Source(), f"s{n}", f"s{n}.tar", 1, "etag", number=n), str(folder), "h", "r", {"key": _SPEC})
        for n in range(len(contents))
    ]
    return ShardLine(Tools(EncoderSet({"key": _SPEC}), RowFilters(Filters()), None), Embed(batch_size=2), threads), jobs


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


@pytest.mark.parametrize("threads", [1, 3])
def test_a_line_of_shards_writes_what_each_alone_does(tmp_path, monkeypatch, threads):
    bad = Reject("x", "read", "MissingImage", "gone")
    sizes = [5, 1, 0, 1, 1, 7, 0, 2]
    contents = [[_sample(i, (n + 1, i)) for i in range(size)] + [bad] * (n % 2) for n, size in enumerate(sizes)]
    line, jobs = _line(monkeypatch, tmp_path / "line", contents, threads)
    for job in jobs:
        line.add(job)
    line.finish()
    for place in range(len(jobs)):
        alone, jobs = _line(monkeypatch, tmp_path / "alone", contents)
        alone.add(jobs[place])
        alone.finish()
    assert _files(tmp_path / "line") == _files(tmp_path / "alone") and len(_files(tmp_path / "line")) == 3 * len(sizes)
    markers = manifest.read_markers(str(tmp_path / "line"), "h")
    assert [(markers[f"s{n}"].rows_out, markers[f"s{n}"].rows_rejected) for n in range(len(sizes))] == [
        (size, n % 2) for n, size in enumerate(sizes)
    ]
    assert not shard_run.in_flight


def test_the_next_shard_begins_before_the_last_batch_of_this_one_is_done(tmp_path, monkeypatch):
    begun = threading.Event()

    class Waiting(shard_run.BatchEmbedder):
        def __call__(self, items):
            assert self.job.shard.number or begun.wait(10)
            begun.set()
            return super().__call__(items)

    monkeypatch.setattr(shard_run, "BatchEmbedder", Waiting)
    line, jobs = _line(monkeypatch, tmp_path, [[_sample(0)], [_sample(1)]])
    for job in jobs:
        line.add(job)
    line.finish()
    assert sorted(manifest.read_markers(str(tmp_path), "h")) == ["s0", "s1"]


def test_if_a_shard_fails_unfinished_shards_leave_nothing_and_are_done_again(tmp_path, monkeypatch):
    class Failing(shard_run.BatchEmbedder):
        def __call__(self, items):
            if self.job.shard.number == 3:
                raise OSError("no space left")
            return super().__call__(items)

    whole = shard_run.BatchEmbedder
    contents = [[_sample(i) for i in range(7)] for _ in range(5)]
    monkeypatch.setattr(shard_run, "BatchEmbedder", Failing)
    line, jobs = _line(monkeypatch, tmp_path, contents)
    with pytest.raises(
        UserError, match=r": no space left, while \S*s3.tar was embedded; fix that and run the same command again"
    ):
        for job in jobs:
            line.add(job)
    assert sorted(manifest.read_markers(str(tmp_path), "h")) == ["s0", "s1", "s2"]
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["s0.parquet", "s1.parquet", "s2.parquet"]
    assert not shard_run.in_flight
    done = _files(tmp_path)
    monkeypatch.setattr(shard_run, "BatchEmbedder", whole)
    line, jobs = _line(monkeypatch, tmp_path, contents)
    for job in jobs:
        line.add(job)
    line.finish()
    assert sorted(manifest.read_markers(str(tmp_path), "h")) == ["s0", "s1", "s2", "s3", "s4"]
    assert {name: data for name, data in _files(tmp_path).items() if name in done} == done


def _mixed(rows: int):
    """Mostly rows that are not used, in the order of their members, with a sample now and then."""
    for i in range(rows):
        if i % 5000 == 7:
            yield _sample(i % 9, (1.0, i))
        elif i % 2:
            yield Reject(f"{i:07d}", "read", "MissingImage", "gone", retryable=i % 3 == 0)
        else:
            yield Filtered(f"{i:07d}", "status", "failed_to_download")


def test_many_unused_rows_are_written_in_order_and_do_not_depend_on_threads(tmp_path, monkeypatch):
    rows, found = 30_001, []
    for threads in (1, 3):
        line, (job,) = _line(monkeypatch, tmp_path / str(threads), [_mixed(rows)], threads)
        line.add(job)
        line.finish()
        found.append(_files(tmp_path / str(threads)))
    assert found[0] == found[1]
    marker = manifest.read_markers(str(tmp_path / "3"), "h")["s0"]
    assert (marker.rows_in, marker.rows_out, marker.rows_filtered) == (rows, 6, 15_001)
    assert marker.retryable == sum(i % 2 and i % 3 == 0 and i % 5000 != 7 for i in range(rows))
    for folder, columns in (("_rejects", schemas.REJECTS.names), ("_filtered", schemas.FILTERED.names)):
        members = schemas.read(f"{tmp_path}/3/{folder}/s0.parquet", columns).column("member").to_pylist()
        assert members == sorted(members) and len(members) > 14_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_tar_of_empty_members_takes_little_memory(tmp_path):
    """In a process of its own: 200,000 rows without an image, which a tar of 1.4 MB has when it is compressed."""
    header = tarfile.TarInfo("0000000.jpg").tobuf(tarfile.USTAR_FORMAT)
    with gzip.open(tmp_path / "0.tar.gz", "wb") as tar:
        for i in range(200_000):
            name = f"{i:07d}.txt".encode()
            block = bytearray(name + header[len(name) :])
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
            tar.write(block)
        tar.write(bytes(1024))
    done = subprocess.run([sys.executable, "-c", _SCRIPT, str(tmp_path)], capture_output=True, check=True, text=True)
    peak, rejected = map(int, done.stdout.split())
    assert rejected == 200_000 and peak < 100 << 10


_SCRIPT = """
import pathlib, sys
from configs.base import Embed, Filters, Source
from pipelines import manifest
from pipelines.embedding.inference import ShardJob, Tools
from pipelines.embedding.shard_run import ShardLine
from pipelines.encoders.handles import EncoderSpec
from pipelines.encoders.loaded import EncoderSet
from pipelines.filtering.row_filters import RowFilters
from pipelines.schemas import EncoderInfo
from pipelines.sources import InputShard
folder = sys.argv[1]
spec = EncoderSpec("precomputed:x", "precomputed", EncoderInfo("print", 2, False, "float32"), "", {})
shard = InputShard(Source(), "s", folder + "/0.tar.gz", 1, "etag", number=0)
job = ShardJob(shard, folder + "/out", "h", "r", {"key": spec})
line = ShardLine(Tools(EncoderSet({"key": spec}), RowFilters(Filters()), None), Embed(), 1)
peak = lambda: int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
line.add(job)
line.finish()
print(peak() - before, manifest.read_marker(folder + "/out", "s", "h").rows_rejected)
"""
