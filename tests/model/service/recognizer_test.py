"""The service over a trained recogniser: whatever requests share a call, answers have its bits."""

import dataclasses
import json
import pathlib
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from starlette.testclient import TestClient

from model import app
from model.recognizer import Recognizer
from model.service import application
from tests.model.recognition.line import HEADS
from tests.model.service import serving

IMAGE = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def recognizer(line):
    with Recognizer.open(str(line.workdir)) as recognizer:
        yield recognizer


@pytest.fixture(scope="module")
def client(recognizer):
    with TestClient(application.build(recognizer), base_url="http://localhost") as client:
        yield client


def _json(found) -> list:
    return json.loads(json.dumps([dataclasses.asdict(each) for each in found]))


def test_answers_have_the_bits_of_the_recognizer(client, recognizer, line):
    images = [pathlib.Path(path).read_bytes() for path in line.photographs()]
    asked = [(image, head) for head in HEADS for image in images]

    def ask(each):
        return client.post(f"/predict?top=3&influence=true&head={each[1]}", content=each[0], headers=IMAGE).json()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, asked))
    for head in HEADS:
        wanted = _json(recognizer.predict(images, head=head, top=3, influence=True))
        found = [answer["predictions"] for answer, (_, of) in zip(answers, asked, strict=True) if of == head]
        assert found == [[each] for each in wanted]
    together = client.post("/predict", files=[("image", image) for image in images]).json()
    assert together == {"head": recognizer.head, "predictions": _json(recognizer.predict(images))}


def test_a_search_has_the_bits_of_the_recognizer(client, recognizer, line):
    image = pathlib.Path(line.photographs()[0]).read_bytes()
    found = client.post("/search?k=4", content=image, headers=IMAGE).json()["neighbors"]
    assert found == _json(recognizer.search(image=image, k=4)) and len(found) == 4
    answer = client.post("/search", json={"text": "a red dog"})
    assert answer.status_code == 422 and "no text encoder shares the space" in answer.json()["error"]


def test_a_photograph_that_is_none(client):
    answer = client.post("/predict", content=b"GIF89a, but no image", headers=IMAGE)
    assert answer.status_code == 422 and answer.json()["error"].startswith("image 1: ")


@pytest.mark.slow
def test_the_command_serves_until_it_is_stopped(line, recognizer):
    argv = ["-m", "model.app", f"--run={line.workdir}", "--head=mam", "--port=0"]
    image = pathlib.Path(line.photographs()[0]).read_bytes()
    with serving.serving(argv) as service:
        assert httpx2.get(f"{service.url}/healthz").json()["head"] == "mam"
        answer = httpx2.post(f"{service.url}/predict", content=image, headers=IMAGE, timeout=60).json()
        code, out, _ = service.stop(signal.SIGTERM)
    assert answer["predictions"] == _json(recognizer.predict([image], head="mam"))
    assert code == 0 and out.strip() == "stopped; every request that was taken is answered"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--run=a", "--model=b"], "give --model=BUNDLE or --run=WORKDIR, not both"),
        (["--run=a", "--port=70000"], "--port=70000: must be 0 to 65535"),
        (["--run=a"], "a: holds no trained head; run web-memory train first, or name a bundle"),
        (["--run=a", "--seeds=x"], "--seeds=x: must be best, all, or the number of a seed"),
    ],
)
def test_a_mistake_is_one_sentence(flags, sentence, capsys):
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert app.main(flags) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == f"error: {sentence}\n"
