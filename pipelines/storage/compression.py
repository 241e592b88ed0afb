"""Compressed files, recognised by their first bytes, and how much they may unpack to."""

import io
import lzma
import re
import zlib
from collections.abc import Callable
from typing import IO, Any

import fsspec
import pyarrow as pa

from pipelines.storage.files import open_read

_COMPRESSED = re.compile(
    rb"(?P<gzip>\x1f\x8b\x08)|(?P<bz2>BZh[1-9](?:1AY&SY|\x17rE8P\x90))|(?P<xz>\xfd7zXZ\0)|(?P<zstd>\x28\xb5\x2f\xfd)"
)
_ZLIB = re.compile(rb"x[\x01\x5e\x9c\xda]")
HEAD_BYTES = 12
"""First bytes of a file, by which its compression is recognised."""
MAX_TEXT_RATIO = 200
"""A list or other text may unpack to so many times its size, beyond the first 16 MiB."""

_FREE_TEXT_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 20

# What reading compressed bytes raises if they are broken or end early, and what a store raises if it fails.
BROKEN_STREAM = (OSError, EOFError, zlib.error, lzma.LZMAError)


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
