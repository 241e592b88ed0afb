"""Checksums of files, and JSON files that carry a checksum of themselves."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipelines.errors import UserError
from pipelines.storage.files import MissingFile, atomic_write, found, open_read

SEAL = "sha256"
"""Entry of a JSON object that says what the other entries are, so that a changed bit is noticed."""


def sha256(uri: str) -> str:
    """Returns the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open_read(uri) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


_checked: set[tuple[str, str, str, int]] = set()


def check_sha256(uri: str, digest: str, remedy: str) -> None:
    """Checks the bytes of a file; those of a file that has not changed since are not read again by this process.

    Args:
        uri: of the file.
        digest: what its SHA-256 must be, 64 hexadecimal digits.
        remedy: what to do if it is not, the end of the error's sentence.

    Raises:
        UserError: if the file is missing or its bytes are others.
    """
    there = found(uri)
    if not there:
        raise MissingFile(f"{uri}: is missing; {remedy}")
    known = (uri, digest, there.etag, there.size_bytes)
    if known not in _checked:
        if sha256(uri) != digest:
            raise UserError(f"{uri}: is damaged or of another run, its SHA-256 is not the one expected; {remedy}")
        _checked.add(known)


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON object with the entry `sha256`: the SHA-256 of the others as compact JSON with sorted keys."""
    rest = unseal(value)
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**rest, SEAL: hashlib.sha256(text.encode()).hexdigest()}


def unseal(value: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a JSON object without its seal."""
    return {name: part for name, part in value.items() if name != SEAL}


def is_sealed(value: Any) -> bool:
    """Tells whether a JSON value is an object that is as `seal` made it."""
    try:
        return isinstance(value, dict) and SEAL in value and seal(value)[SEAL] == value[SEAL]
    except (ValueError, RecursionError):
        return False


def write_json(uri: str, value: Any, sealed: bool = True) -> None:
    """Writes a JSON file with sorted keys, whole or not at all; an object gets a seal if it is to have one."""
    whole = seal(value) if sealed and isinstance(value, Mapping) else value
    with atomic_write(uri) as file:
        file.write((json.dumps(whole, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(uri: str, remedy: str = "remove it and run its stage again", sealed: bool = False) -> Any:
    """Reads a JSON file, without its seal, which must hold if there is one.

    Args:
        uri: of the file.
        remedy: what to do if it is damaged, the end of the error's sentence.
        sealed: whether it must have a seal.

    Raises:
        UserError: if the file is missing or damaged.
    """
    with open_read(uri) as file:
        data = file.read()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{uri}: is not valid JSON ({error}); {remedy}") from error
    has_seal = isinstance(value, dict) and SEAL in value
    if sealed and not has_seal:
        raise UserError(f"{uri}: is damaged or of an older version, it has no {SEAL} of itself; {remedy}")
    if has_seal:
        if not is_sealed(value):
            raise UserError(f"{uri}: is damaged; {remedy} (its {SEAL} is not that of its contents, so do not edit it)")
        return unseal(value)
    return value
