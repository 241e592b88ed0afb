"""The list of images that are removed for good: `removed.txt` in the workdir, and a copy of it.

    # web-memory: 2 entries, taken off 0 times, sha256 ..      what the file says of itself
    0123..                                                     digests of images and URLs, in the order of their coming
    4567..

The list grows at its end. Only `reindex --forget_removed` takes entries off, which raises the number in the first line.
So of two states of the list it can be told which is the later, and whether the earlier is its beginning. The copy is
written first: whatever is lost of one file is in the other, and every selection notes the state that it has applied.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipelines import storage
from pipelines.errors import UserError

FORGET = "--forget_removed"
_HEAD = re.compile(rb"# web-memory: (\d+) entries, taken off (\d+) times, sha256 ([0-9a-f]{64})")
_DIGEST = re.compile(rb"[0-9a-fA-F]{64}")


@dataclasses.dataclass(frozen=True)
class RemovedList:
    """A state of the list.

    Attributes:
        digests: of images and URLs, `S32` `[n]`, in the order in which they came.
        shrunk: how often entries were taken off.
    """

    digests: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, "S32"))
    shrunk: int = 0

    @property
    def state(self) -> dict[str, Any]:
        """What identifies the state: `entries`, `shrunk`, `sha256`."""
        return self._state_of_first(len(self.digests))

    def _state_of_first(self, entries: int) -> dict[str, Any]:
        digest = hashlib.sha256(f"{self.shrunk}\n".encode() + self.digests[:entries].tobytes()).hexdigest()
        return {"entries": entries, "shrunk": self.shrunk, "sha256": digest}

    def follows(self, state: Mapping[str, Any]) -> bool:
        """Tells whether this is a state or a later one: no entry is gone that was not taken off by command."""
        if self.shrunk != state["shrunk"]:
            return self.shrunk > state["shrunk"]
        return state["entries"] <= len(self.digests) and self._state_of_first(state["entries"]) == dict(state)

    def with_new(self, digests: np.ndarray) -> "RemovedList":
        """Returns the list with further digests, `S32`, at its end."""
        return RemovedList(np.concatenate([self.digests, np.setdiff1d(digests, self.digests)]), self.shrunk)

    def without(self, digests: np.ndarray) -> "RemovedList":
        """Returns the list without some digests, `S32`; itself if it has none of them."""
        stays = ~np.isin(self.digests, digests)
        return self if stays.all() else RemovedList(self.digests[stays], self.shrunk + 1)

    def _text(self) -> bytes:
        state, whole = self.state, self.digests.tobytes()
        head = f"# web-memory: {state['entries']} entries, taken off {self.shrunk} times, sha256 {state['sha256']}"
        return "\n".join([head, *(whole[i : i + 32].hex() for i in range(0, len(whole), 32)), ""]).encode()

    def write(self, path: str) -> None:
        """Writes the copy, then the file itself, each at once or not at all."""
        for uri in (copy_of(path), path):
            with storage.atomic_write(uri) as file:
                file.write(self._text())


def copy_of(path: str) -> str:
    """Returns the path of the list's copy."""
    return f"{path}.copy"


def exists(path: str) -> bool:
    """Tells whether there is a list, or a copy of it."""
    return storage.exists(path) or storage.exists(copy_of(path))


def read(path: str) -> RemovedList:
    """Returns the list as its file, or the copy if the file is missing or older, has it; empty if there is neither.

    Args:
        path: of the file.

    Raises:
        UserError: if the file is damaged, has been edited, or is not a state of the same list as the copy.
    """
    copied = _read(copy_of(path), is_copy=True)
    try:
        stored = _read(path)
    except UserError as error:
        where = f"restores it from {storage.name(copy_of(path))}" if copied else "needs it: restore it from a backup"
        action = "remove the file and run the same command again, which" if copied else "the list of removed images"
        raise UserError(
            f"{error}; entries are taken off by web-memory reindex {FORGET}=FILE alone; {action} {where}"
        ) from error
    if stored is None or copied is None:
        return stored or copied or RemovedList()
    if stored.follows(copied.state):
        return stored
    if copied.follows(stored.state):
        return copied
    raise UserError(
        f"{path}: is another list than {copy_of(path)}; remove the one that is not of this workdir and run the same "
        "command again"
    )


def settle(path: str, applied: Iterable[Mapping[str, Any]]) -> RemovedList:
    """Returns the list after restoring whichever of its two files is missing or older.

    Args:
        path: of the file.
        applied: states that selections were made with.

    Raises:
        UserError: as `read`, or if the list lacks entries that were applied before.
    """
    now = read(path)
    for state in applied:
        if not now.follows(state):
            raise UserError(
                f"{path}: has {len(now.digests):,} entries, and is not the list of {state['entries']:,} removed images "
                f"and URLs that was applied before, or a longer one; restore it and {storage.name(copy_of(path))} from "
                f"a backup, or start a new list with web-memory reindex {FORGET}=all --remove=FILE, where FILE names "
                "all that must stay removed"
            )
    if exists(path) and any(_state(uri) != now.state for uri in (path, copy_of(path))):
        now.write(path)
    return now


def _state(uri: str) -> dict[str, Any] | None:
    found = _read(uri, is_copy=True)
    return found.state if found else None


def _read(uri: str, is_copy: bool = False) -> RemovedList | None:
    """Returns the list that a file has; None if it is missing, or if a copy is damaged."""
    if not storage.exists(uri):
        return None
    try:
        with storage.open_read(uri) as file:
            return _parse(file.read())
    except ValueError as error:
        if is_copy:
            return None
        raise UserError(f"{uri}: {error}") from error


def _parse(data: bytes) -> RemovedList:
    lines = data.splitlines()
    match = _HEAD.fullmatch(lines[0]) if lines else None
    # Lists of earlier versions have no first line of this kind.
    entries = lines[1:] if match else [line.strip() for line in lines if line.strip() and not line.startswith(b"#")]
    if wrong := [line for line in entries if not _DIGEST.fullmatch(line)]:
        raise ValueError(f"{wrong[0][:80].decode(errors='replace')!r} is not a digest; the file is damaged")
    digests = np.frombuffer(b"".join(bytes.fromhex(line.decode()) for line in entries), "S32")
    if not match:
        if not entries:
            raise ValueError("is empty: it has been emptied or cut")
        return RemovedList(np.unique(digests))
    found = RemovedList(digests, int(match[2]))
    if found.state["entries"] != int(match[1]) or found.state["sha256"] != match[3].decode():
        raise ValueError(
            f"has {len(digests):,} entries that are not the {int(match[1]):,} of its first line; it was cut or edited"
        )
    return found
