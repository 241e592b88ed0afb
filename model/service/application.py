"""The ASGI application over one opened recogniser: `/predict`, `/search`, `/healthz`, `/metrics`, and the page."""

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from model.service import asking, guard, metrics, page
from model.service.batcher import Batcher
from model.service.limits import Limits, refusal
from model.service.predictor import Predictor
from pipelines.errors import UserError


def build(recognizer: Predictor, limits: Limits | None = None, names: Collection[str] = ()) -> guard.Guard:
    """Returns the application.

    Args:
        recognizer: opened; the caller closes it.
        limits: of requests.
        names: host names that the service may be asked by, beside localhost and addresses.
    """
    service = _Service(recognizer, limits or Limits())
    routes = [
        Route("/", service.page),
        Route("/app.css", page.style),
        Route("/app.js", page.script),
        Route("/icon.svg", page.icon),
        Route("/predict", service.predict, methods=["POST"]),
        Route("/search", service.search, methods=["POST"]),
        Route("/healthz", service.health),
        Route("/metrics", service.metrics_text),
    ]
    handlers: dict[Any, Any] = {HTTPException: _refused, UserError: _unusable, ClientDisconnect: _gone, Exception: _bug}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=service.lifespan)
    app.router.redirect_slashes = False
    return guard.Guard(app, service.limits, service.metrics, names, [route.path for route in routes])


async def _refused(request: Request, error: HTTPException) -> Response:
    sentences = {404: "there is nothing here; see docs/service.md", 405: "this address takes another method"}
    sentence = sentences.get(error.status_code, error.detail)
    return guard.error_response(HTTPException(error.status_code, sentence, error.headers))


async def _unusable(request: Request, error: UserError) -> Response:
    return guard.error_response(refusal(422, str(error)))


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    # Nobody reads it.
    return Response(status_code=400)


async def _bug(request: Request, error: Exception) -> Response:
    return guard.error_response(refusal(500, "a mistake of ours; the log of the service has the traceback"))


class _Service:
    """The endpoints."""

    def __init__(self, recognizer: Predictor, limits: Limits) -> None:
        self.recognizer, self.limits, self.metrics = recognizer, limits, metrics.Metrics()
        self._batcher: Batcher | None = None
        self._readers = ThreadPoolExecutor(os.cpu_count() or 1, "reader")

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Works from the start of the server to its end."""
        self._batcher = Batcher(self.recognizer, self.limits, self.metrics)
        self._batcher.start()
        yield
        await self._batcher.stop()

    @property
    def batcher(self) -> Batcher:
        """The one who calls the recogniser."""
        assert self._batcher, "requests come after the start"
        return self._batcher

    async def predict(self, request: Request) -> Response:
        """Answers with a prediction, or an error, for each photograph."""
        images, given = await asking.photographs(request, self.limits)
        wanted = asking.wanted(given, self.recognizer.heads, self.limits)
        read = await asyncio.gather(*map(self._read, images), return_exceptions=True)
        good = [image for image in read if not isinstance(image, BaseException)]
        if unknown := [e for e in read if isinstance(e, BaseException) and not isinstance(e, UserError)]:
            raise unknown[0]
        if not good:
            raise next(error for error in read if isinstance(error, UserError))
        found = iter(await self.batcher.predict(good, wanted))
        answers = [_error(image) if isinstance(image, UserError) else dataclasses.asdict(next(found)) for image in read]
        return JSONResponse({"head": wanted.head or self.recognizer.head, "predictions": answers})

    async def search(self, request: Request) -> Response:
        """Answers with the memory rows nearest to a text or a photograph."""
        if asking.is_json(request):
            asked = await asking.text(request, self.limits)
            found = await self.batcher.search(text=asked["text"], **asking.rows(asked, self.limits))
        else:
            images, given = await asking.photographs(request, self.limits)
            if len(images) > 1:
                raise refusal(422, "search for one photograph at a time")
            rows = asking.rows(given, self.limits)
            found = await self.batcher.search(image=await self._read(images[0]), **rows)
        return JSONResponse({"neighbors": [dataclasses.asdict(neighbor) for neighbor in found]})

    async def _read(self, image: bytes) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.recognizer.read, image)

    async def health(self, request: Request) -> Response:
        """Answers with what is served."""
        recognizer = self.recognizer
        facts = {"head": recognizer.head, "heads": list(recognizer.heads), "classes": len(recognizer.classes)}
        return JSONResponse({"status": "ok", **facts})

    async def metrics_text(self, request: Request) -> Response:
        """Answers with the counters."""
        return Response(self.metrics.text(), media_type=metrics.CONTENT_TYPE)

    async def page(self, request: Request) -> Response:
        """Answers with the page."""
        return page.render(self.recognizer, self.limits)


def _error(error: UserError) -> dict[str, str]:
    # A photograph that was read alone is called `image 1` whatever its place.
    return {"error": str(error).removeprefix("image 1: ")}
