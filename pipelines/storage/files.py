"""Files on any storage: paths, listings, and writes that are whole or absent.

Every open, rename and delete of the project is here, through fsspec, so that a path may be local, `gs://` or `s3://`.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterator
from typing import IO, Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from pipelines.errors import UserError

TEMPORARY = ".tmp-"
"""Part of the name of every file that is not whole yet."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")

# Paths that are not below the folder that they are joined to, on some system or for some driver.
_LEADS_OUT = re.compile(r"^$|^/|^[A-Za-z]:|(^|/)\.{0,2}(/|$)|[\\\0]|::|://")
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
    """Yields a temporary folder that replaces the folder `uri`, if there is one, when the block ends without an error.

    An object store moves a folder file by file: readers must wait for the manifest that names it.

    Raises:
        UserError: if `uri` is a file or a link, which stays as it is.
    """
    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem) and os.path.islink(path):
        raise UserError(f"{uri}: is a link, and a folder would take its place; choose another path")
    if (there := _info(fs, path)) and there["type"] != "directory":
        raise UserError(f"{uri}: is a file, and a folder would take its place; choose another path")
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
