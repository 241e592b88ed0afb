"""Lists of images that must not be in the memory, by URL or by the SHA-256 of their bytes.

When rows are held against the list is left to the embedding job and to `selection`.
"""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from pipelines import storage
from pipelines.errors import UserError

_MAX_LINE_BYTES = 1 << 16
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://\S+")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class OptOut:
    """The entries of a list, 32 bytes each: URLs by their SHA-256."""

    def __init__(self, digests: np.ndarray) -> None:
        """Takes digests `S32` `[n]` of images and of URLs, in any order."""
        self._digests = np.unique(digests)

    @classmethod
    def load(cls, uri: str) -> "OptOut":
        """Reads a list, which may be compressed: an entry a line; empty lines and those that start with # are skipped.

        Raises:
            UserError: if the file cannot be read, or a line is neither a URL nor 64 hexadecimal digits.
        """
        digests, number = bytearray(), 0
        try:
            with storage.open_decompressed(uri) as file:
                while line := file.readline(_MAX_LINE_BYTES):
                    number += 1
                    digests += cls._entry(line)
        except (*storage.BROKEN_STREAM, OSError) as error:
            raise UserError(f"{uri}: cannot be read after line {number} ({error})") from error
        except ValueError as error:
            raise UserError(f"{uri}, line {number}: {error}") from error
        return cls(np.frombuffer(bytes(digests), "S32"))

    @staticmethod
    def _entry(line: bytes) -> bytes:
        if len(line) >= _MAX_LINE_BYTES:
            raise ValueError(f"is longer than {_MAX_LINE_BYTES:,} bytes")
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"is not UTF-8 ({error.reason})") from error
        if not text or text.startswith("#"):
            return b""
        if _DIGEST.fullmatch(text):
            return bytes.fromhex(text)
        if _URL.fullmatch(text):
            return _digest(text)
        raise ValueError(f"{text[:80]!r} is neither a URL nor the 64 hexadecimal digits of a SHA-256")

    def __len__(self) -> int:
        """Returns the number of different entries."""
        return len(self._digests)

    def matches(self, urls: Sequence[str | None], content_keys: np.ndarray) -> np.ndarray:
        """Tells which images are on the list.

        Args:
            urls: of the images, as the source has them; None where there is none.
            content_keys: `S32` `[n]`, SHA-256 of the images.

        Returns:
            bool `[n]`.
        """
        # A digest of an image stands in where there is no URL, which changes no answer.
        of_urls = [_digest(url) if url else key for url, key in zip(urls, _bytes(content_keys), strict=True)]
        return self._has(content_keys) | self._has(np.frombuffer(b"".join(of_urls), "S32"))

    def names(self, url: str | None, content_key: bytes) -> bool:
        """Tells whether one image is on the list."""
        return bool(self.matches([url], np.frombuffer(content_key, "S32"))[0])

    def _has(self, digests: np.ndarray) -> np.ndarray:
        if not len(self._digests):
            return np.zeros(len(digests), bool)
        places = np.searchsorted(self._digests, digests)
        return self._digests[np.minimum(places, len(self._digests) - 1)] == digests


def _bytes(digests: np.ndarray) -> list[bytes]:
    """Returns digests as bytes; NumPy's own conversion would take zeros off their ends."""
    whole = digests.tobytes()
    return [whole[i : i + 32] for i in range(0, len(whole), 32)]
