"""The patterns that a source's paths may be: several, with wildcards and braces; and the files that match them."""

import os
from collections.abc import Iterator
from typing import Any

import bracex
import fsspec

from pipelines import storage
from pipelines.errors import UserError
from pipelines.storage import Found

_MAX_PATHS = 10_000_000
_WILDCARDS = "*?["

_Listing = dict[str, dict[str, Any]]


def split(patterns: str) -> list[str]:
    """Splits a list of patterns at its commas, except those within braces or brackets."""
    found, depth = [""], 0
    for character in patterns:
        depth += (character in "{[") - (character in "}]" and depth > 0)
        if character == "," and not depth:
            found.append("")
        else:
            found[-1] += character
    return [part.strip() for part in found if part.strip()]


def files(path: str) -> list[Found]:
    """Returns the files that match a source's path, as `glob` does.

    Raises:
        UserError: as `glob`, and if there is none.
    """
    found = glob(path)
    if not found:
        raise UserError(f"{path}: matches no file; check --config.data and the source's path")
    return found


def glob(patterns: str) -> list[Found]:
    """Returns the files that match the user's patterns, sorted, without temporary ones.

    Args:
        patterns: one or more, separated by commas (so no name may contain one): `*`, `?`, `[..]`, and braces with
            words or ranges (`{00000..00127}.tar`, `{train,val}/*`).

    Raises:
        UserError: if braces name more than ten million paths, or a path without wildcards does not exist.
    """
    found: dict[str, Found] = {}
    folders: dict[str, _Listing] = {}
    fresh: list[fsspec.AbstractFileSystem] = []
    for like in _expand(patterns):
        fs, path = storage.filesystem(like)
        if fs not in fresh:
            fs.invalidate_cache()
            fresh.append(fs)
        for match, info in _matches(like, fs, path, folders).items():
            uri = _as_named(match, like, fs)
            if info["type"] == "file" and storage.TEMPORARY not in uri:
                found[uri] = Found.of(uri, info)
    return sorted(found.values(), key=lambda file: file.uri)


def _expand(patterns: str) -> Iterator[str]:
    left = _MAX_PATHS
    for part in split(patterns):
        try:
            paths = bracex.expand(part, limit=left)
        except bracex.ExpansionLimitException as error:
            raise UserError(f"{part}: its braces name more than {_MAX_PATHS:,} paths") from error
        left = max(left - len(paths), 1)
        yield from paths


def _matches(like: str, fs: fsspec.AbstractFileSystem, path: str, folders: dict[str, _Listing]) -> _Listing:
    """Returns what matches one pattern; `folders` keeps the listings of folders whose files are named one by one."""
    if any(wildcard in like for wildcard in _WILDCARDS):
        return fs.glob(path, detail=True)
    parent = path.rpartition("/")[0]
    folder = fs.unstrip_protocol(parent)
    if folder not in folders:
        # One listing instead of a request for every file.
        folders[folder] = storage.listed(fs, parent)
    if path not in folders[folder]:
        raise storage.MissingFile(f"{like}: no such file")
    return {path: folders[folder][path]}


def _as_named(path: str, like: str, fs: fsspec.AbstractFileSystem) -> str:
    """Returns a path as the user named it: relative if `like` is, with a protocol if it has one."""
    if "://" in like:
        return fs.unstrip_protocol(path)
    return path if like.startswith("/") else os.path.relpath(path)
