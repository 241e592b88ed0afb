"""Files on any storage: paths, listings, checksums, compression, and writes that are whole or absent.

Every open, rename and delete of the project is here, through fsspec, so that a path may be local, `gs://` or `s3://`.
`schemas` and `manifest` say what the files contain.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import lzma
import os
import pathlib
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from pipelines.errors import UserError

TEMPORARY = ".tmp-"
"""Part of the name of every file that is not whole yet."""
SEAL = "sha256"
"""Entry of a JSON object that says what the other entries are, so that a changed bit is noticed."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_COMPRESSED = re.compile(
    rb"(?P<gzip>\x1f\x8b\x08)|(?P<bz2>BZh[1-9](?:1AY&SY|\x17rE8P\x90))|(?P<xz>\xfd7zXZ\0)|(?P<zstd>\x28\xb5\x2f\xfd)"
)
_ZLIB = re.compile(rb"x[\x01\x5e\x9c\xda]")
HEAD_BYTES = 12
"""First bytes of a file, by which its compression is recognised."""

# Paths that are not below the folder that they are joined to, on some system or for some driver.
_LEADS_OUT = re.compile(r"^$|^/|^[A-Za-z]:|(^|/)\.{0,2}(/|$)|[\\\0]|::|://")
MAX_TEXT_RATIO = 200
"""A list or other text may unpack to so many times its size, beyond the first 16 MiB."""

_FREE_TEXT_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 20

# What reading compressed bytes raises if they are broken or end early, and what a store raises if it fails.
BROKEN_STREAM = (OSError, EOFError, zlib.error, lzma.LZMAError)
# What reading Parquet raises if its bytes are not what its footer says.
BROKEN_PARQUET = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


class MissingFile(UserError):
    """A file is not there."""


@dataclasses.dataclass(frozen=True)
class Found:
    """A file of a listing: its place, its size, and a tag that changes when the file is written again."""

    uri: str
    size_bytes: int
    etag: str

    @classmethod
    def of(cls, uri: str, info: dict[str, Any]) -> "Found":
        """Returns a file from what its driver knows of it."""
        return cls(uri, int(info["size"]), _etag(info))


def cache_dir() -> pathlib.Path:
    """Returns the folder for files that are downloaded or built once: `$WEB_MEMORY_CACHE` or `~/.cache/web-memory`."""
    return pathlib.Path(os.environ.get("WEB_MEMORY_CACHE", "~/.cache/web-memory")).expanduser()


def join(root: str, *parts: str) -> str:
    """Joins path parts; a part that is absolute or a URL replaces those before it, an empty one adds nothing."""
    path = root
    for part in parts:
        if not part:
            continue
        path = part if not path or part.startswith("/") or is_url(part) else f"{path.rstrip('/')}/{part}"
    return path


def is_url(uri: str) -> bool:
    """Tells whether a path begins with a scheme, as `gs://bucket/x` does; all others are of this machine."""
    return bool(_URL.match(uri))


def inside(folder: str, path: Any) -> str:
    """Joins a folder and the path of a file in it that another file names.

    Raises:
        UserError: if the path could lead out of the folder: it is absolute, a URL, a drive or empty, or has a part
            `..`, a back slash or a zero byte.
    """
    if isinstance(path, str) and not _LEADS_OUT.search(path):
        return join(folder, path)
    raise UserError(f"{folder}: a file there names {path!a}, which is not in that folder; do not use what is there")


def name(uri: str) -> str:
    """Returns the last part of a path: `gs://b/a/00000.tar` gives `00000.tar`."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns the driver of a path and what the driver calls it; a `UserError` if there is no such driver.

    Every character is taken literally: drivers are not chained by `::`. Only a leading `~/` is the home folder.
    """
    scheme = _URL.match(uri)
    if not scheme:
        path = os.path.expanduser(uri) if uri == "~" or uri.startswith("~/") else uri.removeprefix("./")
        return LocalFileSystem(), os.path.join(os.getcwd(), "" if path == "." else path).rstrip("/") or "/"
    protocol = scheme[0].removesuffix("://")
    try:
        driver = fsspec.get_filesystem_class(protocol)
        return fsspec.filesystem(protocol, **driver._get_kwargs_from_urls(uri)), driver._strip_protocol(uri)
    except (ImportError, ValueError) as error:
        raise UserError(f"{uri}: no storage driver for this kind of path ({error})") from error


def local_path(uri: str) -> str | None:
    """Returns the path of a file of this machine, or None for a file in a store."""
    fs, path = filesystem(uri)
    return path if isinstance(fs, LocalFileSystem) else None


def open_read(uri: str) -> IO[bytes]:
    """Opens a file for reading bytes; a `UserError` names it if it is missing or cannot be read."""
    fs, path = filesystem(uri)
    try:
        return fs.open(path, "rb")
    except FileNotFoundError as error:
        raise MissingFile(f"{uri}: no such file") from error
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"{uri}: cannot be read, {os.strerror(error.errno or 0).lower()}") from error


def open_decompressed(uri: str) -> IO[bytes]:
    """Opens a file as `open_read` does, and decompresses it as `decompressed` does, to a bounded size."""
    file = open_read(uri)
    unpacked = decompressed(file, uri)
    return unpacked if unpacked is file else io.BufferedReader(_Bounded(unpacked, file), _BLOCK_BYTES)


class _Bounded(io.RawIOBase):
    """What a file unpacks to; an OSError where that is far more than texts are compressed to."""

    def __init__(self, unpacked: IO[bytes], file: IO[bytes]) -> None:
        self._unpacked, self._file, self._count = unpacked, file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._unpacked.read(len(buffer))
        self._count += len(data)
        if self._count > max(_FREE_TEXT_BYTES, MAX_TEXT_RATIO * self._file.tell()):
            raise OSError(f"it unpacks to more than {MAX_TEXT_RATIO} times its size")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        for file in (self._unpacked, self._file):
            file.close()
        super().close()


def decompressed(file: IO[bytes], uri: str, is_plain: Callable[[bytes], bool] | None = None) -> IO[bytes]:
    """Decompresses an open file: gzip, bzip2, xz or zstd, recognised by its first bytes or else by its suffix.

    Reading it raises one of `BROKEN_STREAM` if the bytes are broken or end early.

    Args:
        file: at its start.
        uri: its place, for the suffix.
        is_plain: for a format whose first bytes may be any: tells whether `HEAD_BYTES` of them are those of a file that
            is not compressed. If they are not, zlib, which too few bytes tell from text, is recognised as well.
    """
    if not file.seekable():
        file = io.BufferedReader(file)  # type: ignore[type-var]
    head = _head(file)
    kind = None
    if not (is_plain and is_plain(head)):
        found = _COMPRESSED.match(head)
        kind = (found.lastgroup if found else None) or _by_suffix(uri)
        kind = "zlib" if is_plain and not kind and _ZLIB.match(head) else kind
    if kind in ("zstd", "zlib"):
        # fsspec's reader of zstd stops after the first frame, whether or not it is whole; Arrow's gzip also reads zlib.
        codec = {"zlib": "gzip"}.get(kind, kind)
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec))
    return fsspec.compression.compr[kind](file, mode="rb") if kind else file


def _head(file: IO[bytes]) -> bytes:
    """Returns the first bytes of an open file, which stays at its start."""
    if isinstance(file, io.BufferedReader):
        return file.peek(HEAD_BYTES)[:HEAD_BYTES]
    head, _ = file.read(HEAD_BYTES), file.seek(0)
    return head


def _by_suffix(uri: str) -> str | None:
    kind = "gzip" if uri.lower().endswith(".tgz") else fsspec.utils.infer_compression(uri)
    return None if kind == "zip" else kind


def exists(uri: str) -> bool:
    """Tells whether a file or folder exists; an error, not a no, if the store cannot be asked."""
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    return _info(fs, path) is not None


def _info(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    try:
        return fs.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def size_bytes(uri: str) -> int:
    """Returns the size of a file in bytes."""
    fs, path = filesystem(uri)
    return int(fs.size(path))


def _etag(info: dict[str, Any]) -> str:
    """Returns what changes when a file is written again: the store's ETag or checksum, or the time of the change."""
    known = (info.get(name) for name in ("ETag", "etag", "md5Hash", "mtime", "created"))
    return str(next((value for value in known if value is not None), info["size"]))


def found(uri: str) -> Found | None:
    """Returns a file's size and etag, or None if it does not exist."""
    info = _info(*filesystem(uri))
    return Found.of(uri, info) if info and info["type"] == "file" else None


def listed(fs: fsspec.AbstractFileSystem, folder: str) -> dict[str, dict[str, Any]]:
    """Returns what the driver knows of each file and folder in a folder, by its path; nothing if there is none."""
    try:
        return {entry["name"]: entry for entry in fs.ls(folder, detail=True)}
    except (FileNotFoundError, NotADirectoryError):
        return {}


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a folder holds under a name: a `file`, a `folder`, or a `link` to a folder, which is not followed."""

    name: str
    kind: str


def entries(folder: str) -> list[Entry]:
    """Returns what a folder holds, sorted by name; nothing if there is no such folder.

    Raises:
        UserError: if it cannot be read.
    """
    path = local_path(folder)
    if path is None:
        fs, path = filesystem(folder)
        fs.invalidate_cache()
        kinds = {"directory": "folder"}
        found = [Entry(name(key), kinds.get(info["type"], "file")) for key, info in listed(fs, path).items()]
    else:
        try:
            with os.scandir(path) as inside:
                found = [Entry(entry.name, _kind(entry)) for entry in inside]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UserError(f"{folder}: cannot be read, {os.strerror(error.errno or 0).lower()}") from error
    return sorted(found, key=lambda entry: entry.name)


def _kind(entry: "os.DirEntry[str]") -> str:
    return "file" if not entry.is_dir() else "link" if entry.is_symlink() else "folder"


def files(folder: str, suffix: str) -> list[str]:
    """Returns the files of a folder whose names end in `suffix`, sorted, without temporary ones.

    Every character of the folder's name is taken literally.
    """
    names = [entry.name for entry in entries(folder) if entry.kind == "file" and entry.name.endswith(suffix)]
    return [join(folder, name) for name in names if TEMPORARY not in name]


@contextlib.contextmanager
def _renamed(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[str]:
    """Yields a temporary name for what gets its own when the block ends without an error, and is else deleted."""
    temporary = f"{path}{TEMPORARY}{uuid.uuid4().hex}"
    try:
        yield temporary
        _move(fs, temporary, path)
    except BaseException:
        _delete(fs, temporary)
        raise


@contextlib.contextmanager
def atomic_write(uri: str) -> Iterator[IO[bytes]]:
    """Opens a file for writing; it gets its name only when the block ends without an error."""
    fs, path = filesystem(uri)
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    with _renamed(fs, path) as temporary, fs.open(temporary, "wb") as file:
        yield file
        if isinstance(fs, LocalFileSystem):
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_folder(uri: str) -> Iterator[str]:
    """Yields a temporary folder that replaces `uri` when the block ends without an error.

    An object store moves a folder file by file: readers must wait for the manifest that names it.
    """
    fs, path = filesystem(uri)
    with _renamed(fs, path) as temporary:
        fs.makedirs(temporary, exist_ok=True)
        yield fs.unstrip_protocol(temporary) if is_url(uri) else temporary
        if isinstance(fs, LocalFileSystem):
            for parent, _, names in os.walk(temporary, topdown=False):
                for place in (*(os.path.join(parent, name) for name in names), parent):
                    _sync(place)
        _delete(fs, path)


def copy(source: str, target: str) -> None:
    """Copies a file; the copy gets its name when it is whole."""
    with open_read(source) as reader, atomic_write(target) as writer:
        shutil.copyfileobj(reader, writer)


def lock(uri: str, holder: str = "the same stage") -> IO[bytes] | None:
    """Takes a lock, held until the returned file is closed or the process ends; None if the storage has no locks.

    Args:
        uri: of the file that is locked; it stays when the lock ends, and means nothing then.
        holder: whoever takes it, for the sentence that another process is refused with.

    Raises:
        UserError: if another process holds it.
    """
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        return None
    os.makedirs(os.path.dirname(path), exist_ok=True)
    file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    if not _flock(file, fcntl.LOCK_EX):
        with file:
            known, _, process = file.read(200).decode(errors="replace").partition("\n")
        shown = f" (process {process.strip()})" if process else ""
        raise UserError(f"{uri}: {known or holder} is already running there{shown}; wait for it or stop it")
    file.truncate(0)
    file.write(f"{holder}\n{os.getpid()}\n".encode())
    file.flush()
    return file


def share(uri: str) -> IO[bytes] | None:
    """Takes a share in a file: `is_shared` is true until the returned file is closed or the process ends.

    Returns:
        None if the storage has no locks, or the file does not exist or is about to be deleted.
    """
    path = local_path(uri)
    try:
        file = open(path, "rb") if path else None
    except OSError:
        return None
    if file and not _flock(file, fcntl.LOCK_SH):
        file.close()
        return None
    return file


def is_shared(uri: str) -> bool:
    """Tells whether any process has a share in a file; False if the storage has no locks."""
    path = local_path(uri)
    if path is None or not os.path.exists(path):
        return False
    with open(path, "rb") as file:
        return not _flock(file, fcntl.LOCK_EX)


def _flock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # The file system has no locks, as an object store has none.
        return True
    return True


def remove_temporaries(folder: str, deep: bool = True) -> None:
    """Deletes the temporary files of killed writers in a folder, where no writer may be running.

    Args:
        folder: to look in.
        deep: whether to look in the folders below, too.
    """
    fs, path = filesystem(folder)
    if not fs.exists(path):
        return
    for parent, folders, files in fs.walk(path, maxdepth=None if deep else 1):
        for left_over in [p for p in (*folders, *files) if TEMPORARY in p]:
            if TEMPORARY not in parent:
                _delete(fs, f"{parent}/{left_over}")


def remove(uri: str) -> None:
    """Deletes a file, or a folder with its contents, if it exists."""
    _delete(*filesystem(uri))


# fsspec's own `mv` and `rm` take a path with `*`, `?` or `[` for a pattern.


def _move(fs: fsspec.AbstractFileSystem, source: str, target: str) -> None:
    if isinstance(fs, LocalFileSystem):
        os.replace(source, target)
        # The name is part of the folder: after a power loss, a marker must not be there without what it stands for.
        _sync(os.path.dirname(target))
        return
    for path in fs.find(source):
        fs.cp_file(path, target + path[len(source) :])
        fs.rm_file(path)


def _sync(path: str) -> None:
    """Waits until a local file or folder is on the disk."""
    descriptor = os.open(path or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(fs: fsspec.AbstractFileSystem, path: str) -> None:
    if isinstance(fs, LocalFileSystem):
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)
        return
    for file in fs.find(path):
        fs.rm_file(file)


def sha256(uri: str) -> str:
    """Returns the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open_read(uri) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


_checked: set[tuple[str, str, str, int]] = set()


def check_sha256(uri: str, digest: str, remedy: str) -> None:
    """Checks the bytes of a file; those of a file that has not changed since are not read again by this process.

    Args:
        uri: of the file.
        digest: what its SHA-256 must be, 64 hexadecimal digits.
        remedy: what to do if it is not, the end of the error's sentence.

    Raises:
        UserError: if the file is missing or its bytes are others.
    """
    there = found(uri)
    if not there:
        raise MissingFile(f"{uri}: is missing; {remedy}")
    known = (uri, digest, there.etag, there.size_bytes)
    if known not in _checked:
        if sha256(uri) != digest:
            raise UserError(f"{uri}: is damaged or of another run, its SHA-256 is not the one expected; {remedy}")
        _checked.add(known)


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON object with the entry `sha256`: the SHA-256 of the others as compact JSON with sorted keys."""
    rest = unseal(value)
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**rest, SEAL: hashlib.sha256(text.encode()).hexdigest()}


def unseal(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON object without its seal."""
    return {name: part for name, part in value.items() if name != SEAL}


def is_sealed(value: Any) -> bool:
    """Tells whether a JSON value is an object that is as `seal` made it."""
    try:
        return isinstance(value, dict) and SEAL in value and seal(value)[SEAL] == value[SEAL]
    except (ValueError, RecursionError):
        return False


def write_json(uri: str, value: Any, sealed: bool = True) -> None:
    """Writes a JSON file with sorted keys, whole or not at all; an object gets a seal if it is to have one."""
    whole = seal(value) if sealed and isinstance(value, Mapping) else value
    with atomic_write(uri) as file:
        file.write((json.dumps(whole, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(uri: str, remedy: str = "remove it and run its stage again", sealed: bool = False) -> Any:
    """Reads a JSON file, without its seal, which must hold if there is one.

    Args:
        uri: of the file.
        remedy: what to do if it is damaged, the end of the error's sentence.
        sealed: whether it must have a seal.

    Raises:
        UserError: if the file is missing or damaged.
    """
    with open_read(uri) as file:
        data = file.read()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{uri}: is not valid JSON ({error}); {remedy}") from error
    has_seal = isinstance(value, dict) and SEAL in value
    if sealed and not has_seal:
        raise UserError(f"{uri}: is damaged or of an older version, it has no {SEAL} of itself; {remedy}")
    if has_seal:
        if not is_sealed(value):
            raise UserError(f"{uri}: is damaged; {remedy} (its {SEAL} is not that of its contents, so do not edit it)")
        return unseal(value)
    return value
