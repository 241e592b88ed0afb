"""The bytes of a file of samples as a stream: decompressed, bounded, with damage distinguished from a failing store.

If a store fails, that is a `UserError`, and the shard is read again; bytes that violate their format are a
`BrokenStream`, and become rejects.
"""

import contextlib
import io
import types
from collections.abc import Callable
from typing import Any

from pipelines import storage
from pipelines.errors import UserError

_BLOCK_BYTES = 1 << 20
FREE_BYTES = 64 << 20
"""A stream may unpack to this size; to more only if that is at most `MAX_RATIO` times its own: images do not."""

MAX_RATIO = 200
"""See `FREE_BYTES`."""

"""See `FREE_BYTES`."""

_BROKEN = (*storage.BROKEN_STREAM, ValueError, MemoryError)


class BrokenStream(Exception):
    """Bytes that violate their format."""


class _Stored(io.RawIOBase):
    """A file of any store, whose failures are a `UserError` that no decoder takes for broken bytes."""

    def __init__(self, uri: str) -> None:
        self._uri, self._file = uri, storage.open_read(uri)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            # A large read, such as a page of Parquet, would be in memory twice.
            data = self._file.read(min(len(buffer), _BLOCK_BYTES))
        except OSError as error:
            raise UserError(f"{self._uri}: reading failed ({error}); run the same command again") from error
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def open_stored(uri: str) -> io.BufferedReader:
    """Opens a file for reading; errors as `storage.open_read`, and a `UserError` if the store fails later."""
    return io.BufferedReader(_Stored(uri), 1 << 16)


class Stream:
    """Reads a file from start to end, decompressed as `storage.decompressed` does."""

    def __init__(self, uri: str, is_plain: Callable[[bytes], bool] | None = None) -> None:
        """Opens it; `is_plain` as of `storage.decompressed`, errors as `storage.open_read`."""
        self._stack = contextlib.ExitStack()
        self._stored = self._stack.enter_context(open_stored(uri))
        self._file = self._stack.enter_context(storage.decompressed(self._stored, uri, is_plain))
        self._plain = self._file is self._stored
        self._count = 0

    def __enter__(self) -> "Stream":
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        """Closes the file."""
        self._stack.close()

    def read(self, size: int) -> bytes:
        """Returns the next `size` bytes, fewer only at the end.

        Raises:
            BrokenStream: if they cannot be decompressed, or decompress to far more than images do.
            UserError: if the store fails.
        """
        try:
            data = self._file.read(size)
        except _BROKEN as error:
            raise BrokenStream(str(error) or type(error).__name__) from error
        self._count += len(data)
        if self._count > FREE_BYTES and not self._plain and self._count > MAX_RATIO * self._stored.tell():
            raise BrokenStream(f"unpacks to more than {MAX_RATIO} times its size")
        return data

    def read_exactly(self, size: int) -> bytes:
        """Returns the next `size` bytes; errors as `read`, and a `BrokenStream` if there are fewer."""
        data = self.read(size)
        if len(data) < size:
            raise BrokenStream("the file ends early")
        return data

    def skip(self, size: int) -> None:
        """Skips `size` bytes in bounded memory; errors as `read_exactly`."""
        while size:
            size -= len(self.read_exactly(min(size, _BLOCK_BYTES)))
