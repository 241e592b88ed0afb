"""Serves an application on a socket, until the process is asked to stop."""

import contextlib
import signal
from asyncio import TimerHandle, Transport
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from model.service.limits import Limits
from pipelines.errors import UserError

# Requests that were taken are answered for so long after the signal to stop.
_LAST_SECS = 30


def run(app: ASGIApp, host: str, port: int, limits: Limits, started: Callable[[int], None]) -> None:
    """Serves until SIGINT or SIGTERM; requests that were taken are answered first.

    Args:
        app: the application.
        host: address to listen on.
        port: to listen on; 0 for any that is free.
        limits: of connections.
        started: called with the port as soon as requests are taken.

    Raises:
        UserError: if the port cannot be had.
    """
    config = uvicorn.Config(
        app,
        http=_protocol(limits),
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=_LAST_SECS,
    )
    config.host, config.port = host, port
    try:
        socket = config.bind_socket()
    except SystemExit as error:
        raise UserError(f"--host={host} --port={port}: cannot listen there; name another port") from error
    with contextlib.closing(socket), _quiet_signals():
        _Server(config, lambda: started(socket.getsockname()[1])).run([socket])


class _Server(uvicorn.Server):
    """Says when it takes requests."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._say = started

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self._say()


@contextlib.contextmanager
def _quiet_signals() -> Iterator[None]:
    """Lets uvicorn, which raises its signals again when it has stopped, end quietly."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _protocol(limits: Limits) -> type[H11Protocol]:
    """Returns uvicorn's protocol, which also closes connections that send no request."""

    class Protocol(H11Protocol):
        _first: TimerHandle | None = None

        def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._first = self.loop.call_later(limits.header_secs, self._expect)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._first:
                self._first.cancel()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            try:
                super().send_400_response(msg)
            except h11.LocalProtocolError:
                # The answer to a HEAD request can have no text, which uvicorn overlooks.
                self.transport.close()

        def _expect(self) -> None:
            if self.cycle is None:
                self.transport.close()

    return Protocol
