"""Zstandard streams that are read to their end: the library's own reader stops after one frame, cut off or not."""

import io
from typing import IO, Any

import zstandard

# Zeros are packed 30,000 times smaller; so few bytes are unpacked to some megabytes at most.
_BLOCK_BYTES = 1 << 6


class ZstdReader(io.RawIOBase):
    """Unpacks all frames of a stream, and raises an `EOFError` if the last one has no end."""

    def __init__(self, file: IO[bytes]) -> None:
        """Takes a file at its start, and closes it when it is closed itself."""
        self._file = file
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._data, self._at, self._within = b"", 0, False

    def readable(self) -> bool:
        """Says yes."""
        return True

    def close(self) -> None:
        """Closes the file, too."""
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer as far as there is something unpacked; returns the number of bytes, 0 at the end."""
        while self._at == len(self._data):
            block = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._within = zstandard.ZstdDecompressor().decompressobj(), False
            block = block or self._file.read(_BLOCK_BYTES)
            if not block:
                if self._within:
                    raise EOFError("the compressed stream has no end")
                return 0
            self._data, self._at, self._within = self._frame.decompress(block), 0, True
        size = min(len(buffer), len(self._data) - self._at)
        buffer[:size] = self._data[self._at : self._at + size]
        self._at += size
        return size
