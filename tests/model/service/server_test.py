"""The service on a socket: bodies that never end, sizes that lie, and how it stops."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx2
import psutil
import pytest

from tests.model.service import serving

IMAGE = {"content-type": "image/jpeg"}


@pytest.fixture(scope="module")
def service():
    with serving.fake(body_secs=0.5, header_secs=0.5, body_bytes=1 << 20) as service:
        yield service


def _say(service, *parts, pause=0.0):
    """Sends parts of a request and returns all that comes back; stops to send where the service has closed."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except OSError:
            pass
        found = b""
        try:
            while part := connection.recv(1 << 16):
                found += part
        except ConnectionResetError:
            pass
        return found


def _head(*headers):
    return "\r\n".join(
        ["POST /predict HTTP/1.1", "host: 127.0.0.1", "content-type: image/png", *headers, "", ""]
    ).encode()


def test_a_slow_body_is_refused_in_time(service):
    begin = time.monotonic()
    found = _say(service, _head("content-length: 1000"), *[b"a"] * 20, pause=0.1)
    assert b" 408 " in found.split(b"\r\n")[0] and b"the body took more than 0.5 seconds" in found
    assert time.monotonic() - begin < 10


def test_a_connection_without_a_request_is_closed(service):
    begin = time.monotonic()
    assert _say(service, b"POST /pre") == b""
    assert time.monotonic() - begin < 5


def test_a_gigabyte_is_refused_and_never_kept(service):
    process = psutil.Process(service.process.pid)
    before = process.memory_info().rss
    assert b" 413 " in _say(service, _head(f"content-length: {1 << 30}"), b"a" * (1 << 20)).split(b"\r\n")[0]
    part = b"%x\r\n%s\r\n" % (1 << 20, b"a" * (1 << 20))
    found = _say(service, _head("transfer-encoding: chunked"), *[part] * 1024)
    # A client that still sends when the answer comes may see a reset instead.
    assert b" 413 " in found.split(b"\r\n")[0] or not found
    assert process.memory_info().rss - before < 32 << 20
    assert httpx2.get(f"{service.url}/healthz").status_code == 200


@pytest.mark.parametrize("length", ["-1", "a", "1e3", "9" * 5000, ""])
def test_a_length_that_is_none_is_refused(service, length):
    assert b" 4" in _say(service, _head(f"content-length: {length}", "connection: close"), b"abc").split(b"\r\n")[0]


def test_no_header_says_what_serves(service):
    assert "server" not in httpx2.get(f"{service.url}/healthz").headers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_taken_is_answered_before_the_end(number):
    with serving.fake(secs=1.0) as service:
        answers = []

        def ask():
            answers.append(httpx2.post(f"{service.url}/predict", content=b"abc", headers=IMAGE, timeout=20))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while "webmemory_queued_images 4.0" not in httpx2.get(f"{service.url}/metrics").text:
            time.sleep(0.01)
        code, out, err = service.stop(number)
        for thread in threads:
            thread.join()
    assert (code, out, err) == (0, "stopped\n", "")
    assert [answer.status_code for answer in answers] == [200] * 4
    assert json.loads(answers[0].text)["predictions"][0]["classes"][0] == "a-mam"


def test_a_port_that_is_taken_is_one_sentence(service):
    code = (
        "from model.service import server\nfrom model.service.limits import Limits\n"
        f"server.run(None, '127.0.0.1', {service.port}, Limits(), print)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"UserError: --host=127.0.0.1 --port={service.port}: cannot listen there; name another port" in done.stderr
