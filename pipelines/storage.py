"""Files on any storage: joining, listing, checksums, and writes that are whole or absent.

Owns every open, rename and delete of the project, through fsspec, so that a path may be local, `gs://` or
`s3://`. What the files mean is left to `schemas` and `manifest`.
"""

import collections
import contextlib
import dataclasses
import fcntl
import gzip
import hashlib
import io
import json
import lzma
import os
import pathlib
import shutil
import struct
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

import bracex
import fsspec
import pyarrow as pa
import zstandard
from fsspec.implementations.local import LocalFileSystem

from pipelines.errors import UserError
from pipelines.zstd_reader import ZstdReader

_TEMPORARY = ".tmp-"
_READ_BLOCK_BYTES = 1 << 20
_MAX_PATHS = 10_000_000
_OPEN_ZIPS = 4
_MAX_ZIP_DIRECTORY_BYTES = 64 << 20
_WILDCARDS = "*?["

# What the libraries raise for bytes that are no whole archive or compressed stream; some are OSErrors, so these first.
BROKEN_STREAM = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    zstandard.ZstdError,
)
# The same for zips; RuntimeError is for a member that is encrypted.
BROKEN_ZIP = (*BROKEN_STREAM, NotImplementedError, RuntimeError, ValueError, struct.error, OverflowError)
# The same for Parquet whose bytes are not what its footer says.
BROKEN_PARQUET = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


class MissingFile(UserError):
    """A file is not there."""


@dataclasses.dataclass(frozen=True)
class Found:
    """A file of a listing: where it is, its size, and what changes when it is written anew."""

    uri: str
    size_bytes: int
    etag: str


def cache_dir() -> pathlib.Path:
    """Returns the folder of what is downloaded or built once: `$WEB_MEMORY_CACHE` or `~/.cache/web-memory`."""
    return pathlib.Path(os.environ.get("WEB_MEMORY_CACHE", "~/.cache/web-memory")).expanduser()


def join(root: str, *parts: str) -> str:
    """Joins path parts; a part that is absolute or a URL starts afresh, an empty one adds nothing."""
    path = root
    for part in parts:
        if not part:
            continue
        path = part if not path or part.startswith("/") or "://" in part else f"{path.rstrip('/')}/{part}"
    return path


def name(uri: str) -> str:
    """Returns the last part of a path: `gs://b/a/00000.tar` gives `00000.tar`."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def _filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise UserError(f"{uri}: no storage driver for this kind of path ({error})") from error


def local_path(uri: str) -> str | None:
    """Returns the path of a file of this machine, or None if it is in a store."""
    fs, path = _filesystem(uri)
    return path if isinstance(fs, LocalFileSystem) else None


def open_read(uri: str) -> IO[bytes]:
    """Opens a file for reading bytes; one that is not there or cannot be read is a `UserError` that names it."""
    fs, path = _filesystem(uri)
    try:
        return fs.open(path, "rb")
    except FileNotFoundError as error:
        raise MissingFile(f"{uri}: no such file") from error
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"{uri}: cannot be read, {os.strerror(error.errno or 0).lower()}") from error


def open_decompressed(uri: str) -> IO[bytes]:
    """Opens a file as `open_read`, and takes off its compression as `decompressed` does."""
    return decompressed(open_read(uri), uri)


def decompressed(file: IO[bytes], uri: str) -> IO[bytes]:
    """Returns an open file without the compression that its suffix names: .gz, .tgz, .bz2, .xz or .zst."""
    compression = "gzip" if uri.endswith(".tgz") else fsspec.utils.infer_compression(uri)
    if compression in (None, "zip"):
        return file
    if compression == "zstd":
        return io.BufferedReader(ZstdReader(file))
    return fsspec.compression.compr[compression](file, mode="rb")


def fetch_folder(uri: str, cache: pathlib.Path) -> pathlib.Path:
    """Copies a remote folder to a local cache, unless it is there as it is now, and returns where."""
    fs, path = _filesystem(uri)
    entries = sorted(fs.find(path, detail=True).items())
    if not entries:
        raise MissingFile(f"{uri}: no such folder")
    digest = hashlib.sha256(repr([(file, _etag(info)) for file, info in entries]).encode()).hexdigest()
    target = cache / f"{name(uri)}-{digest[:12]}"
    if not target.exists():
        with atomic_folder(str(target)) as temporary:
            fs.get(path.rstrip("/") + "/", temporary.rstrip("/") + "/", recursive=True)
    return target


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


def _etag(info: dict[str, Any]) -> str:
    """Returns what changes when a file is written anew: the store's ETag or checksum, or the time it was modified."""
    known = (info.get(name) for name in ("ETag", "etag", "md5Hash", "mtime", "created"))
    return str(next((value for value in known if value is not None), info["size"]))


def found(uri: str) -> Found | None:
    """Returns a file's size and etag, or None if it is not there."""
    fs, path = _filesystem(uri)
    try:
        info = fs.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Found(uri, int(info["size"]), _etag(info)) if info["type"] == "file" else None


def parts(patterns: str) -> list[str]:
    """Returns the patterns of a list of them: what stands between commas that are not within braces or brackets."""
    found, depth = [""], 0
    for character in patterns:
        depth += (character in "{[") - (character in "}]" and depth > 0)
        if character == "," and not depth:
            found.append("")
        else:
            found[-1] += character
    return [part.strip() for part in found if part.strip()]


def glob(patterns: str) -> list[Found]:
    """Returns the files that match what the user gave, sorted, without temporary ones.

    Args:
        patterns: one or more, separated by commas (so no name may have one): `*`, `?`, `[..]`, and braces with words
            or ranges (`{00000..00127}.tar`, `{train,val}/*`).

    Raises:
        UserError: if braces name more paths than anybody means, or a path without wildcards is not there.
    """
    files: dict[str, Found] = {}
    folders: dict[str, dict[str, dict[str, Any]]] = {}
    fresh: list[fsspec.AbstractFileSystem] = []
    for like in _expand(patterns):
        fs, path = _filesystem(like)
        if fs not in fresh:
            fs.invalidate_cache()
            fresh.append(fs)
        if any(wildcard in like for wildcard in _WILDCARDS):
            matches = fs.glob(path, detail=True)
        else:
            # One listing of the folder instead of a question for every file.
            parent = path.rpartition("/")[0]
            folder = fs.unstrip_protocol(parent)
            if folder not in folders:
                folders[folder] = _entries(fs, parent)
            if path not in folders[folder]:
                raise MissingFile(f"{like}: no such file")
            matches = {path: folders[folder][path]}
        kept = {name: info for name, info in matches.items() if info["type"] == "file"}
        for uri, name in zip(_named(like, fs, list(kept)), kept, strict=True):
            if _TEMPORARY not in uri:
                files[uri] = Found(uri, int(kept[name]["size"]), _etag(kept[name]))
    return sorted(files.values(), key=lambda file: file.uri)


def _expand(patterns: str) -> Iterator[str]:
    left = _MAX_PATHS
    for part in parts(patterns):
        try:
            paths = bracex.expand(part, limit=left)
        except bracex.ExpansionLimitException as error:
            raise UserError(f"{part}: its braces name more than {_MAX_PATHS:,} paths") from error
        left = max(left - len(paths), 1)
        yield from paths


def _entries(fs: fsspec.AbstractFileSystem, folder: str) -> dict[str, dict[str, Any]]:
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
    """Returns what a folder holds, sorted by name; nothing for one that is not there.

    Raises:
        UserError: if it cannot be read.
    """
    path = local_path(folder)
    if path is None:
        fs, path = _filesystem(folder)
        fs.invalidate_cache()
        kinds = {"file": "file", "directory": "folder"}
        found = [Entry(name(key), kinds.get(info["type"], "file")) for key, info in _entries(fs, path).items()]
    else:
        try:
            with os.scandir(path) as listed:
                found = [Entry(entry.name, _kind(entry)) for entry in listed]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UserError(f"{folder}: cannot be read, {os.strerror(error.errno or 0).lower()}") from error
    return sorted(found, key=lambda entry: entry.name)


def _kind(entry: "os.DirEntry[str]") -> str:
    if not entry.is_dir():
        return "file"
    return "link" if entry.is_symlink() else "folder"


def files(folder: str, suffix: str) -> list[str]:
    """Returns the files of a folder whose names end in `suffix`, sorted, without temporary ones.

    Unlike `glob` it takes every character of the folder's name as it is, and sees what other processes wrote.
    """
    fs, path = _filesystem(folder)
    fs.invalidate_cache()
    names = [name for name, entry in _entries(fs, path).items() if entry["type"] == "file" and name.endswith(suffix)]
    return sorted(uri for uri in _named(folder, fs, names) if _TEMPORARY not in uri.rsplit("/", 1)[-1])


def _named(like: str, fs: fsspec.AbstractFileSystem, paths: list[str]) -> list[str]:
    """Returns paths as the person named them: relative if `like` was, with its protocol if it had one."""
    if "://" in like:
        return [fs.unstrip_protocol(path) for path in paths]
    return paths if like.startswith("/") else [os.path.relpath(path) for path in paths]


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


def copy(source: str, target: str) -> None:
    """Copies a file, which takes its name when it is whole."""
    with open_read(source) as reader, atomic_write(target) as writer:
        shutil.copyfileobj(reader, writer, _READ_BLOCK_BYTES)


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
    if not _flock(file, fcntl.LOCK_EX):
        file.close()
        raise UserError(f"{uri}: the same stage is at work there already; wait for it or stop it")
    return file


def share(uri: str) -> IO[bytes] | None:
    """Takes a share in a file that is there: `is_shared` is true until the returned one, or the process, is no more.

    Returns:
        None where the storage has no locks, or the file is not there or about to be deleted.
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
    """Tells whether anybody has a share in a file; False where the storage has no locks."""
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


class ZipCache:
    """Reads members of zips, the last few of which stay open."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        """Starts with none open.

        Args:
            stack: closes what is still open at its end.
        """
        self._open: collections.OrderedDict[str, zipfile.ZipFile] = collections.OrderedDict()
        stack.callback(self._close)

    def _close(self, keep: int = 0) -> None:
        while len(self._open) > keep:
            archive = self._open.popitem(last=False)[1]
            file = archive.fp
            archive.close()
            if file:
                file.close()

    def _archive(self, uri: str) -> zipfile.ZipFile:
        if uri not in self._open:
            self._close(keep=_OPEN_ZIPS - 1)
            with contextlib.ExitStack() as on_error:
                file = on_error.enter_context(open_read(uri))
                # `zipfile` holds the whole directory in memory.
                end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
                if end and end[zipfile._ECD_SIZE] > _MAX_ZIP_DIRECTORY_BYTES:  # type: ignore[attr-defined]
                    raise zipfile.BadZipFile(f"its directory has more than {_MAX_ZIP_DIRECTORY_BYTES:,} bytes")
                self._open[uri] = zipfile.ZipFile(file)
                on_error.pop_all()
        self._open.move_to_end(uri)
        return self._open[uri]

    def read(self, uri: str, member: str, max_bytes: int) -> bytes:
        """Returns the bytes of a member.

        Raises:
            MissingFile: if zip or member are not there.
            UserError: if the zip is broken, or packed in a way whose size cannot be bounded.
            ValueError: if the member is larger than `max_bytes`.
        """
        try:
            archive = self._archive(uri)
            info = archive.getinfo(member)
            # Other methods are unpacked in pieces of any size.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise NotImplementedError("is neither stored nor deflated; pack it again")
            with archive.open(info) as stream:
                data = stream.read(max_bytes + 1)
        except KeyError as error:
            raise MissingFile(f"{uri}: has no member {member!r}") from error
        except BROKEN_ZIP as error:
            raise UserError(f"{uri}, {member}: cannot be read ({error})") from error
        if len(data) > max_bytes:
            raise ValueError(f"is larger than {max_bytes:,} bytes")
        return data


def read_image(container: str, member: str, max_bytes: int) -> bytes:
    """Returns the bytes of an image below a folder: a file, or a member of a zip.

    Raises:
        UserError: if it is not there or too large.
    """
    folder, zipped, inner = member.partition(".zip/")
    try:
        if zipped:
            with contextlib.ExitStack() as stack:
                return ZipCache(stack).read(join(container, f"{folder}.zip"), inner, max_bytes)
        with open_read(join(container, member)) as file:
            data = file.read(max_bytes + 1)
    except ValueError as error:
        raise UserError(f"{container}, {member}: {error}") from error
    if len(data) > max_bytes:
        raise UserError(f"{container}, {member}: is larger than {max_bytes:,} bytes")
    return data
