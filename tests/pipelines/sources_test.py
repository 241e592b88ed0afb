"""The readers on what their tools write, and on what they never should have written."""

import io
import json
import tarfile

import hypothesis
import hypothesis.strategies as st
import pytest

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError
from pipelines.sources import InputShard, Reject, Sample

_EMBED = Embed(max_image_bytes=1000, list_shard_rows=2)


def _tar(members, kinds=None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
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


def _read(tmp_path, data: bytes):
    path = tmp_path / "00000.tar"
    path.write_bytes(data)
    return list(sources.read(InputShard("img2dataset", "00000", str(path), len(data), "etag"), _EMBED))


def test_pairs_of_an_img2dataset_tar(tmp_path):
    found = _read(tmp_path, _tar(_pair("000000000") + _pair("000000001", "ein Hund, süß\n".encode())))
    assert found == [
        Sample("000000000.jpg", b"image", "a dog", url="http://x/000000000"),
        Sample("000000001.jpg", b"image", "ein Hund, süß", url="http://x/000000001"),
    ]


def test_a_tar_cut_anywhere_loses_nothing_silently(tmp_path):
    whole = _tar([member for i in range(3) for member in _pair(f"{i}", image=bytes([i + 1]) * 700)])
    expected = _read(tmp_path, whole)
    assert len(expected) == 3
    for cut in range(0, 3 * (1536 + 1024 + 1024), 128):
        found = _read(tmp_path, whole[:cut])
        samples = [item for item in found if isinstance(item, Sample) and item.caption]
        assert samples == expected[: len(samples)]
        assert any(item.error_type == "TruncatedTar" for item in found if isinstance(item, Reject)), cut


@pytest.mark.parametrize(
    ("members", "kinds", "error_type"),
    [
        ([("0.txt", b"text")], {}, "MissingImage"),
        ([("0.jpg", b"x"), ("0.txt", b"\xff\xfe")], {}, "CaptionNotUtf8"),
        ([("0.jpg", b"x"), ("0.json", b"{")], {}, "BadMetadata"),
        ([("0.jpg", b"x"), ("0.json", b"[1]")], {}, "BadMetadata"),
        ([("0.jpg", b"x"), ("0.json", b"[" * 100_000)], {}, "BadMetadata"),
        ([("0.jpg", b"x" * 1001)], {}, "TooLarge"),
        ([("0.jpg", b"")], {"0.jpg": tarfile.SYMTYPE}, "NotAFile"),
        ([("0.jpg", b"")], {"0.jpg": tarfile.LNKTYPE}, "NotAFile"),
        ([("0.jpg", b"")], {"0.jpg": tarfile.CHRTYPE}, "NotAFile"),
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


def test_a_key_that_comes_twice_is_two_samples(tmp_path):
    found = _read(tmp_path, _tar(_pair("0", b"first") + _pair("0", b"second")))
    assert [item.caption for item in found] == ["first", "second"]


def test_members_keep_the_names_they_have_in_the_tar(tmp_path):
    found = _read(tmp_path, _tar([("a/0.JPG", b"x"), ("a/0.txt", b"text"), ("a/0.xmp", b"other"), ("a/1.png", b"y")]))
    assert [item.member for item in found] == ["a/0.JPG", "a/1.png"]


def test_one_bad_member_is_one_reject_of_its_pair(tmp_path):
    found = _read(tmp_path, _tar(_pair("0", image=b"x" * 1001) + _pair("1") + _pair("2", caption=b"x" * (2 << 20))))
    assert [type(item) for item in found] == [Reject, Sample, Reject]


def test_names_and_urls_that_are_no_text_become_rejects(tmp_path):
    whole = _tar([*_pair("NAME"), ("1.jpg", b"x"), ("1.json", b'{"url": "\\ud800"}')]).replace(
        b"NAME", b"\xff\xfe\xfdE"
    )
    fixed = bytearray(whole)
    for start in range(0, len(fixed) - 512, 512):
        if fixed[start + 257 : start + 262] == b"ustar":
            fixed[start + 148 : start + 156] = b" " * 8
            fixed[start + 148 : start + 156] = b"%06o\0 " % sum(fixed[start : start + 512])
    assert [item.error_type for item in _read(tmp_path, bytes(fixed))] == ["NameNotUtf8", "BadMetadata"]


def test_a_storage_error_fails_the_shard(tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 4000 and size not in (1024,):
                raise OSError(5, "Input/output error")
            return super().read(size)

    data = _tar([member for i in range(20) for member in _pair(f"{i}")])
    monkeypatch.setattr(sources.storage, "open_read", lambda uri: Failing(data))
    with pytest.raises(UserError, match="reading failed .*Input/output error.*run the same command again"):
        list(sources.read(InputShard("img2dataset", "0", "0.tar", len(data), "etag"), _EMBED))


def test_a_missing_or_empty_caption_is_none(tmp_path):
    found = _read(tmp_path, _tar([("0.jpg", b"x"), *_pair("1", b" \n")]))
    assert [item.caption for item in found] == [None, None]


@hypothesis.given(st.binary(max_size=3000), st.integers(0, 5000), st.integers(0, 255))
@hypothesis.settings(deadline=None, max_examples=200, suppress_health_check=list(hypothesis.HealthCheck))
def test_no_bytes_break_the_tar_reader(tmp_path, noise, place, value):
    whole = bytearray(_tar(_pair("0") + _pair("1")))
    whole[place % len(whole)] = value
    for data in (noise, bytes(whole)):
        assert all(isinstance(item, Sample | Reject) for item in _read(tmp_path, data))


def test_planning_errors(tmp_path):
    with pytest.raises(UserError, match="matches no file"):
        sources.plan(Source(path="*.tar"), str(tmp_path), _EMBED)
    with pytest.raises(UserError, match="did you mean 'img2dataset'"):
        sources.plan(Source(format="img2datset", path="*.tar"), str(tmp_path), _EMBED)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.tar").write_bytes(b"")
    with pytest.raises(UserError, match="same name"):
        sources.plan(Source(path="*/*.tar"), str(tmp_path), _EMBED)
