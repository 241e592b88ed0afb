"""Locks and shares of local files; a store has none."""

import fcntl
import os
from typing import IO

from fsspec.implementations.local import LocalFileSystem

from pipelines.errors import UserError
from pipelines.storage.files import filesystem, local_path


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
