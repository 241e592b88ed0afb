"""Members of zips on disk and in a store: found, bounded, or refused in words."""

import contextlib
import os
import zipfile

import pytest

from pipelines import storage
from pipelines.errors import UserError
from pipelines.images import zips
from pipelines.images.zips import ZipCache


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"


def _zip(path, members, method=zipfile.ZIP_DEFLATED):
    with storage.atomic_write(path) as file, zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_members_are_read_and_what_is_not_there_is_named(root):
    _zip(f"{root}/0.zip", {"a/x.jpg": b"image 0", "y": b""})
    with contextlib.ExitStack() as stack:
        archives = ZipCache(stack)
        assert archives.read(f"{root}/0.zip", "a/x.jpg", 7) == b"image 0"
        assert archives.read(f"{root}/0.zip", "y", 7) == b""
        with pytest.raises(storage.MissingFile, match="0.zip: has no member 'b.jpg'"):
            archives.read(f"{root}/0.zip", "b.jpg", 7)
        with pytest.raises(storage.MissingFile, match="7.zip: no such file"):
            archives.read(f"{root}/7.zip", "b.jpg", 7)
        with pytest.raises(ValueError, match="is larger than 6 bytes"):
            archives.read(f"{root}/0.zip", "a/x.jpg", 6)


def test_the_last_few_zips_stay_open(tmp_path, monkeypatch):
    opened, whole = [], storage.open_read

    def open_read(uri):
        opened.append(whole(uri))
        return opened[-1]

    monkeypatch.setattr(storage, "open_read", open_read)
    for number in range(6):
        _zip(f"{tmp_path}/{number}.zip", {"x": f"image {number}".encode()})
    with contextlib.ExitStack() as stack:
        archives = ZipCache(stack)
        for number in [0, 1, 2, 3, 4, 5, 0, 0, 5]:
            assert archives.read(f"{tmp_path}/{number}.zip", "x", 7) == f"image {number}".encode()
        assert len(opened) == 7
        assert sum(not file.closed for file in opened) == zips.OPEN_ZIPS == 4
    assert all(file.closed for file in opened)


def test_zips_that_are_none_or_cannot_be_bounded(root, monkeypatch):
    _zip(f"{root}/lzma.zip", {"bomb": bytes(10_000_000)}, zipfile.ZIP_LZMA)
    _zip(f"{root}/bomb.zip", {"bomb": bytes(10_000_000)})
    _zip(f"{root}/many.zip", {str(number): b"" for number in range(100)})
    with storage.atomic_write(f"{root}/none.zip") as file:
        file.write(b"none")
    with contextlib.ExitStack() as stack:
        archives = ZipCache(stack)
        with pytest.raises(UserError, match="lzma.zip, bomb: cannot be read .is neither stored nor deflated"):
            archives.read(f"{root}/lzma.zip", "bomb", 100)
        with pytest.raises(ValueError, match="is larger than 100 bytes"):
            archives.read(f"{root}/bomb.zip", "bomb", 100)
        with pytest.raises(UserError, match="none.zip, x: cannot be read .File is not a zip file"):
            archives.read(f"{root}/none.zip", "x", 100)
        monkeypatch.setattr(zips, "MAX_DIRECTORY_BYTES", 1000)
        with pytest.raises(UserError, match="many.zip, 1: cannot be read .its directory has more than 1,000 bytes"):
            archives.read(f"{root}/many.zip", "1", 100)


def test_a_damaged_member_is_an_error(root):
    _zip(f"{root}/a.zip", {"x": os.urandom(100)}, zipfile.ZIP_STORED)
    data = bytearray(storage.open_read(f"{root}/a.zip").read())
    data[60] ^= 1
    with storage.atomic_write(f"{root}/a.zip") as file:
        file.write(data)
    with contextlib.ExitStack() as stack, pytest.raises(UserError, match="a.zip, x: cannot be read .Bad CRC-32"):
        ZipCache(stack).read(f"{root}/a.zip", "x", 1000)
