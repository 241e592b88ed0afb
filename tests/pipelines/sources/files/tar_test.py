"""Tars of pairs: what img2dataset writes, and what nobody should have written."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import time
import tracemalloc
from collections import Counter

import hypothesis
import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from configs.base import Embed, Source
from pipelines import sources, storage
from pipelines.errors import UserError
from pipelines.sources import Filtered, InputShard, Reject, Sample
from pipelines.sources.files.tar_members import Archive
from pipelines.sources.stream import Stream

_EMBED = Embed(max_image_bytes=1000)
_SOURCE = Source(format="img2dataset")


def _tar(members, kinds=None, **options) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.type = (kinds or {}).get(name, tarfile.REGTYPE)
            info.size = len(data) if info.type == tarfile.REGTYPE else 0
            info.linkname = "/etc/passwd" if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _pair(key, caption=b"a dog", image=b"image"):
    metadata = json.dumps({"url": f"http://x/{key}"}).encode()
    return [(f"{key}.jpg", image), (f"{key}.json", metadata), (f"{key}.txt", caption)]


def _read(tmp_path, data: bytes, name="00000.tar", source=_SOURCE, siblings=()):
    path = tmp_path / name
    path.write_bytes(data)
    shard = InputShard(source, "00000", str(path), len(data), "etag", siblings=siblings)
    return list(sources.read(shard, _EMBED))


def _header(name: str, kind: bytes, size: int, **changes) -> bytes:
    """Returns a header whose checksum is right, whatever it claims."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for place, data in changes.items():
        block[int(place[1:]) : int(place[1:]) + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def _record(key: str, value: str) -> bytes:
    """Returns a pax record, whose length counts its own digits."""
    rest = f" {key}={value}\n".encode()
    length = next(n for n in range(len(rest), len(rest) + 9) if n == len(rest) + len(str(n)))
    return str(length).encode() + rest


# -- What tools write --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tar_of_img2dataset_itself(tmp_path, img2dataset):
    img2dataset("WebDatasetSampleWriter", tmp_path)
    shard, *more = sources.plan(Source(path="*.tar"), str(tmp_path), _EMBED, "")
    assert not more and shard.siblings == (str(tmp_path / "00000.parquet"),)
    assert list(sources.read(shard, _EMBED)) == [
        Sample(
            "000000000.jpg",
            bytes.fromhex("ffd8aa"),
            "a dog",
            url="http://x/0",
            metadata={"similarity": 0.0, "width": 8, "height": 6, "sha256": "00"},
        ),
        Sample(
            "000000001.jpg",
            bytes.fromhex("ffd8bb"),
            "ein Hund, süß",
            url="http://x/1",
            metadata={"similarity": 0.25, "width": 8, "height": 6, "sha256": "00"},
        ),
    ]


def test_pairs_of_an_img2dataset_tar(tmp_path):
    found = _read(tmp_path, _tar(_pair("000000000") + _pair("000000001", "ein Hund, süß\n".encode())))
    assert found == [
        Sample("000000000.jpg", b"image", "a dog", url="http://x/000000000"),
        Sample("000000001.jpg", b"image", "ein Hund, süß", url="http://x/000000001"),
    ]


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("0.tar.gz", gzip.compress),
        ("0.tgz", gzip.compress),
        ("0.tar.bz2", bz2.compress),
        ("0.tar", gzip.compress),
        ("0.tar", bz2.compress),
        ("0.tar", lzma.compress),
        ("0.tar", zstandard.compress),
        ("0.tar.zst", zstandard.compress),
        # As parallel compressors do.
        ("0.tar.zst", lambda data: zstandard.compress(data[:700]) + zstandard.compress(data[700:])),
        ("0.tar.gz", lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:])),
    ],
)
def test_compressed_tars(tmp_path, name, compress):
    data = compress(_tar(_pair("0") + _pair("1")))
    assert [item.member for item in _read(tmp_path, data, name)] == ["0.jpg", "1.jpg"]
    broken = _read(tmp_path, data[:-20], name)
    assert broken[-1].error_type == "TruncatedTar" and all(isinstance(item, Sample) for item in broken[:-1])
    assert _read(tmp_path, b"nothing" * 100, name)[0].error_type == "TruncatedTar"


def test_the_table_beside_a_tar_is_joined_by_key_and_wins(tmp_path):
    added = {"similarity": 0.3, "NSFW": "UNLIKELY", "LICENSE": "?"}
    rows = [
        {"key": "0", "url": "http://new", **added, "jpg": b"x"},
        {"key": "2", "url": None, "similarity": float("nan"), "NSFW": None, "LICENSE": None, "jpg": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "00000.parquet")
    (tmp_path / "00000.tar.gz").write_bytes(gzip.compress(_tar(_pair("0") + _pair("1") + _pair("2"))))
    (shard,) = sources.plan(Source(path="*.tar.gz"), str(tmp_path), _EMBED, "")
    assert list(sources.read(shard, _EMBED)) == [
        Sample("0.jpg", b"image", "a dog", url="http://new", metadata=added),
        Sample("1.jpg", b"image", "a dog", url="http://x/1"),
        Sample("2.jpg", b"image", "a dog"),
    ]


def test_a_table_that_cannot_be_joined_is_named(tmp_path):
    table = tmp_path / "00000.parquet"
    pq.write_table(pa.table({"id": ["0"]}), table)
    with pytest.raises(UserError, match="00000.parquet: has no column 'key'"):
        _read(tmp_path, _tar(_pair("0")), siblings=(str(table),))
    for our in ("caption", "label", "url"):
        pq.write_table(pa.table({"key": ["0"], our: [["a dog", "one dog"]]}), table)
        with pytest.raises(UserError, match=f"column '{our}', the {our}, is of type list.*make it a column of single"):
            _read(tmp_path, _tar(_pair("0")), siblings=(str(table),))
    table.write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(UserError, match="00000.parquet: is not a whole Parquet file"):
        _read(tmp_path, _tar(_pair("0")), siblings=(str(table),))


def test_a_table_says_what_was_not_downloaded(tmp_path):
    pq.write_table(pa.table({"key": ["0"], "status": ["failed_to_resize"], "error_message": ["e"]}), tmp_path / "t")
    found = _read(tmp_path, _tar(_pair("0")), siblings=(str(tmp_path / "t"),))
    assert found == [Filtered("0.jpg", "status", "failed_to_resize: e")]


def test_names_of_members_can_be_chosen(tmp_path):
    members = [("0.png", b"x"), ("0.cls", b"12\n"), ("0.text", b"a cat"), ("0.jpg", b"other")]
    source = Source(fields=("image=png", "caption=text"))
    assert _read(tmp_path, _tar(members), source=source) == [Sample("0.png", b"x", "a cat", 12)]
    with pytest.raises(UserError, match="there is no 'captoin'; did you mean 'caption'"):
        _read(tmp_path, b"", source=Source(fields=("captoin=text",)))


def _counted(tmp_path, members, source=_SOURCE):
    """Returns what the pairs of a tar are, by their image's name, and what is passed over."""
    (tmp_path / "0.tar").write_bytes(_tar(members))
    others = Counter()
    found = list(sources.read(InputShard(source, "0", str(tmp_path / "0.tar"), 1, "", others=others), _EMBED))
    return {item.member: getattr(item, "caption", None) or getattr(item, "error_type", "") for item in found}, others


def test_keys_may_have_dots(tmp_path):
    keys = ["plain_1", "track 2.0 clean", "2019.08.14-cat", "v1", "v1.0", "v1.0.1", "St. Moritz", "a/b.c/d.e", "x."]
    found, others = _counted(tmp_path, [member for key in keys for member in _pair(key, f"of {key}".encode())])
    assert found == {f"{key}.jpg": f"of {key}" for key in keys} and not others
    members = sorted(member for key in keys for member in _pair(key, f"of {key}".encode()))
    found, others = _counted(tmp_path, members)
    assert found == {f"{key}.jpg": f"of {key}" for key in keys} and not others


def test_a_table_is_joined_by_a_key_with_dots(tmp_path):
    pq.write_table(pa.table({"key": ["v1.0", "v1.1"], "score": [0.25, 0.5]}), tmp_path / "00000.parquet")
    data = _tar(_pair("v1.0") + _pair("v1.1"))
    found = _read(tmp_path, data, siblings=(str(tmp_path / "00000.parquet"),))
    assert [item.metadata["score"] for item in found] == [0.25, 0.5]


def test_further_members_of_a_sample_are_no_samples(tmp_path):
    views = [("a.cls", b"1"), ("a.depth.png", b"x"), ("a.fr.txt", b"chien"), ("a.jpg", b"x"), ("a.json", b"{}")]
    views += [("a.mask.png", b"x"), ("a.mask.jpg", b"x"), ("a.txt", b"dog"), ("a.weights.npy", b"x")]
    found, others = _counted(tmp_path, [*views, *_pair("b", b"cat"), ("b.thumb.jpg", b"x")])
    assert found == {"a.jpg": "dog", "b.jpg": "cat"}
    assert others == {".png": 2, ".txt": 1, ".jpg": 2, ".npy": 1}
    # Where no image has anything else, all are alike.
    found, others = _counted(tmp_path, [("v1.jpg", b"x"), ("v1.0.jpg", b"x"), ("v1.1.png", b"x"), ("w.jpg", b"x")])
    assert list(found) == ["v1.jpg", "v1.0.jpg", "v1.1.png", "w.jpg"] and not others
    # Fields can be named by what follows the first dot.
    source = Source(fields=("image=mask.png", "caption=fr.txt"))
    found, others = _counted(tmp_path, views, source)
    assert found == {"a.mask.png": "chien"} and others == {".png": 1, ".jpg": 2, ".txt": 1, ".npy": 1}


def test_an_image_too_large_leaves_its_further_members(tmp_path):
    found, _ = _counted(tmp_path, [("a.jpg", bytes(2000)), ("a.json", b"{}"), ("a.mask.png", b"x"), *_pair("b", b"c")])
    assert found == {"a.jpg": "TooLarge", "b.jpg": "c"}


def test_what_is_no_pair_is_counted_by_suffix(tmp_path):
    members = [("README", b"x"), ("a.npy", b"x"), *_pair("a", b"dog"), ("a.b.NPY", b"x"), ("._a.jpg", b"x")]
    members += [("d/.DS_Store", b"x"), ("a copy.of x", b"x"), ("Thumbs.db", b"x"), ("b.jpg", b"x"), ("b.png", b"x")]
    members += [("b.txt", b"cat"), ("c.webp", b"x"), ("c.jpg", b"x"), ("c.txt", b"owl")]
    found, others = _counted(tmp_path, members)
    assert found == {"a.jpg": "dog", "b.jpg": "cat", "c.jpg": "owl"}
    assert others == {"without suffix": 2, ".npy": 2, "hidden": 2, ".db": 1, ".png": 1, ".webp": 1}
    (tmp_path / "1.tar").write_bytes(_tar([(f"{number}.s{number}", b"") for number in range(300)]))
    others = Counter()
    assert list(sources.read(InputShard(_SOURCE, "1", str(tmp_path / "1.tar"), 1, "", others=others), _EMBED)) == []
    assert others.total() == 300 and len(others) == 101 and others["other suffixes"] == 200


def test_every_suffix_of_an_image_is_an_image(tmp_path):
    members = [
        (f"{number}.{suffix}", b"x") for number, suffix in enumerate("JPEG jfif jpe avif bmp gif tif heif".split())
    ]
    found, others = _counted(tmp_path, members)
    assert list(found) == [name for name, _ in members[:-1]] and others == {".heif": 1}


@pytest.mark.parametrize("member", ["txt", "cls", "url"])
def test_texts_have_no_byte_order_mark(tmp_path, member):
    values = {"txt": "caf\u00e9\u2028x", "cls": "7", "url": "http://x/7"}
    got = {"txt": "caption", "cls": "label", "url": "url"}[member]
    marked = b"\xef\xbb\xbf" + values[member].encode()
    (found,) = _read(tmp_path, _tar([("a.jpg", b"x"), (f"a.{member}", marked), ("a.json", b'\xef\xbb\xbf{"n": 1}')]))
    assert (str(getattr(found, got)), found.metadata) == (values[member], {"n": 1})
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        (found,) = _read(tmp_path, _tar([("a.jpg", b"x"), (f"a.{member}", values[member].encode(encoding))]))
        assert found.error_type == "CaptionNotUtf8"


def test_a_missing_or_empty_caption_is_none(tmp_path):
    found = _read(tmp_path, _tar([("0.jpg", b"x"), *_pair("1", b" \n")]))
    assert [item.caption for item in found] == [None, None]


def test_members_keep_the_names_they_have_in_the_tar(tmp_path):
    found = _read(tmp_path, _tar([("a/0.JPG", b"x"), ("a/0.txt", b"text"), ("a/0.xmp", b"other"), ("a/1.png", b"y")]))
    assert [item.member for item in found] == ["a/0.JPG", "a/1.png"]


def test_a_key_that_comes_twice_is_two_samples(tmp_path):
    found = _read(tmp_path, _tar(_pair("0", b"first") + _pair("0", b"second")))
    assert [item.caption for item in found] == ["first", "second"]


# -- What nobody should have written -----------------------------------------------------------


def test_a_tar_cut_anywhere_loses_nothing_silently(tmp_path):
    whole = _tar([member for i in range(3) for member in _pair(f"{i}", image=bytes([i + 1]) * 700)])
    expected = _read(tmp_path, whole)
    assert len(expected) == 3
    for cut in range(0, 3 * (1536 + 1024 + 1024), 128):
        found = _read(tmp_path, whole[:cut])
        samples = [item for item in found if isinstance(item, Sample)]
        assert samples == expected[: len(samples)]
        assert any(item.error_type == "TruncatedTar" for item in found if isinstance(item, Reject)), cut


def test_what_follows_the_end_mark_is_not_lost_silently(tmp_path):
    whole = _tar(_pair("0"))
    found = _read(tmp_path, whole + whole)
    assert [type(item) for item in found] == [Sample, Reject]
    assert "something follows its end mark" in found[1].message


@pytest.mark.parametrize(
    ("members", "kinds", "error_type"),
    [
        ([("0.txt", b"text")], {}, "MissingImage"),
        ([("0.jpg", b"x"), ("0.txt", b"\xff\xfe")], {}, "CaptionNotUtf8"),
        ([("0.jpg", b"x"), ("0.json", b"{")], {}, "BadMetadata"),
        ([("0.jpg", b"x"), ("0.json", b"[1]")], {}, "BadMetadata"),
        ([("0.jpg", b"x"), ("0.json", b"[" * 100_000)], {}, "BadMetadata"),
        ([("0.jpg", b"x"), ("0.json", b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}")], {}, "BadMetadata"),
        ([("0.jpg", b"x"), ("0.cls", b"dog")], {}, "BadLabel"),
        ([("0.jpg", b"x" * 1001)], {}, "TooLarge"),
        ([("0.jpg", b"")], {"0.jpg": tarfile.SYMTYPE}, "NotAFile"),
        ([("0.jpg", b"")], {"0.jpg": tarfile.LNKTYPE}, "NotAFile"),
        ([("0.jpg", b"")], {"0.jpg": tarfile.CHRTYPE}, "NotAFile"),
        ([("0.jpg", b"")], {"0.jpg": tarfile.FIFOTYPE}, "NotAFile"),
    ],
)
def test_hostile_members_become_rejects(tmp_path, members, kinds, error_type):
    found = _read(tmp_path, _tar([*members, *_pair("1")], kinds))
    assert [item.error_type for item in found if isinstance(item, Reject)] == [error_type]
    assert [item.member for item in found if isinstance(item, Sample)] == ["1.jpg"]


def test_paths_in_a_tar_are_only_names(tmp_path):
    found = _read(tmp_path, _tar(_pair("/etc/x") + _pair("../y")))
    assert [item.member for item in found] == ["/etc/x.jpg", "../y.jpg"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000.tar"]


def test_one_bad_member_is_one_reject_of_its_pair(tmp_path):
    found = _read(tmp_path, _tar(_pair("0", image=b"x" * 1001) + _pair("1") + _pair("2", caption=b"x" * (2 << 20))))
    assert [type(item) for item in found] == [Reject, Sample, Reject]


def test_names_and_urls_that_are_no_text_become_rejects(tmp_path):
    whole = _header("x", b"0", 1, p0=b"\xff\xfe.jpg") + _padded(b"x")
    whole += _tar([("1.jpg", b"x"), ("1.json", b'{"url": "\\ud800"}')])
    assert [item.error_type for item in _read(tmp_path, whole)] == ["NameNotUtf8", "BadMetadata"]


def test_sparse_members_are_rejected_and_passed_over(tmp_path):
    old = _header("0.jpg", b"S", 512, p482=b"\1") + bytes(504) + b"\1" + bytes(7) + bytes(512) + bytes(512)
    records = _record("GNU.sparse.major", "1") + _record("GNU.sparse.name", "1.jpg")
    new = _header("x", b"x", len(records)) + _padded(records) + _header("GNUSparseFile.0/1.jpg", b"0", 5)
    found = _read(tmp_path, old + new + _padded(b"01234") + _tar(_pair("2")))
    assert [getattr(item, "error_type", "") for item in found] == ["NotAFile", "NotAFile", ""]
    assert [item.member for item in found] == ["0.jpg", "1.jpg", "2.jpg"]


@pytest.mark.parametrize(
    "header",
    [
        _header("long", b"L", 5 << 30, p124=b"\x80" + bytes(6) + (5 << 30).to_bytes(5, "big")),
        _header("pax", b"x", 1 << 30),
        _header("pax", b"g", 1 << 30),
        _header("pax", b"x", 512) + b"9999 path=x\n" + bytes(500),
        _header("pax", b"x", 512) + b"0 path=x\n" + bytes(503),
        _header("pax", b"x", 512) + b"1" * 512,
        _header("pax", b"x", 512) + _padded(b"12 size=1e9\n"),
        _header("a.jpg", b"0", 0, p124=b"zzzzzzzzzzz\0"),
        _header("a.jpg", b"0", 0)[:-1] + b"x",
    ],
)
def test_headers_that_lie_end_the_tar_in_little_memory(tmp_path, header):
    data = _tar(_pair("0"))[:-1024].rstrip(b"\0")
    data = _padded(data) + header + bytes(1 << 16)
    tracemalloc.start()
    found = _read(tmp_path, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[-1].error_type == "TruncatedTar"
    assert peak < 4 << 20


def test_chains_of_headers_do_not_recurse(tmp_path):
    chain = (_header("x", b"L", 8) + _padded(b"0.jpg")) * 3000
    assert _read(tmp_path, chain + _header("x", b"0", 1) + _padded(b"y") + bytes(1024)) == [Sample("0.jpg", b"y")]


def test_a_large_member_is_passed_over_in_little_memory(tmp_path):
    path = tmp_path / "0.tar"
    with path.open("wb") as file:
        file.write(_header("0.jpg", b"0", 1 << 30))
        file.seek(1 << 30, os.SEEK_CUR)
        file.write(_tar(_pair("1")))
    tracemalloc.start()
    found = list(sources.read(InputShard(_SOURCE, "0", str(path), 0, ""), _EMBED))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [item.member for item in found] == ["0.jpg", "1.jpg"]
    assert found[0].error_type == "TooLarge" and "1,073,741,824 bytes" in found[0].message
    assert peak < 8 << 20


def test_bombs_end_in_bounded_time_and_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.sources.stream.FREE_BYTES", 16 << 20)
    packer = zstandard.ZstdCompressor().compressobj()
    header = _header("0.jpg", b"0", 8 << 30, p124=b"\x80" + bytes(6) + (8 << 30).to_bytes(5, "big"))
    bomb = packer.compress(header) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    tracemalloc.start()
    start = time.monotonic()
    found = _read(tmp_path, bomb, "0.tar.zst")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [item.error_type for item in found] == ["TooLarge", "TruncatedTar"]
    assert "unpacks to more than 200 times its size" in found[1].message
    assert peak < 8 << 20 and time.monotonic() - start < 10


def test_a_storage_error_fails_the_shard(monkeypatch):
    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 4000:
                raise OSError(5, "Input/output error")
            return super().read(min(size, 4096))

    data = _tar([member for i in range(20) for member in _pair(f"{i}")])
    for name, stored in (("0.tar", data), ("0.tar.bz2", bz2.compress(os.urandom(1 << 16)))):
        monkeypatch.setattr(storage, "open_read", lambda uri, stored=stored: Failing(stored))
        with pytest.raises(UserError, match="reading failed .*Input/output error.*run the same command again"):
            list(sources.read(InputShard(_SOURCE, "0", name, len(stored), "etag"), _EMBED))


def test_an_image_is_found_again(tmp_path):
    _read(tmp_path, _tar(_pair("a/0") + _pair("a/1", image=b"other") + _pair("2", image=b"x" * 1001)))
    container = str(tmp_path / "00000.tar")
    assert sources.read_image(_SOURCE, container, "a/1.jpg", _EMBED) == b"other"
    with pytest.raises(UserError, match="3.jpg: is not there; the file has changed since it was embedded"):
        sources.read_image(_SOURCE, container, "3.jpg", _EMBED)
    with pytest.raises(UserError, match="2.jpg: has 1,001 bytes, the limit is 1,000"):
        sources.read_image(_SOURCE, container, "2.jpg", _EMBED)


# -- Against another reader --------------------------------------------------------------------

_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=300)


@hypothesis.given(
    st.lists(st.tuples(_NAMES, st.binary(max_size=1200)), max_size=5),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
@hypothesis.settings(deadline=None, max_examples=60, suppress_health_check=list(hypothesis.HealthCheck))
def test_members_are_those_that_tarfile_finds(tmp_path, members, kind):
    path = tmp_path / "x.tar"
    path.write_bytes(_tar(members, format=kind))
    found = []
    with Stream(str(path)) as stream:
        archive = Archive(stream)
        for number, member in enumerate(archive):
            found.append((member.name.decode(), archive.read() if number % 2 == 0 else None))
    with tarfile.open(path) as tar:
        expected = [
            (member.name, tar.extractfile(member).read() if number % 2 == 0 else None)
            for number, member in enumerate(tar)
        ]
    assert found == expected and archive.ended


def test_ustar_prefixes_are_joined(tmp_path):
    name = "/".join(["a" * 90, "b" * 60, "0.jpg"])
    assert _read(tmp_path, _tar([(name, b"x")], format=tarfile.USTAR_FORMAT)) == [Sample(name, b"x")]


def test_numbers_in_base_256_are_read(tmp_path):
    data = _header("0.jpg", b"0", 1, p124=b"\x80" + bytes(10) + b"\3") + _padded(b"abc") + bytes(1024)
    assert _read(tmp_path, data) == [Sample("0.jpg", b"abc")]
