"""Downloads over HTTP from untrusted servers: bounded in size, time and redirects, which stay on HTTP.

`connection` says which addresses are reached, and ends every wait. Names and passwords in URLs are not sent.
"""

import contextlib
import http.client
import ipaddress
import re
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator

import idna

from pipelines.sources import connection
from pipelines.sources.connection import Deadline, Target
from pipelines.sources.sample import without_login

_HEADERS = {"User-Agent": "web-memory", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
_KEPT_CHARACTERS = "%/:=&?~+!$,;'@()*[]"
# Underscores are in use. A label of letters of other scripts has become one of these before.
_HOST = re.compile(r"(?=.{1,253}$)([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_GONE = (404, 410)
_MAY_WORK_LATER = (408, 425, 429, 500, 502, 503, 504)
# Decompressors by Content-Encoding: gzip or zlib, told apart by their headers; None copies.
_DECODED = {"": None, "identity": None, "gzip": 47, "x-gzip": 47, "deflate": 47}
WAIT_SECS = 10.0
"""Longest wait for a server, for a connection and for each part of an answer."""

DOWNLOAD_SECS = 60.0
"""Longest time of a download: name resolution, connections, redirects, headers and body together."""

_BLOCK_BYTES = 1 << 16


class Unreadable(Exception):
    """An image that cannot be read; the attributes are those of the reject that it becomes."""

    def __init__(self, error_type: str, message: str, retryable: bool = False) -> None:
        """Stores the type, and whether a later attempt may work, with the message."""
        super().__init__(message)
        self.error_type, self.retryable = error_type, retryable


def download(url: str, max_bytes: int, private_addresses: bool = False) -> bytes:
    """Returns the bytes at a URL.

    Args:
        url: `http://` or `https://`, in any case.
        max_bytes: largest download, decompressed.
        private_addresses: whether addresses that are not public, and proxies, may be used.

    Raises:
        Unreadable: if there are none, or the download is larger than `max_bytes`, slower than a minute, redirected to
            anything but HTTP or to an address that is not allowed, or cut off.
    """
    deadline, visited = Deadline(DOWNLOAD_SECS, WAIT_SECS), {url}
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            answer = _ask(url, max_bytes, deadline, private_addresses)
            if isinstance(answer, bytes):
                return answer
            if answer in visited:
                raise Unreadable("BadUrl", f"is redirected in a loop, to {_shown(answer)} again")
            visited.add(url := answer)
    except connection.NotPublic as error:
        raise Unreadable("PrivateAddress", str(error)) from error
    except (connection.TooSlow, connection.Unchecked) as error:
        raise Unreadable("DownloadFailed", str(error), retryable=True) from error
    except http.client.InvalidURL as error:
        raise Unreadable("BadUrl", str(error)) from error
    except (OSError, http.client.HTTPException) as error:
        # Before ValueError, since a certificate that is refused is both.
        reason = deadline.sentence if deadline.is_over else f"{type(error).__name__}: {error}"
        raise Unreadable("DownloadFailed", reason, retryable=True) from error
    except ValueError as error:
        raise Unreadable("BadUrl", str(error)) from error
    raise Unreadable("BadUrl", f"is redirected more than {_MAX_REDIRECTS} times")


def _shown(url: str) -> str:
    """Returns a URL as messages have it: quoted, short, without a name and a password."""
    return repr(without_login(url)[:80])


def _ask(url: str, max_bytes: int, deadline: Deadline, private_addresses: bool) -> bytes | str:
    """Returns the body of the answer, or the URL that it redirects to."""
    target, path = _split(url)
    with contextlib.closing(connection.connect(target, deadline, private_addresses)) as asked:
        asked.request("GET", asked.prefix + path, headers={**_HEADERS, **asked.headers})
        with asked.getresponse() as response:
            if 200 <= response.status < 300:
                return _read(response, max_bytes)
            return _next(url, response)


def _split(url: str) -> tuple[Target, str]:
    """Returns whom to ask, and what for; a `ValueError` if it is no URL."""
    parts = urllib.parse.urlsplit(url)
    scheme, host = parts.scheme.lower(), urllib.parse.unquote(parts.hostname or "")
    if scheme not in connection.PORTS or not host:
        raise ValueError("has no host" if scheme in connection.PORTS else "is not an http or https URL")
    if ":" in host:
        ipaddress.IPv6Address(host.partition("%")[0])
    else:
        host = _ascii(host)
    port = connection.PORTS[scheme] if parts.port is None else parts.port
    query = f"?{parts.query}" if parts.query else ""
    path = urllib.parse.quote((parts.path or "/") + query, _KEPT_CHARACTERS)
    return Target(scheme, host, port), path


def _ascii(host: str) -> str:
    """Returns a host name as browsers send it (UTS 46, ToASCII, not transitional); a `ValueError` if it is none."""
    try:
        mapped = idna.uts46_remap(host, std3_rules=False, transitional=False)
    except idna.IDNAError as error:
        raise ValueError(f"the host {host[:80]!r} is not a name ({error})") from error
    labels = [label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in mapped.split(".")]
    # Without the dot of a full name, which certificates do not have.
    found = ".".join(labels).removesuffix(".")
    if not _HOST.fullmatch(found):
        raise ValueError(f"the host {host[:80]!r} is not a name")
    return found


def _next(url: str, response: http.client.HTTPResponse) -> str:
    """Returns where an answer redirects to; an `Unreadable` for any other answer."""
    place, code = response.headers.get("Location"), response.status
    if code not in _REDIRECTS or not place:
        kind = "MissingImage" if code in _GONE else "HttpError"
        raise Unreadable(kind, f"the server answers {code} {response.reason}", code in _MAY_WORK_LATER)
    # Header lines are Latin-1 to Python; servers send UTF-8.
    place = place.encode("latin-1", "replace").decode("utf-8", "replace")
    found = urllib.parse.urljoin(url, place)
    if urllib.parse.urlsplit(found).scheme.lower() not in connection.PORTS:
        raise Unreadable("BadUrl", f"is redirected to {_shown(found)}")
    return found


def _read(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    data = bytearray()
    for block in _decoded(response, response.headers.get("Content-Encoding", "").strip().lower()):
        data += block
        if len(data) > max_bytes:
            raise Unreadable("TooLarge", f"is larger than {max_bytes:,} bytes")
    if response.length:
        raise Unreadable("DownloadFailed", f"breaks off {response.length:,} bytes before its end", retryable=True)
    return bytes(data)


def _decoded(response: http.client.HTTPResponse, encoding: str) -> Iterator[bytes]:
    """Yields the body in small blocks; servers compress it although they are asked not to."""
    blocks: Iterable[bytes] = iter(lambda: response.read1(_BLOCK_BYTES), b"")
    if encoding not in _DECODED:
        raise Unreadable("HttpError", f"the server sends Content-Encoding {encoding[:40]!r}, which was not asked for")
    bits = _DECODED[encoding]
    if bits is None:
        yield from blocks
        return
    decoder = zlib.decompressobj(bits)
    try:
        for number, block in enumerate(blocks):
            if not number and encoding == "deflate" and not _is_zlib(block):
                decoder = zlib.decompressobj(-zlib.MAX_WBITS)
            while block and not decoder.eof:
                yield decoder.decompress(block, _BLOCK_BYTES)
                block = decoder.unconsumed_tail
            if block or decoder.unused_data:
                raise Unreadable("HttpError", f"the body goes on after the end of its {encoding} data")
    except zlib.error as error:
        raise Unreadable("HttpError", f"the body is not {encoding}, as the server says ({error})") from error
    if not decoder.eof and not response.length:
        raise Unreadable("DownloadFailed", f"its {encoding} data breaks off", retryable=True)


def _is_zlib(block: bytes) -> bool:
    """Tells whether bytes begin as RFC 1950 says; much that is called deflate has no header."""
    return len(block) > 1 and block[0] & 15 == 8 and (block[0] << 8 | block[1]) % 31 == 0
