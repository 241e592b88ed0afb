"""Text files that people write, line by line, and those of class names: one name a line, after its last tab.

This is the one reader of such files, whatever stage reads them: UTF-8, with or without a byte order mark. Only a line
feed, perhaps after a carriage return, ends a line: a name may contain the other characters that `str.splitlines` takes
for ends. Which numbers lack a class is also said here.
"""

import io
from collections.abc import Collection, Iterator, Sequence

from pipelines import storage
from pipelines.errors import UserError

MAX_LINE_BYTES = 1 << 20
BLOCK_BYTES = 1 << 20
"""Size of the blocks in which a text file is read."""

_MAX_BYTES = 256 << 20
# What a line takes beside its text.
_LINE_BYTES = 16
_MARK = "\ufeff"


def open_text(uri: str) -> io.BufferedReader:
    """Opens a text file, which may be compressed, for reading bytes; errors as `storage.open_read`."""
    # Files of stores and of some compressions read lines byte by byte, or not at all.
    return io.BufferedReader(storage.open_decompressed(uri), BLOCK_BYTES)  # type: ignore[arg-type]


def read_raw_lines(uri: str, max_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes]]:
    """Yields number (from 1) and bytes of each line of a file, which may be compressed, with the line's end.

    Raises:
        UserError: if it cannot be read, is cut off, or has a line longer than `max_bytes`.
    """
    number = 0
    try:
        with open_text(uri) as file:
            for number, line in enumerate(iter(lambda: file.readline(max_bytes + 1), b""), start=1):
                if len(line) > max_bytes:
                    raise UserError(f"{uri}, line {number}: is longer than {max_bytes:,} bytes; is it a list?")
                yield number, line
    except storage.BROKEN_STREAM as error:
        raise UserError(f"{uri}: cannot be read to its end, it breaks off after line {number} ({error})") from error


def decode_line(uri: str, number: int, line: bytes) -> str:
    """Returns a line as text, without a byte order mark; a `UserError` names it if it is not UTF-8."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{uri}, line {number}: is not UTF-8 text ({error}); save the file as UTF-8") from error
    if number == 1 and "\0" in text:
        # UTF-16 without a mark: each second byte of what is ASCII.
        raise UserError(f"{uri}, line 1: is not UTF-8 text (it has zero bytes); save the file as UTF-8")
    # Files that are joined to one keep the mark of each.
    return text.lstrip(_MARK) if text.startswith(_MARK) else text


def read_lines(uri: str, max_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, str]]:
    """Yields number (from 1) and text of each line of a UTF-8 file, without its end.

    Raises:
        UserError: as `read_raw_lines` and `decode_line`, and if carriage returns alone end its lines.
    """
    for number, line in read_raw_lines(uri, max_bytes):
        text = decode_line(uri, number, line).rstrip("\r\n")
        if "\r" in text:
            raise UserError(f"{uri}, line {number}: has a carriage return in it; save the file with line feeds")
        yield number, text


def read(uri: str) -> list[str]:
    """Returns the class names of a file.

    Raises:
        UserError: as `read_lines`, and if the file is too large.
    """
    names, size = [], 0
    for _, line in read_lines(uri):
        size += len(line) + _LINE_BYTES
        if size > _MAX_BYTES:
            raise UserError(f"{uri}: is larger than {_MAX_BYTES:,} bytes; is it a list of class names?")
        names.append(line.rpartition("\t")[2].strip())
    return names


def synonyms(name: str) -> list[str]:
    """Returns the parts of a class name between its commas, without empty ones."""
    return [part.strip() for part in name.split(",") if part.strip()]


def gap(train: Collection[int], others: Collection[int] = (), names: Sequence[str] = ()) -> str:
    """Returns the sentence for the first number that no training image has as its label; empty if there is none.

    Args:
        train: labels of the training images, each once.
        others: labels of other splits.
        names: of the classes, if they are known.
    """
    highest = max((*train, *others), default=-1)
    if len(train) == highest + 1:
        return ""
    missing = next(number for number in range(highest + 1) if number not in train)
    named = f" ({names[missing]!r})" if missing < len(names) else ""
    first = min((*train, *others), default=0)
    if first and len(train) == highest + 1 - first and len(names) in (0, len(train)):
        return (
            f"labels begin with {first}; set first_label={first} of every source whose labels do, such as "
            f"--config.train_set.first_label={first}"
        )
    return (
        f"class {missing}{named} has no training image, and every label up to {highest} needs one: number the classes "
        "from 0 without gaps, alike in every split, or write names such as 'class 1', which are numbered for you"
    )
