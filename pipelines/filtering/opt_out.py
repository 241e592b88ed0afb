"""Lists of images that must not be in the memory, by URL or by the SHA-256 of their bytes.

When rows are compared with a list is up to the embedding job and to `selection`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa

from pipelines import class_names
from pipelines.errors import UserError
from pipelines.sources.sample import stated_digest

T = TypeVar("T")

_MAX_LINE_BYTES = 1 << 16
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
# RFC 3986, section 3. `sha256:..` is not a URL: it must be given as a digest.
_URL = re.compile(r"(?!sha256:)[a-z][a-z0-9+.-]*:\S+", re.IGNORECASE)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def entry(text: str) -> bytes:
    """Returns the digest of a line; a `ValueError` if the line is neither a URL nor a digest."""
    if _DIGEST.fullmatch(text):
        return bytes.fromhex(text)
    if _URL.fullmatch(text):
        return _digest(text)
    raise ValueError(f"{text[:80]!r} is neither a URL nor the 64 hexadecimal digits of a SHA-256")


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

    def matches(self, urls: Sequence[str | None], content_keys: np.ndarray) -> np.ndarray:
        """Tells which images are on the list.

        Args:
            urls: of the images, as the source has them; None without a URL.
            content_keys: `S32` `[n]`, SHA-256 of the images.

        Returns:
            bool `[n]`.
        """
        # Without a URL the digest of the image stands in, which does not change the answer.
        of_urls = [_digest(url) if url else key for url, key in zip(urls, _bytes(content_keys), strict=True)]
        return self._has(content_keys) | self._has(np.frombuffer(b"".join(of_urls), "S32"))

    def matches_rows(self, rows: pa.RecordBatch | pa.Table, content_keys: np.ndarray) -> np.ndarray:
        """Tells which embedded rows are on the list, also by the digest of the original image that their source states.

        Args:
            rows: with the columns `url` and `metadata`.
            content_keys: `S32` `[n]` of the rows.

        Returns:
            bool `[n]`.
        """
        stated = [stated_digest(json.loads(text or "{}")) for text in rows.column("metadata").to_pylist()]
        whole = [digest or key for digest, key in zip(stated, _bytes(content_keys), strict=True)]
        originals = self._has(np.frombuffer(b"".join(whole), "S32"))
        return self.matches(rows.column("url").to_pylist(), content_keys) | originals

    def names(self, url: str | None, content_key: bytes) -> bool:
        """Tells whether one image is on the list."""
        return bool(self.matches([url], np.frombuffer(content_key, "S32"))[0])

    def _has(self, digests: np.ndarray) -> np.ndarray:
        if not len(self._digests):
            return np.zeros(len(digests), bool)
        places = np.searchsorted(self._digests, digests)
        return self._digests[np.minimum(places, len(self._digests) - 1)] == digests


def _bytes(digests: np.ndarray) -> list[bytes]:
    """Returns digests as bytes; NumPy's own conversion would strip trailing zeros."""
    whole = digests.tobytes()
    return [whole[i : i + 32] for i in range(0, len(whole), 32)]
