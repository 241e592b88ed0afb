"""What a request may take, and how one that wants more is refused."""

import dataclasses

from starlette.exceptions import HTTPException


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of the service; the recogniser has those of one image, in bytes and pixels.

    Attributes:
        body_bytes: of a request.
        body_secs: until the whole body has arrived.
        header_secs: until the headers of a connection's first request have arrived.
        images: photographs of a request.
        requests: POST requests at a time; more are refused.
        queue: photographs that wait for the model; a request that does not fit is refused.
        connections: open at a time.
        batch: photographs that share a call of the model.
        wait_secs: that a photograph waits for others to share a call with.
        text_chars: of a text to search for.
        rows: classes or memory rows of an answer.
    """

    body_bytes: int = 32 << 20
    body_secs: float = 30.0
    header_secs: float = 10.0
    images: int = 16
    requests: int = 32
    queue: int = 256
    connections: int = 256
    batch: int = 64
    wait_secs: float = 0.005
    text_chars: int = 1000
    rows: int = 100


def refusal(status: int, sentence: str) -> HTTPException:
    """Returns the exception that answers a request with a status and a sentence; 503 says when to come again."""
    return HTTPException(status, sentence, {"retry-after": "1"} if status == 503 else None)
