"""Lists of images that must not be in the memory, by URL or by the SHA-256 of their bytes.

URLs are compared in their normal form (`urls`), as SHA-256. A digest in a list may also be that of a URL as its source
has it. When rows are compared with a list is up to the embedding job and to `selection`.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa

from pipelines import class_names
from pipelines.errors import UserError
from pipelines.filtering.unwanted import urls
from pipelines.schemas import content_keys
from pipelines.sources.sample import stated_digest

T = TypeVar("T")

_MAX_LINE_BYTES = 1 << 16
# Characters of an entry that a summary shows.
_SHOWN = 200
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
# RFC 3986, section 3; spaces are let in where a second URL does not follow. `sha256:..` is not a URL: it must be given
# as a digest.
_URL = re.compile(r"(?!sha256:)[a-z][a-z0-9+.-]*:\S+(?: +(?![a-z][a-z0-9+.-]*://)\S+)*", re.IGNORECASE)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def url_digests(url: str) -> tuple[bytes, ...]:
    """Returns the digests that a list may have of a URL: of its normal form and, if that differs, of itself."""
    normal = urls.normal(url)
    return (_digest(url),) if normal == url else (_digest(normal), _digest(url))


def entry(text: str) -> bytes:
    """Returns the digest of a line; a `ValueError` if the line is neither a URL nor a digest."""
    if _DIGEST.fullmatch(text):
        return bytes.fromhex(text)
    if _URL.fullmatch(text):
        return url_digests(text)[0]
    raise ValueError(f"{text[:80]!r} is neither a URL nor the 64 hexadecimal digits of a SHA-256")


def digests_of(text: str) -> tuple[bytes, ...]:
    """Returns the digests that a list may have of a digest in hexadecimal digits, or of a URL."""
    return (bytes.fromhex(text),) if _DIGEST.fullmatch(text) else url_digests(text)


def first_lines(uri: str, entries: np.ndarray, most: int) -> list[str]:
    """Returns the first lines of a list, at most `most`, that have one of some entries, `S32`."""
    wanted = OptOut(entries)
    lines = read_lines(uri, lambda text: (text, entry(text)))
    found = (text[:_SHOWN] for text, digest in lines if wanted.has(np.frombuffer(digest, "S32"))[0])
    return list(itertools.islice(found if len(wanted) else (), most))


def read_lines(uri: str, parse: Callable[[str], T]) -> Iterator[T]:
    """Yields the parsed lines of a list; skips empty lines and lines that start with #.

    Args:
        uri: of the list, which may be compressed.
        parse: parses a line, and raises `ValueError` if it is wrong.

    Raises:
        UserError: if the file cannot be read, or a line is wrong.
    """
    for number, line in class_names.read_lines(uri, _MAX_LINE_BYTES):
        text = line.strip()
        if text and not text.startswith("#"):
            try:
                parsed = parse(text)
            except ValueError as error:
                raise UserError(f"{uri}, line {number}: {error}") from error
            yield parsed


class OptOut:
    """The entries of a list as 32-byte digests; URLs by their SHA-256."""

    def __init__(self, digests: np.ndarray) -> None:
        """Takes digests `S32` `[n]` of images and of URLs, in any order."""
        self._digests = np.unique(digests)

    @classmethod
    def load(cls, uri: str) -> "OptOut":
        """Reads a list, which may be compressed: one entry per line, skipping empty lines and lines that start with #.

        Raises:
            UserError: if the file cannot be read, or a line is neither a URL nor 64 hexadecimal digits.
        """
        return cls(np.frombuffer(b"".join(read_lines(uri, entry)), "S32"))

    def __len__(self) -> int:
        """Returns the number of different entries."""
        return len(self._digests)

    def unmet(self, met: np.ndarray) -> np.ndarray:
        """Returns the entries, `S32`, ascending, that are not among those that rows meet, `S32` `[m]`."""
        return np.setdiff1d(self._digests, met)

    def met(self, rows: pa.RecordBatch | pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Returns which embedded rows are on the list, bool `[n]`, and the entries that they meet, `S32`, ascending.

        Args:
            rows: with the columns `content_key`, `url` and `metadata`, which may state the digest of the original.
        """
        keys, texts = as_bytes(content_keys(rows.column("content_key"))), rows.column("metadata").to_pylist()
        stated = [stated_digest(json.loads(text)) if text else None for text in texts]
        return self._met(zip(rows.column("url").to_pylist(), keys, stated, strict=True), len(keys))

    def _met(self, rows: Iterable[tuple[str | None, bytes, bytes | None]], count: int) -> tuple[np.ndarray, np.ndarray]:
        digests: list[bytes] = []
        owners: list[int] = []
        for row, (url, key, original) in enumerate(rows):
            of_row = [key, *(url_digests(url) if url else ()), *((original,) if original else ())]
            digests += of_row
            owners += [row] * len(of_row)
        asked = np.frombuffer(b"".join(digests), "S32")
        is_met = self.has(asked)
        found = np.zeros(count, bool)
        found[np.array(owners, np.int64)[is_met]] = True
        return found, np.unique(asked[is_met])

    def matches(self, urls: Sequence[str | None], content_keys: np.ndarray) -> np.ndarray:
        """Tells which images are on the list.

        Args:
            urls: of the images, as the source has them; None without a URL.
            content_keys: `S32` `[n]`, SHA-256 of the images.

        Returns:
            bool `[n]`.
        """
        keys = as_bytes(content_keys)
        return self._met(zip(urls, keys, [None] * len(keys), strict=True), len(keys))[0]

    def entry_of(self, url: str | None, *digests: bytes) -> str:
        """Returns by what an image is on the list: its URL, or the first of its digests that is; empty if it is not."""
        if url and self.has(np.frombuffer(b"".join(url_digests(url)), "S32")).any():
            return url
        return next((digest.hex() for digest in digests if self.has(np.frombuffer(digest, "S32"))[0]), "")

    def names(self, url: str | None, content_key: bytes) -> bool:
        """Tells whether one image is on the list."""
        return bool(self.entry_of(url, content_key))

    def has(self, digests: np.ndarray) -> np.ndarray:
        """Tells which digests, `S32` `[n]`, are entries of the list, bool `[n]`."""
        if not len(self._digests):
            return np.zeros(len(digests), bool)
        places = np.searchsorted(self._digests, digests)
        return self._digests[np.minimum(places, len(self._digests) - 1)] == digests


def as_bytes(digests: np.ndarray) -> list[bytes]:
    """Returns digests `S32` `[n]` as bytes; NumPy's own conversion would strip trailing zeros."""
    whole = digests.tobytes()
    return [whole[i : i + 32] for i in range(0, len(whole), 32)]
