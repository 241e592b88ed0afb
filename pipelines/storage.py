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
from collections.abc import Iterator, Mapping
from typing import IO, Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from pipelines.errors import UserError

TEMPORARY = ".tmp-"
"""Part of the name of every file that is not whole yet."""
SEAL = "sha256"
"""Entry of a JSON object that says what the other entries are, so that a changed bit is noticed."""

# Paths that are not below the folder that they are joined to, on some system or for some driver.
_LEADS_OUT = re.compile(r"^$|^/|^[A-Za-z]:|(^|/)\.{0,2}(/|$)|[\\\0]|::|://")
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
        path = part if not path or part.startswith("/") or "://" in part else f"{path.rstrip('/')}/{part}"
    return path


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
    """Returns the driver of a path and what the driver calls it; a `UserError` if there is no such driver."""
    try:
        return fsspec.core.url_to_fs(uri)
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
    """Opens a file as `open_read` does, and decompresses it as `decompressed` does."""
    return decompressed(open_read(uri), uri)


def decompressed(file: IO[bytes], uri: str) -> IO[bytes]:
    """Decompresses an open file as its suffix says: .gz, .tgz, .bz2, .xz or .zst; others are returned as they are.

    Reading it raises one of `BROKEN_STREAM` if the bytes are broken or end early.
    """
    if uri.lower().endswith(".zst"):
        # fsspec's reader stops after the first frame, whether or not it is whole.
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
    compression = "gzip" if uri.endswith(".tgz") else fsspec.utils.infer_compression(uri)
    if compression in (None, "zip"):
        return file
    return fsspec.compression.compr[compression](file, mode="rb")


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
        yield fs.unstrip_protocol(temporary) if "://" in uri else temporary
        if isinstance(fs, LocalFileSystem):
            for parent, _, names in os.walk(temporary, topdown=False):
                for place in (*(os.path.join(parent, name) for name in names), parent):
                    _sync(place)
        _delete(fs, path)


def copy(source: str, target: str) -> None:
    """Copies a file; the copy gets its name when it is whole."""
    with open_read(source) as reader, atomic_write(target) as writer:
        shutil.copyfileobj(reader, writer)


def lock(uri: str) -> IO[bytes] | None:
    """Takes a lock, held until the returned file is closed or the process ends; None if the storage has no locks.

    Raises:
        UserError: if another process holds it.
    """
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        return None
    os.makedirs(os.path.dirname(path), exist_ok=True)
    file = open(path, "wb")
    if not _flock(file, fcntl.LOCK_EX):
        file.close()
        raise UserError(f"{uri}: the same stage is already running there; wait for it or stop it")
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
    except OSError:
        return False
    return True


def remove_temporaries(folder: str) -> None:
    """Deletes the temporary files of killed writers below a folder, where no writer may be running."""
    fs, path = filesystem(folder)
    if not fs.exists(path):
        return
    for parent, folders, files in fs.walk(path):
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


def check_sha256(uri: str, digest: str, remedy: str) -> None:
    """Raises a `UserError`, which ends with a remedy, if a file is missing or its SHA-256 is not the one expected."""
    if sha256(uri) != digest:
        raise UserError(f"{uri}: is damaged or of another run, its SHA-256 is not the one expected; {remedy}")


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
