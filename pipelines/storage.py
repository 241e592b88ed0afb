"""Files on any storage: joining, listing, checksums, and writes that are whole or absent.

Owns every open, rename and delete of the project, through fsspec, so that a path may be local, `gs://` or
`s3://`. What the files mean is left to `schemas` and `manifest`.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.errors import UserError

_TEMPORARY = ".tmp-"
_READ_BLOCK_BYTES = 1 << 20


def cache_dir() -> pathlib.Path:
    """Returns the folder of what is downloaded or built once: `$WEB_MEMORY_CACHE` or `~/.cache/web-memory`."""
    return pathlib.Path(os.environ.get("WEB_MEMORY_CACHE", "~/.cache/web-memory")).expanduser()


def join(root: str, *parts: str) -> str:
    """Joins path parts; a part that is absolute or a URL starts afresh, an empty one adds nothing."""
    path = root
    for part in parts:
        if not part:
            continue
        path = part if part.startswith("/") or "://" in part else f"{path.rstrip('/')}/{part}"
    return path


def name(uri: str) -> str:
    """Returns the last part of a path: `gs://b/a/00000.tar` gives `00000.tar`."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def _filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise UserError(f"{uri}: no storage driver for this kind of path ({error})") from error


def open_read(uri: str) -> IO[bytes]:
    """Opens a file for reading bytes; one that is not there or cannot be read is a `UserError` that names it."""
    fs, path = _filesystem(uri)
    try:
        return fs.open(path, "rb")
    except FileNotFoundError as error:
        raise UserError(f"{uri}: no such file") from error
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"{uri}: cannot be read, {os.strerror(error.errno or 0).lower()}") from error


def exists(uri: str) -> bool:
    """Tells whether a file or folder is there; that the store cannot be asked is an error, not a no."""
    fs, path = _filesystem(uri)
    fs.invalidate_cache()
    try:
        fs.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def size_bytes(uri: str) -> int:
    """Returns the size of a file in bytes."""
    fs, path = _filesystem(uri)
    return int(fs.size(path))


def etag(uri: str) -> str:
    """Returns what changes when a file is written anew: the store's ETag or checksum, or the time it was modified."""
    fs, path = _filesystem(uri)
    info = fs.info(path)
    known = (info.get(name) for name in ("ETag", "etag", "md5Hash", "mtime", "created"))
    return str(next((value for value in known if value is not None), info["size"]))


def glob(pattern: str) -> list[str]:
    """Returns the files that match a pattern (`*`, `?`, `[..]`) of the user's, sorted, without temporary ones."""
    fs, path = _filesystem(pattern)
    fs.invalidate_cache()
    return _named(fs, pattern, fs.glob(path))


def files(folder: str, suffix: str) -> list[str]:
    """Returns the files of a folder whose names end in `suffix`, sorted, without temporary ones.

    Unlike `glob` it takes every character of the folder's name as it is, and sees what other processes wrote.
    """
    fs, path = _filesystem(folder)
    fs.invalidate_cache()
    try:
        found = [entry["name"] for entry in fs.ls(path, detail=True) if entry["type"] == "file"]
    except FileNotFoundError:
        return []
    return _named(fs, folder, [p for p in found if p.endswith(suffix)])


def _named(fs: fsspec.AbstractFileSystem, like: str, found: list[str]) -> list[str]:
    """Returns paths as the person named them: relative if `like` was, with its protocol if it had one."""
    whole = [p for p in found if _TEMPORARY not in name(p)]
    if "://" in like:
        return sorted(fs.unstrip_protocol(p) for p in whole)
    return sorted(whole if like.startswith("/") else map(os.path.relpath, whole))


@contextlib.contextmanager
def atomic_write(uri: str) -> Iterator[IO[bytes]]:
    """Opens a file for writing that takes its name only when the block ends without an error."""
    fs, path = _filesystem(uri)
    temporary = f"{path}{_TEMPORARY}{uuid.uuid4().hex}"
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    try:
        with fs.open(temporary, "wb") as file:
            yield file
        _move(fs, temporary, path)
    except BaseException:
        _delete(fs, temporary)
        raise


@contextlib.contextmanager
def atomic_folder(uri: str) -> Iterator[str]:
    """Yields a temporary folder that takes the name `uri` (replacing what is there) when the block ends well.

    On object stores a folder is moved file by file: readers must wait for the manifest that names it.
    """
    fs, path = _filesystem(uri)
    temporary = f"{path}{_TEMPORARY}{uuid.uuid4().hex}"
    fs.makedirs(temporary, exist_ok=True)
    try:
        yield fs.unstrip_protocol(temporary) if "://" in uri else temporary
        _delete(fs, path)
        _move(fs, temporary, path)
    except BaseException:
        _delete(fs, temporary)
        raise


def lock(uri: str) -> IO[bytes] | None:
    """Takes a lock that ends with the returned file or with the process; None where the storage has no locks.

    Raises:
        UserError: if another process holds it.
    """
    fs, path = _filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        return None
    os.makedirs(os.path.dirname(path), exist_ok=True)
    file = open(path, "wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UserError(f"{uri}: the same stage is at work there already; wait for it or stop it") from error
    return file


def remove_temporaries(folder: str) -> None:
    """Deletes what killed writers left below a folder; to be called when no writer is at work there."""
    fs, path = _filesystem(folder)
    if not fs.exists(path):
        return
    for parent, folders, files in fs.walk(path):
        for left_over in [p for p in (*folders, *files) if _TEMPORARY in p]:
            if _TEMPORARY not in parent:
                _delete(fs, f"{parent}/{left_over}")


def remove(uri: str) -> None:
    """Deletes a file or a folder with all it holds; what is not there is left so."""
    fs, path = _filesystem(uri)
    _delete(fs, path)


# fsspec's own `mv` and `rm` take a path with `*`, `?` or `[` for a pattern.


def _move(fs: fsspec.AbstractFileSystem, source: str, target: str) -> None:
    if isinstance(fs, LocalFileSystem):
        os.replace(source, target)
        return
    for path in fs.find(source):
        fs.cp_file(path, target + path[len(source) :])
        fs.rm_file(path)


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
    digest = hashlib.sha256()
    with open_read(uri) as file:
        while block := file.read(_READ_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_json(uri: str, value: Any) -> None:
    """Writes JSON with sorted keys, whole or not at all."""
    with atomic_write(uri) as file:
        file.write((json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(uri: str) -> Any:
    """Reads a JSON file; one that is missing or broken is a `UserError` that names it."""
    with open_read(uri) as file:
        data = file.read()
    try:
        return json.loads(data)
    except ValueError as error:
        raise UserError(f"{uri}: is not valid JSON ({error}); remove it and run its stage again") from error


def read_image(container: str, member: str, max_bytes: int) -> bytes:
    """Returns the bytes of an image: a member of a tar, or a file below a folder.

    Raises:
        UserError: if it is not there or too large.
    """
    if not container.endswith(".tar"):
        with open_read(join(container, member)) as file:
            data = file.read(max_bytes + 1)
    else:
        with open_read(container) as file, tarfile.open(fileobj=file) as tar:
            try:
                stream = tar.extractfile(member)
            except KeyError:
                stream = None
            if stream is None:
                raise UserError(f"{container}: has no member {member!r}; it has changed since it was embedded")
            data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise UserError(f"{container}, {member}: is larger than {max_bytes:,} bytes")
    return data
