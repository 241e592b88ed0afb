"""What a request asks for: photographs and parameters, from a form, an image or JSON, each of them checked."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.requests import Request

from model.service.batcher import Wanted
from model.service.limits import Limits, refusal
from pipelines.errors import nearest

_FORM, _JSON, _BYTES = "multipart/form-data", "application/json", "application/octet-stream"


def content_type(request: Request) -> str:
    """Returns the media type of the body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def photographs(request: Request, limits: Limits) -> tuple[list[bytes], dict[str, str]]:
    """Returns the encoded images of a request, and the parameters of its URL and its form.

    Raises:
        HTTPException: 400, 413, 415 or 422, if there is none, or there are too many.
    """
    given, kind = _once(list(request.query_params.multi_items())), content_type(request)
    if kind == _FORM:
        _check_end(request.headers["content-type"], await request.body())
        async with request.form(max_files=limits.images, max_fields=limits.images) as form:
            items = form.multi_items()
            sent = [(value.filename, await value.read()) for _, value in items if isinstance(value, UploadFile)]
            given = _once([*given.items(), *((name, value) for name, value in items if isinstance(value, str))])
    elif kind.startswith("image/") or kind == _BYTES:
        sent = [("the body", await request.body())]
    else:
        raise refusal(415, f"send photographs as {_FORM}, image/* or {_BYTES}")
    if not sent:
        raise refusal(422, "the form has no file; give at least one photograph")
    for name, image in sent:
        if not image:
            raise refusal(422, f"{(name or 'a file')[:100]}: has 0 bytes; send photographs, or leave it out")
    return [image for _, image in sent], given


def _check_end(header: str, form: bytes) -> None:
    """Raises a refusal for a form that was cut short: the parser would omit its last photograph without a word."""
    boundary = parse_options_header(header)[1].get(b"boundary", b"")
    if not form.rstrip(b"\r\n").endswith(b"--" + boundary + b"--"):
        raise refusal(400, "the form ends before its last boundary; send it again")


async def text(request: Request, limits: Limits) -> dict[str, Any]:
    """Returns the parameters of a search by text: `text`, and perhaps `k` and `where`.

    Raises:
        HTTPException: 400 or 422, if the body is no such JSON.
    """
    try:
        asked = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise refusal(400, "the body is not JSON") from error
    if not isinstance(asked, dict) or not isinstance(asked.get("text"), str) or not asked["text"].strip():
        raise refusal(422, 'send an object such as {"text": "a red bird", "k": 12}')
    if len(asked["text"]) > limits.text_chars:
        raise refusal(422, f"text: has more than {limits.text_chars:,} characters")
    if request.query_params:
        raise refusal(422, "a search by text takes its parameters from the JSON, none from the address")
    # A half of a surrogate pair, which JSON can spell and nothing can encode.
    texts = {name: value for name, value in asked.items() if isinstance(value, str)}
    return asked | {name: value.encode("utf-8", "replace").decode() for name, value in texts.items()}


def is_json(request: Request) -> bool:
    """Tells whether a request is a search by text."""
    return content_type(request) == _JSON


def wanted(given: Mapping[str, str], heads: Sequence[str], limits: Limits) -> Wanted:
    """Returns what is asked of the photographs; errors as `number`."""
    _known(given, ("head", "top", "influence"))
    if (head := given.get("head", "")) and head not in heads:
        raise refusal(422, f"head: there is no such head; {nearest(head[:100], heads)}")
    if (influence := given.get("influence", "false").lower()) not in ("true", "false", "1", "0"):
        raise refusal(422, "influence: must be true or false")
    return Wanted(head, number(given, "top", 5, limits.rows), influence in ("true", "1"))


def rows(given: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Returns which memory rows a search asks for: `k` and `where`; errors as `number`."""
    _known(given, ("text", "k", "where"))
    where = given.get("where", "")
    if not isinstance(where, str) or len(where) > limits.text_chars:
        raise refusal(422, f"where: must be a filter of at most {limits.text_chars:,} characters")
    return {"k": number(given, "k", 12, limits.rows), "where": where.strip()}


def number(given: Mapping[str, Any], name: str, default: int, most: int) -> int:
    """Returns a parameter that is a whole number.

    Raises:
        HTTPException: 422, if it is none from 1 to `most`.
    """
    value = given.get(name, default)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        value = int(value)
    if type(value) is not int or not 1 <= value <= most:
        raise refusal(422, f"{name}: must be a whole number from 1 to {most}")
    return value


def _known(given: Mapping[str, Any], names: Sequence[str]) -> None:
    if unknown := [name for name in given if name not in names]:
        raise refusal(422, f"{unknown[0][:100]!r}: unknown parameter; {nearest(unknown[0][:100], names)}")


def _once(items: Sequence[tuple[str, str]]) -> dict[str, str]:
    given = dict(items)
    if len(given) != len(items):
        raise refusal(422, "a parameter is given twice")
    return given
