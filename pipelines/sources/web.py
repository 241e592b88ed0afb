"""Downloads over HTTP from untrusted servers: bounded in size, time and redirects, which stay on HTTP."""

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request

_SCHEMES = ("http://", "https://")
_HANDLERS = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.HTTPDefaultErrorHandler,
)
_HEADERS = {"User-Agent": "web-memory"}
_KEPT_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_GONE = (404, 410)
_MAY_WORK_LATER = (408, 425, 429, 500, 502, 503, 504)
WAIT_SECS = 10.0
"""Longest wait for a server, for a connection and for each part of an answer."""

DOWNLOAD_SECS = 60.0
"""Longest time of a download."""

_BLOCK_BYTES = 1 << 16


class Unreadable(Exception):
    """An image that cannot be read; the attributes are those of the reject that it becomes."""

    def __init__(self, error_type: str, message: str, retryable: bool = False) -> None:
        """Stores the type, and whether a later attempt may work, with the message."""
        super().__init__(message)
        self.error_type, self.retryable = error_type, retryable


def download(url: str, max_bytes: int) -> bytes:
    """Returns the bytes at a URL.

    Raises:
        Unreadable: if there are none, or the download is larger than `max_bytes`, slower than a minute, redirected to
            anything but HTTP, or cut off.
    """
    # Not `build_opener`: it also opens files and FTP, and reads the body of a redirect, however long it is.
    opener = urllib.request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            request = urllib.request.Request(urllib.parse.quote(url, _KEPT_CHARACTERS), headers=_HEADERS)
            try:
                with opener.open(request, timeout=WAIT_SECS) as response:
                    return _read(response, max_bytes)
            except urllib.error.HTTPError as error:
                error.close()
                url = _next(url, error)
    except (ValueError, http.client.InvalidURL) as error:
        raise Unreadable("BadUrl", str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise Unreadable("DownloadFailed", f"{type(reason).__name__}: {reason}", retryable=True) from error
    raise Unreadable("BadUrl", f"is redirected more than {_MAX_REDIRECTS} times")


def _next(url: str, error: urllib.error.HTTPError) -> str:
    """Returns where an answer redirects to; an `Unreadable` for any other answer."""
    place = error.headers.get("Location")
    if error.code not in _REDIRECTS or not place:
        kind = "MissingImage" if error.code in _GONE else "HttpError"
        raise Unreadable(kind, f"the server answers {error.code} {error.reason}", error.code in _MAY_WORK_LATER)
    url = urllib.parse.urljoin(url, place)
    if not url.startswith(_SCHEMES):
        raise Unreadable("BadUrl", f"is redirected to {url[:80]!r}")
    return url


def _read(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    data, end = bytearray(), time.monotonic() + DOWNLOAD_SECS
    while block := response.read1(_BLOCK_BYTES):
        data += block
        if len(data) > max_bytes:
            raise Unreadable("TooLarge", f"is larger than {max_bytes:,} bytes")
        if time.monotonic() > end:
            raise Unreadable("DownloadFailed", f"takes more than {DOWNLOAD_SECS:.0f} seconds", retryable=True)
    if response.length:
        raise Unreadable("DownloadFailed", f"breaks off {response.length:,} bytes before its end", retryable=True)
    return bytes(data)
