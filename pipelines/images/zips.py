"""Members of zips, which may be hostile: bounded in size, the last few archives kept open."""

import collections
import contextlib
import struct
import zipfile
import zlib
from typing import IO

from pipelines import storage
from pipelines.errors import UserError

OPEN_ZIPS = 4
"""Archives that a `ZipCache` keeps open."""

MAX_DIRECTORY_BYTES = 64 << 20
"""Largest directory of an archive that is read: `zipfile` holds all of it in memory."""

# What `zipfile` raises for bytes that are no whole archive; RuntimeError is for a member that is encrypted.
BROKEN = (
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
    OverflowError,
)


def opened(file: IO[bytes]) -> zipfile.ZipFile:
    """Returns the archive in a file; raises one of `BROKEN` if it is none, or its directory is too large."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if end and end[zipfile._ECD_SIZE] > MAX_DIRECTORY_BYTES:  # type: ignore[attr-defined]
        raise zipfile.BadZipFile(f"its directory has more than {MAX_DIRECTORY_BYTES:,} bytes")
    return zipfile.ZipFile(file)


class ZipCache:
    """Reads members of zips and keeps the last few archives open; for one thread."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        """Starts with no archive open.

        Args:
            stack: closes the open archives at its end.
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
            self._close(keep=OPEN_ZIPS - 1)
            with contextlib.ExitStack() as on_error:
                file = on_error.enter_context(storage.open_read(uri))
                self._open[uri] = opened(file)
                on_error.pop_all()
        self._open.move_to_end(uri)
        return self._open[uri]

    def read(self, uri: str, member: str, max_bytes: int) -> bytes:
        """Returns the bytes of a member.

        Raises:
            MissingFile: if the zip or the member does not exist.
            UserError: if the zip is broken, or the compression does not bound the size of what is unpacked.
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
            raise storage.MissingFile(f"{uri}: has no member {member!r}") from error
        except BROKEN as error:
            raise UserError(f"{uri}, {member}: cannot be read ({error})") from error
        if len(data) > max_bytes:
            raise ValueError(f"is larger than {max_bytes:,} bytes")
        return data
