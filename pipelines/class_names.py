"""Files of class names: one name a line, after its last tab; commas separate synonyms."""

import codecs

from pipelines import storage
from pipelines.errors import UserError

_MAX_BYTES = 256 << 20


def read(uri: str) -> list[str]:
    """Returns the class names of a UTF-8 file, which may be compressed and begin with a byte order mark.

    Raises:
        UserError: if the file cannot be read, is broken or too large, or has a line that is not UTF-8.
    """
    with storage.open_decompressed(uri) as file:
        try:
            data = file.read(_MAX_BYTES + 1)
        except storage.BROKEN_STREAM as error:
            raise UserError(f"{uri}: cannot be read ({error})") from error
    if len(data) > _MAX_BYTES:
        raise UserError(f"{uri}: is larger than {_MAX_BYTES:,} bytes; is it a list of class names?")
    # Only "\n" ends a line: a name may contain the other characters that `str.splitlines` looks for.
    lines = data.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n").split(b"\n") if data else []
    return [_name(uri, number, line) for number, line in enumerate(lines, start=1)]


def _name(uri: str, number: int, line: bytes) -> str:
    try:
        return line.decode().rpartition("\t")[2].strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{uri}, line {number}: is not UTF-8 text ({error})") from error


def synonyms(name: str) -> list[str]:
    """Returns the parts of a class name between its commas, without empty ones."""
    return [part.strip() for part in name.split(",") if part.strip()]
