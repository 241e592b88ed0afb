"""Connections to servers that strangers name: to public addresses only, and with one deadline for all that is read.

A name is resolved once, and the connection goes to an address that was checked, so a name that changes its address in
between leads nowhere else. TLS and the header Host still have the name. `web` says what is asked and what is answered.
"""

import base64
import functools
import http.client
import io
import ipaddress
import queue
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from typing import Any, NamedTuple

FLAG = "--config.embed.private_addresses=true"
# What `ipaddress` takes for global and is not, or only in newer versions of Python.
_NOT_GLOBAL = tuple(map(ipaddress.ip_network, ("192.88.99.0/24", "2001::/23", "3fff::/20", "2620:4f:8000::/48")))
PORTS = {"http": 80, "https": 443}
_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NotPublic(Exception):
    """A URL leads to an address that is not of the public internet."""


class Unchecked(Exception):
    """A proxy would connect in our place, to an address that cannot be checked."""


class TooSlow(Exception):
    """The time of a download is over."""


class Deadline:
    """The end of a download."""

    def __init__(self, secs: float, wait_secs: float) -> None:
        """Starts the time.

        Args:
            secs: for all of it.
            wait_secs: longest wait for a single answer.
        """
        self._secs, self._wait_secs, self._end = secs, wait_secs, time.monotonic() + secs

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._end

    @property
    def sentence(self) -> str:
        """What is said then."""
        return f"takes more than {self._secs:g} seconds"

    def left(self) -> float:
        """Returns the seconds that the next step may wait; a `TooSlow` if the time is over."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TooSlow(self.sentence)
        return min(left, self._wait_secs)


class Target(NamedTuple):
    """Whom a URL asks: `http` or `https`, a host name in ASCII or an address, and a port."""

    scheme: str
    host: str
    port: int


class _Proxy(NamedTuple):
    target: Target
    headers: dict[str, str]


def is_public(address: str) -> bool:
    """Tells whether an IP address is a unicast address of the public internet, and so is one that it embeds."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip not in _UNICAST:
            return False
    listed = any(ip in network for network in _NOT_GLOBAL if network.version == ip.version)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or listed)


def connect(target: Target, deadline: Deadline, anywhere: bool) -> "_Plain":
    """Returns an open connection; the path of a request follows its `prefix`, `headers` are among those of the request.

    Args:
        target: whom to ask.
        deadline: of this and of everything that is read from it.
        anywhere: whether any address is allowed, and a proxy of the environment.

    Raises:
        NotPublic: if the host has no public address.
        Unchecked: if the environment names a proxy.
        TooSlow: if the time is over.
        OSError: if there is no such host, or it does not answer.
    """
    proxy = _proxy(target)
    asked = proxy.target if proxy and anywhere else target
    found = _addresses(asked, deadline, anywhere)
    if proxy and not anywhere:
        raise Unchecked(
            f"the proxy that {target.scheme}_proxy names would choose the address, which cannot be checked; {FLAG} "
            "uses it, no_proxy=* does without"
        )
    connection = (_Tls if target.scheme == "https" else _Plain)(asked, found, deadline)
    if proxy:
        connection.go_through(proxy, target)
    try:
        connection.connect()
    except BaseException:
        connection.close()
        raise
    return connection


def _addresses(target: Target, deadline: Deadline, anywhere: bool) -> list[Any]:
    """Returns what `socket.getaddrinfo` has of a host, without the addresses that are not allowed."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM))
        except Exception as error:
            answers.put(error)

    # The system's resolver takes no timeout.
    threading.Thread(target=ask, daemon=True).start()
    try:
        found = answers.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError("the name of the host is not resolved") from None
    if isinstance(found, Exception):
        raise found
    allowed = [entry for entry in found if anywhere or is_public(str(entry[4][0]))]
    if not allowed:
        raise NotPublic(
            f"the host {target.host!r} has the address {found[0][4][0]}, which is not public; {FLAG} allows that"
        )
    return allowed


def _proxy(target: Target) -> _Proxy | None:
    """Returns the proxy that the environment names for a target."""
    url = urllib.request.getproxies().get(target.scheme)
    if not url or urllib.request.proxy_bypass(_with_port(target)):
        return None
    parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise OSError(f"the proxy that {target.scheme}_proxy names is not of the form http://HOST:PORT")
    headers = {}
    if parts.username is not None:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers = {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return _Proxy(Target("http", parts.hostname, parts.port or 80), headers)


def _with_port(target: Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return host if target.port == PORTS[target.scheme] else f"{host}:{target.port}"


class _Plain(http.client.HTTPConnection):
    """A connection to one of several addresses, on which nothing outlasts the deadline."""

    def __init__(self, target: Target, found: list[Any], deadline: Deadline) -> None:
        super().__init__(target.host, target.port)
        self.prefix = ""
        self.headers: dict[str, str] = {}
        self._found, self._deadline = found, deadline
        # http.client connects by this, before TLS and before it asks a proxy for a tunnel.
        self._create_connection = self._to_found

    def _to_found(self, *unused: object) -> socket.socket:
        for number, (family, kind, protocol, _, address) in enumerate(self._found, 1):
            connected = socket.socket(family, kind, protocol)
            try:
                connected.settimeout(self._deadline.left())
                connected.connect(address)
                return connected
            except BaseException as error:
                connected.close()
                if not isinstance(error, OSError) or number == len(self._found):
                    raise
        raise OSError("the host has no address")

    def connect(self) -> None:
        """Connects."""
        super().connect()
        self.sock: Any = _Timed(self.sock, self._deadline)

    def go_through(self, proxy: _Proxy, target: Target) -> None:
        """Makes this, a connection to a proxy, one to a target."""
        self.prefix, self.headers = f"http://{_with_port(target)}", {"Host": _with_port(target), **proxy.headers}


class _Tls(_Plain, http.client.HTTPSConnection):
    """The same with TLS, whose certificate is for the name."""

    def __init__(self, target: Target, found: list[Any], deadline: Deadline) -> None:
        super().__init__(target, found, deadline)
        self._context = _tls()

    def go_through(self, proxy: _Proxy, target: Target) -> None:
        """Makes this, a connection to a proxy, one to a target."""
        self.set_tunnel(target.host, target.port, proxy.headers)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Returns the settings of TLS; reading the certificates of the system takes a while."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Timed:
    """A socket as http.client uses it; each wait ends with the deadline."""

    def __init__(self, inner: socket.socket, deadline: Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def sendall(self, data: Any) -> None:
        self._inner.settimeout(self._deadline.left())
        self._inner.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._inner, self._deadline))

    def close(self) -> None:
        self._inner.close()


class _Reader(io.RawIOBase):
    """What a socket receives."""

    def __init__(self, inner: socket.socket, deadline: Deadline) -> None:
        self._inner, self._deadline = inner, deadline
        self._file = inner.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._inner.settimeout(self._deadline.left())
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()
