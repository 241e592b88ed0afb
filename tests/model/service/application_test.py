"""The endpoints, over a recogniser with known answers: what they say, refuse and carry."""

import contextlib
import dataclasses
import json
import threading
import time

import pytest
from starlette.testclient import TestClient

from model.service import application
from model.service.limits import Limits
from tests.model.service.fake import HOSTILE, Fake, prediction

IMAGE = {"content-type": "image/jpeg"}


@contextlib.contextmanager
def serve(fake=None, names=(), **limits):
    """Yields a client of a service on 127.0.0.1."""
    app = application.build(fake or Fake(), Limits(**limits), names)
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def client():
    with serve() as client:
        yield client


def as_json(*predictions):
    return json.loads(json.dumps([dataclasses.asdict(each) for each in predictions]))


def refused(response, status):
    """Returns the sentence of a refusal."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"} and "\n" not in response.json()["error"]
    return response.json()["error"]


def test_a_photograph_as_the_body(client):
    answer = client.post("/predict?top=2&influence=true", content=b"abc", headers=IMAGE)
    assert answer.status_code == 200
    assert answer.json() == {"head": "mam", "predictions": as_json(prediction(b"abc", "mam", 2, True))}
    # Not rounded on the way.
    assert answer.json()["predictions"][0]["probabilities"] == [1 / 3, 0.1 + 0.2]


def test_photographs_of_a_form(client):
    files = [("image", ("a.jpg", b"abc", "image/jpeg")), ("other", ("b.jpg", b"xyz"))]
    answer = client.post("/predict", files=files, data={"head": "linear"})
    assert answer.json() == {
        "head": "linear",
        "predictions": as_json(prediction(b"abc", "linear"), prediction(b"xyz", "linear")),
    }


def test_a_photograph_that_cannot_be_read_fails_alone(client):
    files = [("image", ("a", b"abc")), ("image", ("b", b"bad")), ("image", ("c", b"xyz"))]
    answer = client.post("/predict", files=files).json()["predictions"]
    assert answer == [
        *as_json(prediction(b"abc", "mam")),
        {"error": "is no image"},
        *as_json(prediction(b"xyz", "mam")),
    ]
    assert refused(client.post("/predict", content=b"bad", headers=IMAGE), 422) == "image 1: is no image"


def test_a_search(client):
    found = client.post("/search", json={"text": "red", "k": 2}).json()["neighbors"]
    assert found == [
        {"id": n, "caption": f"red {HOSTILE}", "url": "", "score": 1 / (n + 3), "weight": 0.0, "influence": None}
        for n in range(2)
    ]
    assert len(client.post("/search", json={"text": "red"}).json()["neighbors"]) == 12
    only = {"text": "red", "where": " NSFW=UNLIKELY ", "k": 1}
    assert client.post("/search", json=only).json()["neighbors"][0]["caption"] == f"red where NSFW=UNLIKELY {HOSTILE}"
    found = client.post("/search?where=a%3Db", content=b"abc", headers=IMAGE).json()["neighbors"]
    assert found[0]["caption"] == f"abc where a=b {HOSTILE}"
    by_image = client.post("/search?k=1", content=b"abc", headers=IMAGE).json()["neighbors"]
    assert [n["caption"] for n in by_image] == [f"abc {HOSTILE}"]
    assert client.post("/search", files={"image": b"xyz"}, data={"k": "1"}).json()["neighbors"][0]["score"] == 1 / 3


def test_half_of_a_surrogate_pair_is_a_text(client):
    body = b'{"text": "red \\ud800", "k": 1}'
    found = client.post("/search", content=body, headers={"content-type": "application/json"})
    assert found.json()["neighbors"][0]["caption"] == f"red ? {HOSTILE}"


def test_what_is_served(client):
    assert client.get("/healthz").json() == {"status": "ok", "head": "mam", "heads": ["mam", "linear"], "classes": 3}


def test_metrics():
    with serve() as client:
        client.post("/predict", content=b"abc", headers=IMAGE)
        client.post("/predict", files=[("i", ("a", b"abc")), ("i", ("b", b"abc")), ("i", ("c", b"bad"))])
        client.post("/predict", content=b"bad", headers=IMAGE)
        client.get("/a/b/c")
        client.get("/x?y")
        text = client.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = text.text.splitlines()
    assert 'webmemory_requests_total{code="200",path="/predict"} 2.0' in lines
    assert 'webmemory_requests_total{code="422",path="/predict"} 1.0' in lines
    assert 'webmemory_requests_total{code="404",path="other"} 2.0' in lines
    assert 'webmemory_request_seconds_count{path="/predict"} 3.0' in lines
    assert "webmemory_batch_images_count 2.0" in lines and "webmemory_batch_images_sum 3.0" in lines
    assert "webmemory_queued_images 0.0" in lines and "webmemory_active_requests 1.0" in lines


@pytest.mark.parametrize(
    "query, sentence",
    [
        ("head=nam", "head: there is no such head; did you mean 'mam'?"),
        ("top=0", "top: must be a whole number from 1 to 100"),
        ("top=101", "top: must be a whole number from 1 to 100"),
        ("top=1e3", "top: must be a whole number from 1 to 100"),
        ("top=٣", "top: must be a whole number from 1 to 100"),
        ("top=" + "9" * 5000, "top: must be a whole number from 1 to 100"),
        ("influence=perhaps", "influence: must be true or false"),
        ("hed=mam", "'hed': unknown parameter; did you mean 'head'?"),
        ("top=1&top=2", "a parameter is given twice"),
    ],
)
def test_a_wrong_parameter(client, query, sentence):
    assert refused(client.post(f"/predict?{query}", content=b"abc", headers=IMAGE), 422) == sentence


@pytest.mark.parametrize(
    "body, status, sentence",
    [
        (b"{", 400, "the body is not JSON"),
        (b"[" * 100_000, 400, "the body is not JSON"),
        (b"\xff", 400, "the body is not JSON"),
        (b"[]", 422, 'send an object such as {"text": "a red bird", "k": 12}'),
        (b'{"text": " "}', 422, 'send an object such as {"text": "a red bird", "k": 12}'),
        (b'{"text": 3}', 422, 'send an object such as {"text": "a red bird", "k": 12}'),
        (b'{"text": "x", "k": true}', 422, "k: must be a whole number from 1 to 100"),
        (b'{"text": "x", "k": 1.0}', 422, "k: must be a whole number from 1 to 100"),
        (b'{"text": "x", "n": 1}', 422, "'n': unknown parameter; known are k, text, where"),
        (b'{"text": "x", "where": 1}', 422, "where: must be a filter of at most 1,000 characters"),
        (
            json.dumps({"text": "x", "where": "x" * 1001}).encode(),
            422,
            "where: must be a filter of at most 1,000 characters",
        ),
        (b'{"text": "x", "where": "wrong"}', 422, "where: 'wrong': is no filter"),
        (json.dumps({"text": "x" * 1001}).encode(), 422, "text: has more than 1,000 characters"),
        (b'{"text": "space"}', 422, "no text encoder shares the space"),
    ],
)
def test_a_wrong_search(client, body, status, sentence):
    answer = client.post("/search", content=body, headers={"content-type": "application/json; charset=utf-8"})
    assert refused(answer, status) == sentence


def test_a_search_by_text_has_its_parameters_in_one_place(client):
    sentence = "a search by text takes its parameters from the JSON, none from the address"
    assert refused(client.post("/search?k=3", json={"text": "red"}), 422) == sentence


def test_a_wrong_address_method_or_kind_of_body(client):
    assert refused(client.get("/predictions"), 404) == "there is nothing here; see docs/service.md"
    assert refused(client.get("/predict"), 405) == "this address takes another method"
    assert refused(client.delete("/"), 405) and refused(client.post("/healthz"), 405)
    sentence = "send photographs as multipart/form-data, image/* or application/octet-stream"
    assert refused(client.post("/predict", json={"image": "abc"}), 415) == sentence
    assert refused(client.post("/predict", content=b"abc"), 415) == sentence
    nothing = "has 0 bytes; send photographs, or leave it out"
    assert refused(client.post("/predict", content=b"", headers=IMAGE), 422) == f"the body: {nothing}"
    two = [("image", ("a.jpg", b"abc")), ("image", ("b.jpg", b""))]
    assert refused(client.post("/predict", files=two), 422) == f"b.jpg: {nothing}"
    without = b'--x\r\ncontent-disposition: form-data; name="top"\r\n\r\n3\r\n--x--'
    sent = client.post("/predict", content=without, headers={"content-type": "multipart/form-data; boundary=x"})
    assert refused(sent, 422) == "the form has no file; give at least one photograph"
    assert (
        refused(client.post("/search", files=[("i", b"a"), ("i", b"b")]), 422) == "search for one photograph at a time"
    )
    form = {"content-type": "multipart/form-data"}
    assert refused(client.post("/predict", content=b"abc", headers=form), 400)
    form = {"content-type": "multipart/form-data; boundary=x"}
    assert refused(client.post("/predict", content=b"abc", headers=form), 400)
    unnamed = b"--x\r\ncontent-disposition: form-data\r\n\r\nabc\r\n--x--"
    assert refused(client.post("/predict", content=unnamed, headers=form), 400)
    one = b'--x\r\ncontent-disposition: form-data; name="i"; filename="a"\r\n\r\nabc\r\n'
    cut = refused(client.post("/predict", content=one + one + b"--", headers=form), 400)
    assert cut == "the form ends before its last boundary; send it again"


def test_a_bug_of_ours_is_one_sentence(client):
    sentence = refused(client.post("/predict", content=b"bug", headers=IMAGE), 500)
    assert sentence == "a mistake of ours; the log of the service has the traceback"


def test_limits_of_a_body():
    with serve(body_bytes=1000, images=2) as client:
        assert client.post("/predict", content=b"a" * 1000, headers=IMAGE).status_code == 200
        sentence = "the body has more than 1,000 bytes"
        assert refused(client.post("/predict", content=b"a" * 1001, headers=IMAGE), 413) == sentence
        # In parts, without a length.
        assert refused(client.post("/predict", content=iter([b"a" * 600] * 2), headers=IMAGE), 413) == sentence
        assert refused(client.post("/search", json={"text": "a" * 1001}), 413) == sentence
        assert refused(client.post("/predict", files={"i": b"a" * 1001}), 413) == sentence
        assert "Too many files" in refused(client.post("/predict", files=[("i", b"a")] * 3), 400)


def _in_threads(count, ask):
    answers = [None] * count

    def one(number):
        answers[number] = ask(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return answers, threads


def _wait(client, metric):
    """Waits until a metric has a value."""
    until = time.monotonic() + 20
    while f"webmemory_{metric}\n" not in client.get("/metrics").text:
        assert time.monotonic() < until, metric
        time.sleep(0.01)


def test_requests_that_arrive_together_share_a_call():
    fake = Fake()
    fake.gate.clear()
    with serve(fake) as client:
        first = threading.Thread(target=lambda: client.post("/predict", content=b"first", headers=IMAGE))
        first.start()
        _wait(client, "batch_images_count 1.0")
        bodies = [f"{'abc'[n % 3]}{n}".encode() for n in range(12)]
        answers, threads = _in_threads(
            12, lambda n: client.post(f"/predict?top={1 + n % 2}", content=bodies[n], headers=IMAGE)
        )
        _wait(client, "queued_images 13.0")
        fake.gate.set()
        for thread in (first, *threads):
            thread.join()
    for number, answer in enumerate(answers):
        assert answer.json()["predictions"] == as_json(prediction(bodies[number], "mam", 1 + number % 2))
    # One for each number of classes, after the call that they waited for.
    assert [len(images) for images, *_ in fake.calls] == [1, 6, 6]


def test_a_photograph_that_the_encoder_refuses_fails_alone():
    fake = Fake()
    fake.gate.clear()
    with serve(fake) as client:
        bodies = [b"a", b"late", b"c"]
        answers, threads = _in_threads(3, lambda n: client.post("/predict", content=bodies[n], headers=IMAGE))
        _wait(client, "queued_images 3.0")
        fake.gate.set()
        for thread in threads:
            thread.join()
    assert refused(answers[1], 422) == "image 1: the encoder gives it no vector"
    for number in (0, 2):
        assert answers[number].json()["predictions"] == as_json(prediction(bodies[number], "mam"))


def test_a_full_queue_and_too_many_requests_are_refused():
    fake = Fake()
    for limits, sentence in (
        ({"queue": 2}, "too many photographs wait for the model; try again in a moment"),
        ({"requests": 2}, "2 requests are being answered; try again in a moment"),
    ):
        fake.gate.clear()
        with serve(fake, **limits) as client:
            answers, threads = _in_threads(2, lambda n, c=client: c.post("/predict", content=b"a", headers=IMAGE))
            _wait(client, "queued_images 2.0")
            full = client.post("/predict", content=b"a", headers=IMAGE)
            assert refused(full, 503) == sentence and full.headers["retry-after"] == "1"
            assert client.get("/healthz").status_code == 200
            fake.gate.set()
            for thread in threads:
                thread.join()
            assert [answer.status_code for answer in answers] == [200, 200]
            assert client.post("/predict", content=b"a", headers=IMAGE).status_code == 200


def test_every_answer_carries_the_headers_of_safety(client):
    for answer in (
        client.get("/"),
        client.get("/healthz"),
        client.get("/nothing"),
        client.get("/", headers={"host": "x"}),
    ):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "host, served",
    [
        ("127.0.0.1:8000", True),
        ("localhost", True),
        ("LOCALHOST:80", True),
        ("[::1]:8000", True),
        ("10.0.0.7", True),
        ("ours.example", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("ours.example.evil.example", False),
        ("", False),
        ("[::1", False),
        ("evil.example@127.0.0.1", False),
    ],
)
def test_names_of_the_service(host, served):
    with serve(names=["Ours.example"]) as client:
        answer = client.get("/healthz", headers={"host": host})
        if served:
            assert answer.status_code == 200
        else:
            assert "another name" in refused(answer, 421)


@pytest.mark.parametrize(
    "headers, served",
    [
        ({"origin": "http://127.0.0.1:8000"}, True),
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://127.0.0.1:9000"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://[::1"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
    ],
)
def test_pages_of_another_origin_are_refused(client, headers, served):
    answer = client.post("/predict", content=b"abc", headers=IMAGE | headers)
    if served:
        assert answer.status_code == 200
    else:
        assert refused(answer, 403) == "a page of another origin may not use this service"


def test_the_page_asks_nobody_else_and_has_no_inline_code(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "://" not in page.text and "style=" not in page.text and "<script>" not in page.text
    assert '<option value="mam" selected>' in page.text and '<option value="linear">' in page.text
    kinds = {"/app.js": "text/javascript", "/app.css": "text/css", "/icon.svg": "image/svg+xml"}
    for path, kind in kinds.items():
        assert path in page.text
        assert client.get(path).headers["content-type"].startswith(kind)
    script = client.get("/app.js").text
    assert not [
        word for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(") if word in script
    ]


def test_names_of_heads_are_escaped():
    fake = Fake()
    fake.heads = ("mam", '"><script>alert(1)</script>')
    with serve(fake) as client:
        assert "<script>alert" not in client.get("/").text
