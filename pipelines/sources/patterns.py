"""The patterns that a source's paths may be: several, with wildcards and braces; and the files that match them."""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import bracex
import fsspec
from fsspec.utils import glob_translate

from pipelines import storage
from pipelines.errors import UserError
from pipelines.storage import Found

_MAX_PATHS = 10_000_000
_NAMED = 5
# A class in brackets, or any other character.
_TOKEN = re.compile(r"\[!?\]?[^\]]*\]|.", re.DOTALL)
_SPECIAL = re.compile(r"^\s+|[*?\[{},\\]")
_QUOTED = re.compile(r"\[([*?\[{},\\\s])\]")
# What bracex, which knows no brackets, must take literally.
_BRACKETED = re.compile(r"\[([{},\\])\]")

_Listing = dict[str, dict[str, Any]]


def quote(path: str) -> str:
    """Returns a pattern that only this path matches: what is special in a pattern is put into brackets."""
    return _SPECIAL.sub(lambda found: "".join(f"[{character}]" for character in found[0]), path)


def shown(pattern: str) -> str:
    """Returns a pattern as people write it, for messages: without the brackets of `quote`."""
    return _QUOTED.sub(r"\1", pattern)


def split(patterns: str) -> list[str]:
    """Splits a list of patterns at its commas, except those within braces or brackets."""
    found, depth = [""], 0
    for token in _TOKEN.findall(patterns):
        depth += (token == "{") - (token == "}" and depth > 0)
        if token == "," and not depth:
            found.append("")
        else:
            found[-1] += token
    return [part.strip() for part in found if part.strip()]


def files(path: str, inside: Sequence[str] = ()) -> list[Found]:
    """Returns the files that match a source's path, as `glob` does.

    Args:
        path: one or more patterns.
        inside: patterns for the files of a folder that is named itself; exactly one of them must match.

    Raises:
        UserError: as `glob`, and if there is none.
    """
    found = glob(",".join(_inside(part, inside) for part in split(path)) if inside else path)
    if not found:
        raise UserError(f"{shown(path)}: matches no file; check --config.data and the source's path")
    return found


def _inside(part: str, patterns: Sequence[str]) -> str:
    """Returns the pattern for the files of a folder, given one that may be its name."""
    folder, rest = _literal_prefix(part)
    if rest or "{" in _QUOTED.sub("", part) or not storage.entries(folder):
        return part
    matching = [like for like in patterns if glob(f"{part.rstrip('/')}/{like}")]
    if len(matching) != 1:
        if matching:
            raise UserError(f"{folder}: the folder has {' as well as '.join(matching)}; make one of them the path")
        inner = [entry.name for entry in storage.entries(folder) if entry.kind == "folder"][:_NAMED]
        there = f", or one of its folders, such as {', '.join(inner)}" if inner else ""
        raise UserError(f"{folder}: the folder has no {' or '.join(patterns)}; name its files in the path{there}")
    return f"{part.rstrip('/')}/{matching[0]}"


def glob(patterns: str) -> list[Found]:
    """Returns the files that match the user's patterns, sorted, without temporary ones.

    Args:
        patterns: one or more, separated by commas: `*`, `?`, `[..]`, and braces with words or ranges
            (`{00000..00127}.tar`, `{train,val}/*`). In brackets, as in `[,]`, these characters are literal (`quote`).

    Raises:
        UserError: if braces name more than ten million paths, or a path without wildcards does not exist.
    """
    found: dict[str, Found] = {}
    folders: dict[str, _Listing] = {}
    fresh: list[fsspec.AbstractFileSystem] = []
    for like in _expand(patterns):
        prefix, rest = _literal_prefix(like)
        fs, path = storage.filesystem(prefix)
        if fs not in fresh:
            fs.invalidate_cache()
            fresh.append(fs)
        matches = _below(fs, path, rest) if rest else _named(prefix, fs, path, folders)
        for match, info in matches.items():
            uri = _as_named(match, like, fs)
            if info["type"] == "file" and storage.TEMPORARY not in uri:
                found[uri] = Found.of(uri, info)
    return sorted(found.values(), key=lambda file: file.uri)


def _expand(patterns: str) -> Iterator[str]:
    left = _MAX_PATHS
    for part in split(patterns):
        try:
            paths = bracex.expand(_BRACKETED.sub(r"\\\1", part), limit=left)
        except bracex.ExpansionLimitException as error:
            raise UserError(f"{part}: its braces name more than {_MAX_PATHS:,} paths") from error
        left = max(left - len(paths), 1)
        yield from paths


def _literal(part: str) -> str | None:
    """Returns the one name that a part of a path matches; None if it has wildcards."""
    tokens = _TOKEN.findall(part)
    single = [len(token) == 3 and token[1] != "!" for token in tokens]
    if any(token in "*?" or (len(token) > 1 and not alone) for token, alone in zip(tokens, single, strict=True)):
        return None
    return "".join(token[1] if alone else token for token, alone in zip(tokens, single, strict=True))


def _literal_prefix(like: str) -> tuple[str, str]:
    """Splits a pattern into the folder before its first wildcard, unquoted, and the pattern below it, if any."""
    parts = like.split("/")
    names = list(itertools.takewhile(lambda name: name is not None, map(_literal, parts)))
    rest = "/".join(parts[len(names) :])
    return "/".join(map(str, names)) + ("/" if rest and names else ""), rest


def _below(fs: fsspec.AbstractFileSystem, folder: str, pattern: str) -> _Listing:
    """Returns the files below a folder that match a pattern; as the driver's `glob`, with a folder of any name."""
    depth = None if "**" in pattern else pattern.count("/") + 1
    begin, wanted = len(folder.rstrip("/")) + 1, re.compile(glob_translate(pattern))
    entries = fs.find(folder, maxdepth=depth, detail=True)
    return {path: info for path, info in entries.items() if wanted.match(path[begin:])}


def _named(uri: str, fs: fsspec.AbstractFileSystem, path: str, folders: dict[str, _Listing]) -> _Listing:
    """Returns one file; `folders` keeps the listings of folders, one for all of their files that are named."""
    parent = path.rpartition("/")[0]
    folder = fs.unstrip_protocol(parent)
    if folder not in folders:
        # One listing instead of a request for every file.
        folders[folder] = storage.listed(fs, parent)
    if path not in folders[folder]:
        raise storage.MissingFile(f"{uri}: no such file")
    return {path: folders[folder][path]}


def _as_named(path: str, like: str, fs: fsspec.AbstractFileSystem) -> str:
    """Returns a path as the user named it: relative if `like` is, with a protocol if it has one."""
    if storage.is_url(like):
        return fs.unstrip_protocol(path)
    return path if like.startswith("/") else os.path.relpath(path)
