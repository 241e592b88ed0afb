"""The members of a tar, read from a stream that may be hostile.

`tarfile` keeps everything in memory that headers claim (long names, pax records, maps of sparse files), follows chains
of headers by recursion and accepts a truncated file. This reader keeps one header at a time. Formats: ustar, GNU, pax,
as in POSIX.1-2017 (pax) and the GNU tar manual. `tar` interprets the members.
"""

import dataclasses
from collections.abc import Iterator

from pipelines.sources.stream import BrokenStream, Stream

_BLOCK = 512
_MAX_HEADER_BYTES = 1 << 16
_MAX_TRAILING_BYTES = 1 << 20
_FILES = b"0\x007"
_WITHOUT_DATA = b"123456"


@dataclasses.dataclass(frozen=True)
class Member:
    """A member as its header describes it.

    Attributes:
        name: unchanged; only a name, not a path to follow.
        kind: `file`, `folder`, or `other` for links, devices and sparse files.
        size_bytes: of the data in the tar.
    """

    name: bytes
    kind: str
    size_bytes: int


def _number(field: bytes) -> int:
    """Returns a number in octal digits or, if the first bit is set, in base 256."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.split(b"\0")[0].strip() or b"0"
    # Python's `int` also takes signs and underscores, and a negative size would be read as all that follows.
    if digits.strip(b"01234567"):
        raise BrokenStream("a header's number is no number")
    return int(digits, 8)


def _text(field: bytes) -> bytes:
    return field.split(b"\0")[0]


def _name(header: bytes) -> bytes:
    """Returns the name in a header, with the prefix that ustar has for long ones."""
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else b""
    return b"/".join([prefix, _text(header[:100])]) if prefix else _text(header[:100])


def _pax_size(pax: dict[bytes, bytes], size: int) -> int:
    """Returns the size that an extended header states; `size` if it states none."""
    digits = pax.get(b"size")
    if digits is None:
        return size
    if not digits.isdigit() or len(digits) > 20:
        raise BrokenStream("a header's number is no number")
    return int(digits)


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Returns the `length key=value` records of an extended header."""
    records, start = {}, 0
    while start < len(data):
        space = data.find(b" ", start, start + 8)
        digits = data[start:space]
        end = start + int(digits) if space > start and digits.isdigit() else 0
        if not space < end <= len(data) or data[end - 1 : end] != b"\n":
            raise BrokenStream("an extended header cannot be read")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[key] = value
        start = end
    return records


class Archive:
    """Iterates over the members of a tar; the data of the current one can be read.

    Attributes:
        ended: whether the end mark was found, so that all members before it are whole.
    """

    def __init__(self, stream: Stream) -> None:
        """Starts at the stream's beginning."""
        self.ended = False
        self._stream = stream
        self._unread = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        """Yields the members in their order.

        Raises:
            BrokenStream: where the tar breaks off, or has no end mark.
            UserError: if the store fails.
        """
        while (member := self._next()) is not None:
            yield member

    def read(self) -> bytes:
        """Returns all data of the current member; check its size first."""
        size, self._unread = self._unread, 0
        return self._stream.read_exactly(size)

    def _next(self) -> Member | None:
        self._stream.skip(self._unread + self._padding)
        self._unread = self._padding = 0
        pax: dict[bytes, bytes] = {}
        long_name = None
        while True:
            header = self._stream.read(_BLOCK)
            if len(header) == _BLOCK and not any(header):
                self.ended = True
                self._check_end()
                return None
            if len(header) < _BLOCK:
                raise BrokenStream("it has no end mark")
            kind, size = self._check(header), _number(header[124:136])
            if kind in b"xXgLK":
                data = self._header_data(size)
                if kind in b"xX":
                    pax = _pax_records(data)
                elif kind == b"L":
                    long_name = _text(data)
                continue
            return self._member(header, kind, size, pax, long_name)

    def _member(
        self, header: bytes, kind: bytes, size: int, pax: dict[bytes, bytes], long_name: bytes | None
    ) -> Member:
        name = pax.get(b"path", _name(header) if long_name is None else long_name)
        size = _pax_size(pax, size)
        if kind == b"S":
            self._skip_sparse_map(header)
        sparse = kind == b"S" or any(key.startswith(b"GNU.sparse.") for key in pax)
        folder = kind == b"5" or (kind in b"0\0" and name.endswith(b"/"))
        if kind not in _WITHOUT_DATA and not folder:
            self._unread, self._padding = size, -size % _BLOCK
        what = "folder" if folder else "file" if kind in _FILES and not sparse else "other"
        return Member(pax.get(b"GNU.sparse.name", name), what, size)

    def _skip_sparse_map(self, header: bytes) -> None:
        more = header[482]
        while more:
            more = self._stream.read_exactly(_BLOCK)[504]

    def _check(self, header: bytes) -> bytes:
        """Returns the type of a header; a `BrokenStream` if neither its checksum nor the signed variant is right."""
        rest = header[:148] + b" " * 8 + header[156:]
        claimed, unsigned = _number(header[148:156]), sum(rest)
        if claimed != unsigned and claimed != unsigned - 256 * sum(byte >= 0x80 for byte in rest):
            raise BrokenStream("a header's checksum is wrong")
        return header[156:157]

    def _header_data(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise BrokenStream(f"an extended header claims {size:,} bytes")
        data = self._stream.read_exactly(size)
        self._stream.skip(-size % _BLOCK)
        return data

    def _check_end(self) -> None:
        """Raises a `BrokenStream` if the end mark, two empty blocks, is cut, or followed by data within a MiB."""
        rest = self._stream.read(_MAX_TRAILING_BYTES)
        if len(rest) < _BLOCK:
            raise BrokenStream("it has no end mark")
        if any(rest):
            raise BrokenStream("something follows its end mark")
