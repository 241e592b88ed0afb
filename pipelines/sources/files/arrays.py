"""Arrays of NumPy, read block by block from `.npy` files and the members of `.npz`; nothing is unpickled."""

import contextlib
import io
import sys
import tokenize
import zipfile
from typing import Any, Protocol

import numpy as np

from pipelines.images import zips
from pipelines.sources.stream import FREE_BYTES, MAX_RATIO, BrokenStream, Stream, open_stored

_MAX_HEADER_BYTES = 4096
_MAX_DIM = 1 << 16
_MAX_LABEL_BYTES = 4096
_BROKEN_HEADER = (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError, tokenize.TokenError)
# A store that fails is a `UserError`, so an OSError is of a place that no file has.
_BROKEN_ZIP = (*zips.BROKEN, OSError)
_FLOATS = (np.float16, np.float32, np.float64)


class Bytes(Protocol):
    """The bytes of an array: a `Stream`, or a member of a zip."""

    def read(self, size: int) -> bytes:
        """Returns the next `size` bytes, fewer only at the end; errors as `Stream.read`."""

    def read_exactly(self, size: int) -> bytes:
        """Returns the next `size` bytes; errors as `Stream.read_exactly`."""


class _Member:
    """A member of a zip as a stream, as `Stream` is of a file; it may unpack to as much as that."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self._file, self._packed_bytes, self._count = archive.open(info), info.compress_size, 0

    def read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except _BROKEN_ZIP as error:
            raise BrokenStream(str(error) or type(error).__name__) from error
        self._count += len(data)
        if self._count > max(FREE_BYTES, MAX_RATIO * self._packed_bytes):
            raise BrokenStream(f"unpacks to more than {MAX_RATIO} times its size")
        return data

    def read_exactly(self, size: int) -> bytes:
        data = self.read(size)
        if len(data) < size:
            raise BrokenStream("it ends early")
        return data


class Arrays:
    """The arrays of an `.npz` file by name, each opened when it is asked for."""

    def __init__(self, uri: str, stack: contextlib.ExitStack) -> None:
        """Reads the directory; a `BrokenStream` if it is none, or a name is in it twice."""
        try:
            self._archive = stack.enter_context(zips.opened(stack.enter_context(open_stored(uri))))
        except _BROKEN_ZIP as error:
            raise BrokenStream(f"is no .npz file: {error}") from error
        members = self._archive.infolist()
        self._members = {info.filename.removesuffix(".npy"): info for info in members}
        if len(self._members) < len(members):
            raise BrokenStream("has two arrays of the same name")

    @property
    def names(self) -> list[str]:
        """The names of the arrays, in their order in the file."""
        return list(self._members)

    def open(self, name: str) -> Bytes:
        """Returns the bytes of an array, of the format of `.npy`; a `BrokenStream` if they cannot be read."""
        info = self._members[name]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BrokenStream(f"array {name!r} is neither stored nor deflated")
        try:
            return _Member(self._archive, info)
        except _BROKEN_ZIP as error:
            raise BrokenStream(f"array {name!r} cannot be read ({error})") from error


def _read_header(stream: Bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns shape, Fortran order and type of an array, in version 1.0 or 2.0 of the format."""
    start = stream.read_exactly(8)
    first = start[6:7] == b"\1"
    length = stream.read_exactly(2 if first else 4)
    size = int.from_bytes(length, "little")
    if start[:6] != b"\x93NUMPY" or size > _MAX_HEADER_BYTES:
        raise BrokenStream("is no array of NumPy")
    header = io.BytesIO(length + stream.read_exactly(size))
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(header)
    except _BROKEN_HEADER as error:
        raise BrokenStream(f"its header cannot be read: {error}") from error
    if dtype.hasobject:
        raise BrokenStream("holds Python objects, which are never unpickled; save numbers or texts of a fixed width")
    return shape, fortran, dtype


class Rows:
    """Vectors, read block by block.

    Attributes:
        rows: number that the header states.
        dim: width of a row.
    """

    def __init__(self, stream: Bytes) -> None:
        """Reads the header; a `BrokenStream` if it is not of rows of floats, in C order."""
        shape, fortran, dtype = _read_header(stream)
        if len(shape) != 2 or fortran or dtype not in _FLOATS:
            raise BrokenStream(
                f"holds {dtype} of shape {shape}{' in Fortran order' * fortran}, must be rows of float16, float32 or "
                "float64 in C order"
            )
        self.rows, self.dim = shape
        if self.rows < 0 or not 0 < self.dim <= _MAX_DIM:
            raise BrokenStream(f"holds rows of {self.dim:,} numbers, must be 1 to {_MAX_DIM:,}")
        self._stream, self._dtype = stream, dtype

    def read(self, rows: int) -> np.ndarray:
        """Returns the next rows `[rows, dim]`, fewer where the file ends early; float64 as float32."""
        found = _read_values(self._stream, self._dtype, rows * self.dim)
        whole = found[: len(found) // self.dim * self.dim].reshape(-1, self.dim)
        if self._dtype != np.float64:
            return whole
        # What is too large becomes infinite, and its row a reject.
        with np.errstate(over="ignore"):
            return whole.astype(np.float32)


class Labels:
    """Labels of rows, read block by block.

    Attributes:
        rows: number that the header states.
    """

    def __init__(self, stream: Bytes) -> None:
        """Reads the header; a `BrokenStream` if it is not of one number or text for each row."""
        shape, _, dtype = _read_header(stream)
        is_flat = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
        if not is_flat or shape[0] < 0 or dtype.kind not in "iufU" or not 0 < dtype.itemsize <= _MAX_LABEL_BYTES:
            raise BrokenStream(f"holds {dtype} of shape {shape}, must be one number or text for each row")
        self.rows = shape[0]
        self._stream, self._dtype = stream, dtype

    def read(self, rows: int) -> list[Any]:
        """Returns the next labels, fewer where the file ends early, or a text in it is none."""
        found = _read_values(self._stream, self._dtype, rows)
        # A character of NumPy has four bytes, of which not all values are one.
        if self._dtype.kind == "U" and (found.view(f"{self._dtype.byteorder}u4") > sys.maxunicode).any():
            return []
        return found.tolist()


def _read_values(stream: Bytes, dtype: np.dtype, count: int) -> np.ndarray:
    try:
        data = stream.read(count * dtype.itemsize)
    except BrokenStream:
        data = b""
    return np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)


def read_plain(uri: str, stack: contextlib.ExitStack) -> Bytes:
    """Opens an `.npy` file, closed by the stack; errors as `Stream`."""
    return stack.enter_context(Stream(uri))
