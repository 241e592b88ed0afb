"""The page: one template, one style sheet, one script; nothing else is loaded, from here or elsewhere."""

import importlib.resources

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from model.service.limits import Limits
from model.service.predictor import Predictor


def _text(name: str) -> str:
    return importlib.resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def render(recognizer: Predictor, limits: Limits) -> Response:
    """Returns the page of a recogniser."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(_text("index.html")).render(
        heads=recognizer.heads, head=recognizer.head, classes=len(recognizer.classes), limits=limits
    )
    return HTMLResponse(text)


async def style(request: Request) -> Response:
    """Answers with the style sheet."""
    return Response(_text("app.css"), media_type="text/css")


async def icon(request: Request) -> Response:
    """Answers with the icon."""
    return Response(_text("icon.svg"), media_type="image/svg+xml")


async def script(request: Request) -> Response:
    """Answers with the script."""
    return Response(_text("app.js"), media_type="text/javascript")
