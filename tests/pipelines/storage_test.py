import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import zipfile

import fsspec
import pytest
import zstandard

from pipelines import storage
from pipelines.errors import UserError


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("a", "b"), "a/b"),
        (("a/", "b", ""), "a/b"),
        (("a", "/b"), "/b"),
        (("gs://x", "b"), "gs://x/b"),
        (("a", "s3://x/b"), "s3://x/b"),
    ],
)
def test_join(parts, expected):
    assert storage.join(*parts) == expected


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"


def test_a_file_appears_only_when_it_is_whole(root):
    path = f"{root}/deep/file"
    with pytest.raises(RuntimeError), storage.atomic_write(path) as file:
        file.write(b"half")
        assert not storage.exists(path)
        raise RuntimeError
    assert not storage.exists(path)
    assert storage.glob(f"{root}/deep/*") == []
    with storage.atomic_write(path) as file:
        file.write(b"whole")
    assert storage.open_read(path).read() == b"whole"
    assert storage.sha256(path) == hashlib.sha256(b"whole").hexdigest()
    assert storage.found(path).size_bytes == 5


def test_a_failed_rewrite_leaves_the_old_file(root):
    path = f"{root}/file"
    storage.write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), storage.atomic_write(path):
        raise RuntimeError
    assert storage.read_json(path) == {"a": 1}


def test_a_folder_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "folder"
    with pytest.raises(RuntimeError), storage.atomic_folder(str(target)) as temporary:
        (tmp_path / temporary / "x").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with storage.atomic_folder(str(target)) as temporary:
            (tmp_path / temporary / "x").write_text(text)
        assert (target / "x").read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_left_overs_of_killed_writers_are_not_seen_and_can_be_removed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.parquet.tmp-123").write_text("half")
    (tmp_path / "a" / "x.parquet").write_text("whole")
    (tmp_path / "shard.tmp-9").mkdir()
    (tmp_path / "shard.tmp-9" / "inner").write_text("half")
    assert _uris(str(tmp_path / "a" / "*")) == [str(tmp_path / "a" / "x.parquet")]
    storage.remove_temporaries(str(tmp_path))
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["a", "a/x.parquet"]


def test_relative_globs_stay_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    for name in ("b", "a"):
        (tmp_path / "d" / name).write_text("")
    assert _uris("d/*") == ["d/a", "d/b"]
    assert _uris("d/b,d/a") == ["d/a", "d/b"]
    assert storage.join("", "d/a") == "d/a"


def test_errors_name_the_file(tmp_path):
    with pytest.raises(UserError, match="nothing.json: no such file"):
        storage.read_json(str(tmp_path / "nothing.json"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match="broken.json: is not valid JSON"):
        storage.read_json(str(tmp_path / "broken.json"))
    with pytest.raises(UserError, match="no storage driver"):
        storage.open_read("nonsense://x")


def test_read_image_from_folder_and_zip(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"in folder")
    with zipfile.ZipFile(tmp_path / "0.zip", "w") as archive:
        archive.writestr("a/x.jpg", b"in zip")
    assert storage.read_image(str(tmp_path), "x.jpg", 100) == b"in folder"
    assert storage.read_image(str(tmp_path), "0.zip/a/x.jpg", 100) == b"in zip"
    with pytest.raises(UserError, match="no member 'y.jpg'"):
        storage.read_image(str(tmp_path), "0.zip/y.jpg", 100)
    for member in ("x.jpg", "0.zip/a/x.jpg"):
        with pytest.raises(UserError, match="larger than 3 bytes"):
            storage.read_image(str(tmp_path), member, 3)


def test_folders_are_listed_whatever_their_names(root):
    for name in ("b.json", "a.json", "c.txt", "x.json.tmp-1"):
        storage.write_json(f"{root}/odd[1]*.tmp-/{name}", 1)
    storage.write_json(f"{root}/odd[1]*.tmp-/deeper/d.json", 1)
    found = storage.files(f"{root}/odd[1]*.tmp-", ".json")
    assert [storage.name(path) for path in found] == ["a.json", "b.json"]
    assert [storage.read_json(path) for path in found] == [1, 1]
    assert storage.files(f"{root}/nowhere", ".json") == []


def _uris(patterns):
    return [file.uri for file in storage.glob(patterns)]


def _touch(root, *names):
    for name in names:
        with storage.atomic_write(f"{root}/{name}") as file:
            file.write(name.encode())


def test_patterns_find_files_and_no_folders(root):
    _touch(root, "a/00000.tar", "a/00001.tar", "a/00002.tar", "a/x.txt", "a/deep/00003.tar", "b/00000.tar", "b/y.txt")
    expected = {
        "a/*.tar": ["a/00000.tar", "a/00001.tar", "a/00002.tar"],
        "a/{00000..00001}.tar": ["a/00000.tar", "a/00001.tar"],
        "{b,a}/00000.tar": ["a/00000.tar", "b/00000.tar"],
        "{a,b}/*.txt": ["a/x.txt", "b/y.txt"],
        "a/0000[12].tar": ["a/00001.tar", "a/00002.tar"],
        "a/0000?.tar": ["a/00000.tar", "a/00001.tar", "a/00002.tar"],
        "*/y.*": ["b/y.txt"],
        "a/*": ["a/00000.tar", "a/00001.tar", "a/00002.tar", "a/x.txt"],
        "c/*": [],
        "a": [],
    }
    for pattern, names in expected.items():
        assert _uris(f"{root}/{pattern}") == [_whole(root, name) for name in names], pattern


def _whole(root, name):
    return f"{root}/{name}".replace("memory://", "memory:///")


def test_several_patterns_are_separated_by_commas(root):
    _touch(root, "a.txt", "b.txt", "c.csv")
    assert _uris(f"{root}/b.txt, {root}/*.csv,{root}/{{a,b}}.txt") == [
        _whole(root, n) for n in ("a.txt", "b.txt", "c.csv")
    ]
    assert storage.parts("a,{b,c},x[,]y , ,d") == ["a", "{b,c}", "x[,]y", "d"]
    assert storage.parts("") == []


def test_sizes_are_those_of_the_files(root):
    _touch(root, "a.txt", "long.txt")
    assert [(file.size_bytes, bool(file.etag)) for file in storage.glob(f"{root}/*.txt")] == [(5, True), (8, True)]


def test_a_missing_member_of_braces_is_named(root):
    _touch(root, "a/00000.tar", "a/00002.tar")
    with pytest.raises(storage.MissingFile, match="a/00001.tar: no such file"):
        storage.glob(f"{root}/a/{{00000..00002}}.tar")
    with pytest.raises(storage.MissingFile, match="nowhere/x: no such file"):
        storage.glob(f"{root}/a/*,{root}/nowhere/x")
    with pytest.raises(UserError, match="its braces name more than 10,000,000 paths"):
        storage.glob(f"{root}/{{0..99999999}}.tar")


def test_many_shards_take_few_calls(root, monkeypatch):
    fs, path = fsspec.core.url_to_fs(root)
    calls = []

    def ls(folder, detail=True, **unused):
        calls.append(folder)
        number = folder.rpartition("/")[2]
        return [
            {"name": f"{folder}/{shard:05d}.tar", "type": "file", "size": 1, "etag": f"{number}/{shard}"}
            for shard in range(5000)
        ]

    monkeypatch.setattr(fs, "ls", ls)
    found = storage.glob(f"{root}/{{0,1}}/{{00000..04999}}.tar")
    assert calls == [f"{path}/0", f"{path}/1"]
    assert len(found) == 10_000 and found[-1].etag == "1/4999"


def test_an_etag_changes_with_the_file(root):
    _touch(root, "x")
    first = storage.found(f"{root}/x").etag
    listed = storage.glob(f"{root}/*")
    assert (storage.found(f"{root}/x").etag, storage.glob(f"{root}/*")) == (first, listed)
    _touch(root, "x")
    assert storage.glob(f"{root}/*") != listed
    second = storage.found(f"{root}/x").etag
    assert second != first
    if "://" not in root:
        os.utime(f"{root}/x", ns=(1, 1))
        assert storage.found(f"{root}/x").etag not in (first, second)
    assert storage.found(f"{root}/y") is None


def test_folders_and_links_among_entries(root):
    _touch(root, "b/x", "a", "c/y")
    expected = [storage.Entry("a", "file"), storage.Entry("b", "folder"), storage.Entry("c", "folder")]
    assert storage.entries(root) == expected
    assert storage.entries(f"{root}/nowhere") == []
    if "://" not in root:
        os.symlink(f"{root}/b", f"{root}/l")
        os.symlink(f"{root}/a", f"{root}/m")
        os.symlink(f"{root}/nothing", f"{root}/n")
        kinds = [(entry.name, entry.kind) for entry in storage.entries(root)[3:]]
        assert kinds == [("l", "link"), ("m", "file"), ("n", "file")]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_what_is_compressed_is_unpacked_or_an_error(root, suffix):
    data = bytes(range(256)) * 2000 + os.urandom(5000)
    packed = _pack(suffix, data[:9000]) + _pack(suffix, data[9000:])
    for size, whole in [(len(packed), True), (len(packed) - 5000, False), (len(packed) - 1, False)]:
        with storage.atomic_write(f"{root}/x{suffix}") as file:
            file.write(packed[:size])
        with storage.open_decompressed(f"{root}/x{suffix}") as file:
            if whole:
                assert file.read() == data
            else:
                with pytest.raises(storage.BROKEN_STREAM):
                    file.read()


def _pack(suffix, data):
    packers = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
    return packers[suffix](data)


def _zip(path, members, method=zipfile.ZIP_DEFLATED):
    with storage.atomic_write(path) as file, zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_members_of_zips_and_how_many_stay_open(root):
    for number in range(6):
        _zip(f"{root}/{number}.zip", {"a/x.jpg": f"image {number}".encode(), "y": b""})
    with contextlib.ExitStack() as stack:
        zips = storage.ZipCache(stack)
        for number in [0, 1, 2, 3, 4, 5, 0, 0, 5]:
            assert zips.read(f"{root}/{number}.zip", "a/x.jpg", 7) == f"image {number}".encode()
            assert zips.read(f"{root}/{number}.zip", "y", 7) == b""
        assert len(zips._open) == storage._OPEN_ZIPS
        files = [archive.fp for archive in zips._open.values()]
        assert not any(file.closed for file in files)
        with pytest.raises(storage.MissingFile, match="0.zip: has no member 'b.jpg'"):
            zips.read(f"{root}/0.zip", "b.jpg", 7)
        with pytest.raises(storage.MissingFile, match="7.zip: no such file"):
            zips.read(f"{root}/7.zip", "b.jpg", 7)
        with pytest.raises(ValueError, match="is larger than 6 bytes"):
            zips.read(f"{root}/0.zip", "a/x.jpg", 6)
    assert not zips._open
    # What is in memory has nothing to close.
    assert "://" in root or all(file.closed for file in files)


def test_zips_that_are_none_or_cannot_be_bounded(root, monkeypatch):
    _zip(f"{root}/lzma.zip", {"bomb": bytes(10_000_000)}, zipfile.ZIP_LZMA)
    _zip(f"{root}/bomb.zip", {"bomb": bytes(10_000_000)})
    _zip(f"{root}/many.zip", {str(number): b"" for number in range(100)})
    _touch(root, "none.zip", "empty.zip")
    with contextlib.ExitStack() as stack:
        zips = storage.ZipCache(stack)
        with pytest.raises(UserError, match="lzma.zip, bomb: cannot be read .is neither stored nor deflated"):
            zips.read(f"{root}/lzma.zip", "bomb", 100)
        with pytest.raises(ValueError, match="is larger than 100 bytes"):
            zips.read(f"{root}/bomb.zip", "bomb", 100)
        with pytest.raises(UserError, match="none.zip, x: cannot be read .File is not a zip file"):
            zips.read(f"{root}/none.zip", "x", 100)
        monkeypatch.setattr(storage, "_MAX_ZIP_DIRECTORY_BYTES", 1000)
        with pytest.raises(UserError, match="many.zip, 1: cannot be read .its directory has more than 1,000 bytes"):
            zips.read(f"{root}/many.zip", "1", 100)
        assert list(zips._open) == [f"{root}/lzma.zip", f"{root}/bomb.zip"]


def test_a_damaged_member_is_an_error(root):
    _zip(f"{root}/a.zip", {"x": os.urandom(100)}, zipfile.ZIP_STORED)
    data = bytearray(storage.open_read(f"{root}/a.zip").read())
    data[60] ^= 1
    with storage.atomic_write(f"{root}/a.zip") as file:
        file.write(data)
    with contextlib.ExitStack() as stack, pytest.raises(UserError, match="a.zip, x: cannot be read .Bad CRC-32"):
        storage.ZipCache(stack).read(f"{root}/a.zip", "x", 1000)


def test_files_of_this_machine_have_a_path(tmp_path):
    assert storage.local_path(str(tmp_path)) == storage.local_path(f"file://{tmp_path}") == str(tmp_path)
    assert storage.local_path("memory://x") is None
