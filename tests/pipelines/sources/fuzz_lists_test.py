"""Whatever the bytes of a list or of a zip are: rows, rejects or a `UserError`, nothing else.

Quick by default; `FUZZ_SECS=60` gives each case a minute. The mutations come from a seed, so what is found can be
found again; it becomes a case of the format's own tests.
"""

import bz2
import gzip
import io
import json
import os
import time
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError
from pipelines.sources import Filtered, Reject, Sample
from tests.pipelines.sources.listed import image, write_images

_SECS = float(os.environ.get("FUZZ_SECS", "0.3"))
_EMBED = Embed(max_image_bytes=2000, list_shard_rows=3)
_TOKENS = [
    b"",
    b"\0",
    b"\n",
    b"\r",
    b"\t",
    b" ",
    b",",
    b'"',
    b"/",
    b"..",
    b"\xff\xfe",
    b"-1",
    b"9" * 30,
    b"NaN",
    b"[",
    b"{",
]
_TOKENS += [
    b"}",
    b"]",
    b":",
    b"null",
    b"\\ud800",
    b"\xef\xbb\xbf",
    b".zip/",
    b"http://[",
    b"%",
    b"+",
    b"a" * 300,
    b"1e999",
]


def _mutations(seeds: list[bytes]):
    """Yields the seeds, then without end what random edits make of them."""
    yield from seeds
    random = np.random.default_rng(0)
    while True:
        data = bytearray(seeds[random.integers(len(seeds))])
        for _ in range(random.integers(1, 6)):
            at = int(random.integers(len(data) + 1))
            until = at + int(random.integers(1, 12))
            match random.integers(5):
                case 0:
                    data[at:until] = _TOKENS[random.integers(len(_TOKENS))]
                case 1:
                    data[at:at] = _TOKENS[random.integers(len(_TOKENS))]
                case 2:
                    del data[at : at + int(random.integers(1, 60))]
                case 3:
                    data[at:at] = data[at : at + int(random.integers(1, 60))]
                case _:
                    data[at:until] = random.bytes(until - at)
        yield bytes(data)


def _run(root, source: Source, file: str, seeds: list[bytes]) -> int:
    """Plans and reads a source with each mutation in one of its files; returns how many were whole."""
    whole, rounds, end = 0, 0, time.monotonic() + _SECS
    for data in _mutations(seeds):
        if rounds >= len(seeds) and time.monotonic() > end:
            return whole
        rounds += 1
        (root / file).write_bytes(data)
        try:
            for shard in sources.plan(source, str(root), _EMBED, f"{root}/listings"):
                for item in sources.read(shard, _EMBED):
                    assert isinstance(item, Sample | Reject | Filtered)
            whole += 1
        except UserError as error:
            assert "\n" not in str(error).replace(str(root), ""), error
        except Exception as error:
            raise AssertionError(f"round {rounds}: {data!r}") from error


def _packed(data: bytes) -> dict[str, bytes]:
    return {"": data, ".gz": gzip.compress(data), ".bz2": bz2.compress(data), ".zst": zstandard.compress(data)}


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zst"])
def test_image_list(tmp_path, suffix):
    write_images(tmp_path, "train/airfield/1.jpg", "x y.jpg")
    texts = [b"x y.jpg 1\ngone.jpg 2\n", b"data_256/a/airfield/1.jpg 0\nval_256/Places365_val_00000001.jpg 3\n"]
    source = Source(format="image_list", path=f"list{suffix}")
    assert _run(tmp_path, source, f"list{suffix}", [_packed(text)[suffix] for text in texts]) >= 2


def test_swat(tmp_path):
    write_images(tmp_path, "x y.jpg")
    source = Source(format="swat", path="list.txt")
    assert _run(tmp_path, source, "list.txt", [b"x y.jpg 1 1\ngone.jpg 2 0\n"]) >= 1


def test_inat2021(tmp_path):
    data = {
        "info": {"year": 2021},
        "images": [{"id": 0, "file_name": "x.jpg", "license": 0, "latitude": 1.5}, {"id": 1, "file_name": "y.jpg"}],
        "categories": [{"id": 0, "name": "A", "common_name": "a"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 0} for i in range(2)],
        "licenses": [{"id": 0, "name": "CC"}],
    }
    write_images(tmp_path, "x.jpg")
    source = Source(format="inat2021", path="list.json")
    seeds = [json.dumps(data).encode(), json.dumps(data, indent=1).encode()]
    assert _run(tmp_path, source, "list.json", seeds) >= 2


def test_coco(tmp_path):
    data = {
        "images": [{"id": 1, "file_name": "x.jpg", "license": 0, "coco_url": "u"}, {"id": 2, "file_name": "y.jpg"}],
        "annotations": [{"image_id": 1, "id": 7, "caption": "a dog"}, {"image_id": 2, "id": 8, "category_id": 3}],
        "categories": [{"id": 3, "name": "A"}],
        "licenses": [{"id": 0, "name": "CC"}],
    }
    write_images(tmp_path, "x.jpg")
    source = Source(format="coco", path="list.json")
    assert _run(tmp_path, source, "list.json", [json.dumps(data).encode(), json.dumps(data, indent=1).encode()]) >= 2


@pytest.mark.parametrize("file", ["list.txt", "synsets.txt"])
def test_webvision(tmp_path, file):
    write_images(tmp_path, "google/q0001/x.jpg")
    texts = {"list.txt": b"google/q0001/x.jpg 0\ngone.jpg 1\n", "synsets.txt": b"n01 tench\nn02 goldfish, fish\n"}
    for name, data in texts.items():
        (tmp_path / name).write_bytes(data)
    source = Source(format="webvision", path="list.txt", metadata="synsets.txt")
    assert _run(tmp_path, source, file, [texts[file]]) >= 1


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_table(tmp_path, suffix):
    write_images(tmp_path, "x.jpg")
    seeds = {
        "csv": [b'path,caption,label,more\nx.jpg,"a\nb ""c""",1,2\ngone.jpg,,,\n', b'url,label\nftp://x,1\n"",\n'],
        "tsv": [b"path\tcaption\nx.jpg\ta dog\n"],
    }
    table = {"path": ["x.jpg", "gone.jpg"], "label": [1.0, None], "n": [float("nan"), 1.5], "t": [["a"], None]}
    file = io.BytesIO()
    pq.write_table(pa.table(table), file)
    seeds["parquet"] = [file.getvalue()]
    assert _run(tmp_path, Source(format="table", path=f"t.{suffix}"), f"t.{suffix}", seeds[suffix]) >= len(
        seeds[suffix]
    )


@pytest.mark.parametrize("file", ["subset.tsv", "dataset"])
def test_yfcc15m(tmp_path, file):
    columns = ["hash", "n", "u%20x", "d", "1", "dev", "A+title", "%3Cb%3Etext%3C%2Fb%3E", *["x"] * 15]
    texts = {
        "subset.tsv": b"1234\t99\th\n5\t98\th\n",
        "dataset": "".join(
            "\t".join([str(i), str(p), *columns]) + "\n" for i, p in ((5, 98), (6, 1), (1234, 99))
        ).encode(),
    }
    for name, data in texts.items():
        (tmp_path / name).write_bytes(data)
    source = Source(format="yfcc15m", path="subset.tsv", metadata="dataset")
    assert _run(tmp_path, source, file, [texts[file]]) >= 1


def test_class_names(tmp_path):
    write_images(tmp_path, "x.jpg")
    (tmp_path / "list.txt").write_text("x.jpg 1\n")
    source = Source(format="image_list", path="list.txt", class_names="names.txt")
    assert _run(tmp_path, source, "names.txt", [b"a\nb\n", b"n01\tcat\nn02\tdog\n"]) >= 2


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_zips(tmp_path, method):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("a/x.jpg", image(0))
        archive.writestr("y", b"y" * 3000)
    (tmp_path / "list.txt").write_text("x.zip/a/x.jpg 0\nx.zip/y 1\nx.zip/z 2\nx.zip/../x 2\n")
    assert _run(tmp_path, Source(format="image_list", path="list.txt"), "x.zip", [file.getvalue()]) >= 1
