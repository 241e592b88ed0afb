"""Downloads from strangers: which addresses are reached, for how long, and what is done with odd answers.

A server on this machine stands for a public one: it is reached by allowing private addresses, and what is refused is
refused before anything is sent.
"""

import contextlib
import dataclasses
import gzip
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import zlib

import pyarrow.parquet as pq
import pytest

from configs.base import Source
from pipelines.sources import Sample, web
from pipelines.sources.connection import is_public
from pipelines.sources.sample import InputShard, to_sample
from pipelines.sources.web import Unreadable
from tests.pipelines.sources.listed import EMBED, read

_PRIVATE = [
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1"),
    *("192.168.1.1", "198.18.0.1", "192.0.2.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1", "::127.0.0.1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::1", "64:ff9b::7f00:1", "64:ff9b::10.0.0.1"),
    *("64:ff9b:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "3fff::1", "100::1", "5f00::1"),
]
_PUBLIC = ["8.8.8.8", "1.1.1.1", "193.99.144.80", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]


def test_which_addresses_are_public():
    assert [address for address in _PRIVATE if is_public(address)] == []
    assert [address for address in _PUBLIC if not is_public(address)] == []


class _Server:
    """Answers every connection by a function of the request's text, with the socket to write to."""

    def __init__(self, answer):
        self.requests: list[str] = []
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self._listening.accept()
                threading.Thread(target=self._one, args=(connected,), daemon=True).start()

    def _one(self, connected):
        with contextlib.suppress(OSError), connected:
            request = connected.recv(65536).decode("latin-1")
            self.requests.append(request)
            answer = self._answer(request)
            if isinstance(answer, bytes):
                connected.sendall(answer)
            else:
                answer(connected)

    def close(self):
        self._listening.close()


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(answer):
        servers.append(_Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def _ok(body=b"image", **headers):
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


def _to(place):
    return f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()


def _refusal(url, private=False, max_bytes=100):
    with pytest.raises(Unreadable) as caught:
        web.download(url, max_bytes, private)
    return caught.value.error_type, str(caught.value), caught.value.retryable


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "LOCALHOST", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1"),
        *("0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "①②⑦.0.0.1", "127。0。0。1"),
        *("%31%32%37.0.0.1", "user:secret@127.0.0.1", "127.0.0.1.", "10.0.0.1", "169.254.169.254", "[fe80::1]"),
        *("[2002:7f00:1::]", "[64:ff9b::7f00:1]", "100.64.1.1", "224.0.0.1"),
    ],
)
def test_private_addresses_are_refused_in_every_form(serve, host):
    server = serve(lambda request: _ok())
    error_type, message, retryable = _refusal(f"http://{host}:{server.port}/x.jpg")
    assert (error_type, retryable) == ("PrivateAddress", False) and "secret" not in message
    assert "which is not public; --config.embed.private_addresses=true allows that" in message
    assert server.requests == []


def _resolve_as(monkeypatch, *answers):
    """Makes every host name resolve to the answers, one after the other; returns the list of names asked for."""
    asked, rest = [], list(answers)

    def getaddrinfo(host, port, *args, **kwargs):
        asked.append(host)
        found = rest.pop(0) if len(rest) > 1 else rest[0]
        if isinstance(found, Exception):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


class _Recorded(socket.socket):
    """A socket that connects nowhere."""

    connected: list[object] = []

    def connect(self, address):
        self.connected.append(address)
        raise ConnectionRefusedError("no network here")


def test_a_name_is_resolved_once_and_the_checked_address_is_what_is_connected_to(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "socket", _Recorded)
    # A name that has a public address when it is checked, and a private one a moment later.
    asked = _resolve_as(monkeypatch, ["193.99.144.80"], ["127.0.0.1"])
    _Recorded.connected.clear()
    assert _refusal("http://rebinds.example/x")[0] == "DownloadFailed"
    assert (asked, _Recorded.connected) == (["rebinds.example"], [("193.99.144.80", 80)])
    # Of several addresses only the public ones are tried.
    _resolve_as(monkeypatch, ["10.0.0.1", "193.99.144.80", "127.0.0.1", "8.8.8.8"])
    _Recorded.connected.clear()
    _refusal("https://mixed.example/x")
    assert _Recorded.connected == [("193.99.144.80", 443), ("8.8.8.8", 443)]
    _resolve_as(monkeypatch, ["10.0.0.1", "127.0.0.1"])
    _Recorded.connected.clear()
    kind, message, _ = _refusal("http://inside.example/x")
    assert kind == "PrivateAddress" and "the host 'inside.example' has the address 10.0.0.1" in message
    assert _Recorded.connected == []


def test_a_redirect_is_checked_like_the_first_url(serve, monkeypatch):
    inside = serve(lambda request: _ok())
    outside = serve(lambda request: _to(f"http://[::ffff:127.0.0.1]:{inside.port}/secret"))
    asked = []
    monkeypatch.setattr(
        "pipelines.sources.connection.is_public", lambda address: asked.append(address) or len(asked) == 1
    )
    kind, message, _ = _refusal(f"{outside.url}/x")
    assert kind == "PrivateAddress" and "127.0.0.1" in message
    assert len(outside.requests) == 1 and inside.requests == []


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("file:///etc/passwd", "is redirected to 'file:///etc/passwd'"),
        ("gs://bucket/x", "is redirected to 'gs://bucket/x'"),
        ("FTP://user:secret@h/x", "is redirected to 'FTP://h/x'"),
        ("data:image/png;base64,AAAA", "is redirected to 'data:image/png;base64,AAAA'"),
        ("//[::1", "Invalid IPv6 URL"),
    ],
)
def test_redirects_stay_on_http(serve, place, sentence):
    server = serve(lambda request: _to(place))
    assert _refusal(f"{server.url}/x", private=True) == ("BadUrl", sentence, False)


def test_loops_and_long_ways_are_said(serve):
    server = serve(lambda request: _to("/b" if "/a " in request else "/a"))
    assert _refusal(f"{server.url}/a", True) == ("BadUrl", f"is redirected in a loop, to '{server.url}/a' again", False)
    longer = serve(lambda request: _to(request.split()[1] + "x"))
    assert _refusal(f"{longer.url}/a", True) == ("BadUrl", "is redirected more than 5 times", False)
    assert len(longer.requests) == 6


def _drip(connected):
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Slow: yes\r\n" * 1000:
        connected.sendall(bytes([byte]))
        time.sleep(0.05)


def _wait_then_redirect(connected):
    time.sleep(0.3)
    connected.sendall(_to(f"/{time.monotonic()}"))


@pytest.mark.parametrize("answer", [_drip, _wait_then_redirect, lambda connected: time.sleep(5)])
def test_one_deadline_for_headers_and_redirects(serve, monkeypatch, answer):
    monkeypatch.setattr(web, "DOWNLOAD_SECS", 0.7)
    server = serve(lambda request: answer)
    begin = time.monotonic()
    assert _refusal(f"{server.url}/x", True) == ("DownloadFailed", "takes more than 0.7 seconds", True)
    assert time.monotonic() - begin < 1.5


def test_the_deadline_holds_for_name_resolution(monkeypatch):
    monkeypatch.setattr(web, "DOWNLOAD_SECS", 0.3)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(3))
    begin = time.monotonic()
    assert _refusal("http://slow.example/x") == ("DownloadFailed", "takes more than 0.3 seconds", True)
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("identity", b"image"),
        ("gzip", gzip.compress(b"image", mtime=0)),
        ("X-GZIP", gzip.compress(b"image", mtime=0)),
        ("deflate", zlib.compress(b"image")),
        ("deflate", zlib.compress(b"image")[2:-4]),
    ],
)
def test_compressed_answers_are_decompressed(serve, encoding, body):
    server = serve(lambda request: _ok(body, Content_Encoding=encoding))
    assert web.download(f"{server.url}/x", 100, True) == b"image"
    assert "\r\nAccept-Encoding: identity\r\n" in server.requests[0]


@pytest.mark.parametrize(
    ("encoding", "body", "refusal"),
    [
        ("br", b"x", ("HttpError", "the server sends Content-Encoding 'br', which was not asked for", False)),
        ("gzip, gzip", b"x", ("HttpError", "Content-Encoding 'gzip, gzip'", False)),
        ("gzip", b"no gzip", ("HttpError", "the body is not gzip, as the server says", False)),
        ("gzip", gzip.compress(b"image", mtime=0)[:-9], ("DownloadFailed", "its gzip data breaks off", True)),
        (
            "gzip",
            gzip.compress(b"image", mtime=0) + b"more",
            ("HttpError", "goes on after the end of its gzip data", False),
        ),
        ("gzip", gzip.compress(bytes(50_000_000)), ("TooLarge", "is larger than 100 bytes", False)),
    ],
)
def test_other_encodings_and_bombs_are_refused(serve, encoding, body, refusal):
    server = serve(lambda request: _ok(body, Content_Encoding=encoding))
    kind, message, retryable = _refusal(f"{server.url}/x", True)
    assert (kind, retryable) == (refusal[0], refusal[2]) and refusal[1] in message


def test_host_names_are_sent_as_idna(serve, monkeypatch):
    server = serve(lambda request: _ok())
    asked = _resolve_as(monkeypatch, ["127.0.0.1"])
    sent = {
        "bücher.example": "xn--bcher-kva.example",
        "BÜCHER.Example": "xn--bcher-kva.example",
        "bu\u0308cher.example": "xn--bcher-kva.example",
        "straße.example": "xn--strae-oqa.example",
        "例え。テスト": "xn--r8jz45g.xn--zckzah",
        "i❤.example": "xn--i-7iq.example",
        "a_b.example": "a_b.example",
        "b%C3%BCcher.example": "xn--bcher-kva.example",
    }
    for host, right in sent.items():
        assert web.download(f"http://{host}:{server.port}/ä b?q=ü", 100, True) == b"image"
        assert asked[-1] == right
        assert f"GET /%C3%A4%20b?q=%C3%BC HTTP/1.1\r\nHost: {right}:{server.port}\r\n" in server.requests[-1]


@pytest.mark.parametrize(
    "host", ["a b.example", "a..example", f"{'a' * 64}.example", "a\u2100b", "x\\y", "[::1", "a%00b"]
)
def test_what_is_no_host_name_is_refused(host, monkeypatch):
    asked = _resolve_as(monkeypatch, ["127.0.0.1"])
    assert _refusal(f"http://{host}/x", True)[::2] == ("BadUrl", False)
    assert asked == []


def test_names_and_passwords_are_not_sent_or_said(serve):
    server = serve(lambda request: b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    url = server.url.replace("://", "://user:secret@")
    assert _refusal(f"{url}/x", True) == ("HttpError", "the server answers 401 Unauthorized", False)
    assert "secret" not in server.requests[0] and "Authorization" not in server.requests[0]


def test_names_and_passwords_are_not_stored(serve, tmp_path):
    server = serve(lambda request: _ok() if "/x" in request else b"HTTP/1.1 401 Unauthorized\r\n\r\n")
    urls = [
        server.url.replace("://", f"://{login}@") + path for login in ("a:secret", "se@cret") for path in ("/x", "/y")
    ]
    rows = [{"url": url, "caption": "dog", "page": f"see {url} b@c"} for url in urls]
    (tmp_path / "t.csv").write_text("url,caption,page\n" + "".join(f"{','.join(row.values())}\n" for row in rows))
    table = Source(format="table", path="t.csv", image_root="images")
    embed = dataclasses.replace(EMBED, private_addresses=True)
    found = read(tmp_path, table, embed)
    (tmp_path / "t.csv").unlink()
    clean = [f"{server.url}{path}" for path in ("/x", "/y", "/x", "/y")]
    page = {"page": f"see {server.url}/x b@c"}
    assert found[0] == Sample(clean[0], b"image", "dog", url=clean[0], metadata=page)
    assert [item.member for item in found] == clean and "cret" not in repr(found)
    stored = [pq.read_table(path).to_pylist() for path in tmp_path.rglob("*.parquet")]
    assert stored and "cret" not in repr(stored)
    # Formats whose files hold the samples.
    shard = InputShard(table, "s", "s", 1, "e")
    sample = to_sample(shard, "0.jpg", b"image", {"url": urls[0], "page": {"of": [urls[0]]}, "caption": "ask me@home"})
    assert sample == Sample("0.jpg", b"image", "ask me@home", url=clean[0], metadata={"page": {"of": [clean[0]]}})


def test_a_proxy_is_used_only_where_any_address_is_allowed(serve, monkeypatch):
    proxy = serve(lambda request: _ok(b"by proxy"))
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", f"http://me:pass@127.0.0.1:{proxy.port}")
    _resolve_as(monkeypatch, ["8.8.8.8"], ["127.0.0.1"])
    kind, message, retryable = _refusal("http://host.example/x")
    assert (kind, retryable) == ("DownloadFailed", True) and "the proxy that http_proxy names" in message
    assert proxy.requests == [] and "pass" not in message
    assert web.download("http://host.example/x", 100, True) == b"by proxy"
    assert proxy.requests[0].startswith("GET http://host.example/x HTTP/1.1\r\n")
    assert "\r\nHost: host.example\r\n" in proxy.requests[0]
    assert "\r\nProxy-Authorization: Basic bWU6cGFzcw==\r\n" in proxy.requests[0]


_TLS = """
import json, socket, ssl, sys, threading
from configs.base import Source
from pipelines.sources import Sample, web

folder = sys.argv[1]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
names = []
context.sni_callback = lambda connected, name, _: names.append(name)
listening = socket.create_server(("127.0.0.1", 0))

def serve():
    while True:
        try:
            with context.wrap_socket(listening.accept()[0], server_side=True) as connected:
                connected.recv(65536)
                connected.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
        except OSError:
            continue

threading.Thread(target=serve, daemon=True).start()
port = listening.getsockname()[1]
socket.getaddrinfo = lambda *args, **kwargs: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
found = [web.download("https://b\\u00fccher.example/x", 9, True).decode()]
try:
    web.download("https://other.example/x", 9, True)
except web.Unreadable as error:
    found.append([error.error_type, str(error)])
print(json.dumps([found, names]))
"""


def test_tls_is_for_the_name_and_not_for_the_address(tmp_path):
    name = "xn--bcher-kva.example"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-days", "2"]
    argv += ["-addext", f"subjectAltName=DNS:{name}", "-keyout", f"{tmp_path}/key.pem", "-out", f"{tmp_path}/cert.pem"]
    subprocess.run(argv, check=True, capture_output=True)
    env = os.environ | {"SSL_CERT_FILE": f"{tmp_path}/cert.pem", "no_proxy": "*"}
    root = pathlib.Path(__file__).parents[3]
    output = subprocess.run(
        [sys.executable, "-c", _TLS, str(tmp_path)], check=True, capture_output=True, env=env, cwd=root
    )
    found, names = json.loads(output.stdout)
    assert found[0] == "ok" and names == [name, "other.example"]
    assert found[1][0] == "DownloadFailed" and "certificate is not valid for 'other.example'" in found[1][1]
