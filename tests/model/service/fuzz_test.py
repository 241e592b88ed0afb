"""Requests that nobody means: random bytes, wrong types, slow and endless bodies; the service stays and stays small."""

import json
import os
import random
import socket
import time

import httpx2
import psutil
import pytest

from tests.model.service import serving

_TYPES = (
    *("image/jpeg", "image/png", "application/octet-stream", "application/json", "text/plain", "", "\xff"),
    *("multipart/form-data", "multipart/form-data; boundary=x", "multipart/form-data; boundary=" + "x" * 300),
)
_QUERIES = ("", "?top=3", "?top=-1", "?head=%ff%00", "?head=mam&head=mam", "?influence=1", "?k=2", "?" + "a=1&" * 300)
_PATHS = (
    "/predict",
    "/search",
    "/",
    "/metrics",
    "/healthz",
    "/..%2f..%2fetc/passwd",
    "/app.js/../x",
    "//predict",
    "/%ff",
)
_VALUES = (None, True, -1, 1e308, 10**40, "", "x" * 2000, [], {}, "\ud800", [[[]]])
_SLOW_EVERY, _HUGE_EVERY = 250, 2500


def _form(rng: random.Random) -> bytes:
    names = ("image", "head", "top", "influence", "\u2028", "x" * 200)
    parts = []
    for _ in range(rng.randrange(20)):
        file = rng.choice(('; filename="a.jpg"', '; filename="../../x"', ""))
        head = f'Content-Disposition: form-data; name="{rng.choice(names)}"{file}\r\n\r\n'.encode()
        parts.append(b"--x\r\n" + head + rng.randbytes(rng.randrange(100)) + b"\r\n")
    whole = b"".join(parts) + b"--x--\r\n"
    # Often cut, or with a byte of another value.
    place = rng.randrange(len(whole))
    return rng.choice((whole, whole[:place], whole[:place] + rng.randbytes(1) + whole[place + 1 :]))


def _body(rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.choice((0, 1, 10, 1000, 200_000)))
    if kind == 1:
        return json.dumps({"text": rng.choice(_VALUES), "k": rng.choice(_VALUES)}).encode()
    return _form(rng) if kind == 2 else rng.choice((b"bad", b"late", b"abc", b"\xff\xd8\xff", b"[" * 5000))


def _request(rng: random.Random) -> bytes:
    """Returns the bytes of a request, which now and then are not HTTP at all."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(1, 3000))
    body, method = _body(rng), rng.choice(("POST",) * 6 + ("GET", "HEAD", "PUT", "OPTIONS", "BREW"))
    head = [f"{method} {rng.choice(_PATHS[:2] * 4 + _PATHS)}{rng.choice(_QUERIES)} HTTP/1.1", "Connection: close"]
    head.append(
        rng.choice(("Host: 127.0.0.1",) * 8 + ("Host: evil.example", "X: y", "Host: a\r\nHost: b", "Host: \xff"))
    )
    head.append(f"Content-Type: {rng.choice(_TYPES)}")
    length = rng.choice((len(body),) * 8 + (len(body) + 5, 0, "x", -3, 10**30))
    head.append(rng.choice((f"Content-Length: {length}",) * 9 + ("Transfer-Encoding: chunked",)))
    head += rng.choice(([], [], [], ["Origin: null"], ["Sec-Fetch-Site: cross-site"], ["X: " + "y" * 70_000]))
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def _answer(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        found = b""
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                found += part
        except OSError as error:
            assert not isinstance(error, TimeoutError), "neither answered nor closed"
        return found


def _huge() -> list[bytes]:
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [head, *[b"%x\r\n%s\r\n" % (1 << 20, b"a" * (1 << 20))] * 1024]


def _fuzz(count: int) -> None:
    rng = random.Random(int(os.environ.get("FUZZ_SEED", "0")))
    with serving.fake(body_secs=1.0, header_secs=1.0, body_bytes=8 << 20) as service:
        process = psutil.Process(service.process.pid)
        for number in range(count):
            if number % _HUGE_EVERY == _HUGE_EVERY - 1:
                found = _answer(service.port, *_huge())
                assert not found or b" 413 " in found.split(b"\r\n")[0]
            else:
                request = _request(rng)
                slow = number % _SLOW_EVERY == _SLOW_EVERY - 1
                parts = [request[:50], request[50:150], request[150:]] if slow else [request]
                found = _answer(service.port, *parts, pause=0.7 if slow else 0.0)
            status, _, rest = found.partition(b"\r\n")
            assert not found or (status.startswith(b"HTTP/1.1 ") and b" 5" not in status[8:10]), (number, found)
            if b"content-type: application/json" in rest and b" 200 " not in status and rest.partition(b"\r\n\r\n")[2]:
                assert set(json.loads(rest.partition(b"\r\n\r\n")[2])) == {"error"}, (number, found)
            if number == count // 5:
                before = process.memory_info().rss
        assert process.memory_info().rss - before < 48 << 20
        good = httpx2.post(f"{service.url}/predict", content=b"abc", headers={"content-type": "image/jpeg"})
        assert good.json()["predictions"][0]["classes"][0] == "a-mam"
        code, _, err = service.stop()
        # Libraries say of some bytes that they are no HTTP or no form.
        assert code == 0 and "Traceback" not in err, err


def test_a_few_requests_of_random_bytes():
    _fuzz(300)


@pytest.mark.slow
def test_ten_thousand_requests_of_random_bytes():
    _fuzz(10_000)
