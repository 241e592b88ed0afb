"""Who may ask, how much at once, and what every answer carries: the outermost layer of the service.

A page of a stranger may make a browser send requests to this machine. Three things keep it out: the Host header must be
a name of ours, which a name that was rebound to 127.0.0.1 is not; a POST of another origin is refused; and answers
carry no permission to read them.
"""

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.service.limits import Limits, refusal
from model.service.metrics import Metrics

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
# Methods that change nothing and have no body.
_READS = ("GET", "HEAD")
# Seconds that the rest of a body is read for, once it is refused.
_DRAIN_SECS = 1.0


def host_of(netloc: str) -> str:
    """Returns the host of `host:port` in lower case, without brackets; empty if it is none."""
    try:
        found = urlsplit(f"//{netloc}")
        return (found.hostname or "").rstrip(".") if found.netloc == netloc and "@" not in netloc else ""
    except ValueError:
        return ""


def _is_ours(host: str, names: Collection[str]) -> bool:
    """Tells whether a host is one of our names, or an address, which no other name can be bound to."""
    try:
        ipaddress.ip_address(host)
        return True
    except ValueError:
        return host == "localhost" or host in names


def check(method: str, headers: Headers, names: Collection[str]) -> None:
    """Raises a refusal if the headers of a request are not those of a program or of our own page."""
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _is_ours(host_of(hosts[0]), names):
        raise refusal(421, "this service has another name; add it by --names if it is yours")
    if method in _READS:
        return
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none") or (origin is not None and _netloc(origin) != hosts[0].lower()):
        raise refusal(403, "a page of another origin may not use this service")


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def error_response(error: HTTPException) -> JSONResponse:
    """Returns the answer of a refusal."""
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class Guard:
    """An ASGI layer; what it refuses reaches nothing else."""

    def __init__(
        self, app: ASGIApp, limits: Limits, metrics: Metrics, names: Collection[str], paths: Collection[str]
    ) -> None:
        """Wraps an application.

        Args:
            app: the application.
            limits: of requests.
            metrics: that are counted here.
            names: host names that the service may be asked by, beside localhost and addresses.
            paths: that are counted by their own name.
        """
        self._app, self._limits, self._metrics = app, limits, metrics
        self._names, self._paths = frozenset(name.lower() for name in names), frozenset(paths)
        self._posts = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        begin, answered, body = time.perf_counter(), False, Body(receive, self._limits)

        async def reply(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                headers = MutableHeaders(scope=message)
                if not await body.drain():
                    headers["connection"] = "close"
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                self._metrics.requests.labels(path, str(message["status"])).inc()
            if not body.gone:
                await send(message)

        with self._metrics.active.track_inprogress():
            try:
                await self._guarded(scope, body, reply)
            except HTTPException as error:
                if not answered:
                    await error_response(error)(scope, receive, reply)
            finally:
                self._metrics.latency.labels(path).observe(time.perf_counter() - begin)

    async def _guarded(self, scope: Scope, body: "Body", send: Send) -> None:
        headers = Headers(scope=scope)
        check(scope["method"], headers, self._names)
        body.check(headers)
        if scope["method"] in _READS:
            await self._app(scope, body, send)
            return
        if self._posts >= self._limits.requests:
            raise refusal(503, f"{self._limits.requests} requests are being answered; try again in a moment")
        self._posts += 1
        try:
            await self._app(scope, body, send)
        finally:
            self._posts -= 1


class Body:
    """The body of a request, counted and timed as it arrives; an ASGI `receive`.

    Attributes:
        gone: whether the client was gone before its end; nothing can be sent then.
    """

    def __init__(self, receive: Receive, limits: Limits) -> None:
        """Starts the clock."""
        self._receive, self._limits = receive, limits
        self._until, self._bytes, self._more = time.monotonic() + limits.body_secs, 0, True
        self.gone = False

    def check(self, headers: Headers) -> None:
        """Raises a refusal if the body says of itself that it is too large."""
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise refusal(400, "the length of the body is no number")
        self._check(int(length[:20]))

    async def __call__(self) -> Message:
        """Returns the next part."""
        if not self._more:
            return await self._receive()
        try:
            message = await self._next(self._until)
        except TimeoutError as error:
            raise refusal(408, f"the body took more than {self._limits.body_secs:g} seconds") from error
        self._bytes += len(message.get("body", b""))
        self._check(self._bytes)
        return message

    async def drain(self) -> bool:
        """Reads what is left and forgets it, for a moment; returns whether that was all.

        A client that still sends when the connection is closed does not see the answer.
        """
        until = time.monotonic() + _DRAIN_SECS
        with contextlib.suppress(TimeoutError):
            while self._more:
                await self._next(until)
        return not self._more

    async def _next(self, until: float) -> Message:
        message = await asyncio.wait_for(self._receive(), max(until - time.monotonic(), 0))
        self._more = message.get("more_body", False)
        self.gone = message["type"] == "http.disconnect"
        return message

    def _check(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise refusal(413, f"the body has more than {self._limits.body_bytes:,} bytes")
