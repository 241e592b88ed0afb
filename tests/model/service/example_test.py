"""The example of docs/service.md does what the page says."""

import pathlib

from fastapi.testclient import TestClient

from model.recognizer import Recognizer
from tests.docs_test import example, load


def test_recognises_in_a_server_of_ones_own(line, tmp_path, monkeypatch):
    monkeypatch.setenv("WEB_MEMORY_MODEL", str(line.workdir))
    image = pathlib.Path(line.photographs()[0]).read_bytes()
    with Recognizer.open(str(line.workdir)) as recognizer:
        (wanted,) = recognizer.predict([image])
    with TestClient(load(example("docs/service.md", "fastapi"), tmp_path / "mine.py").app) as client:
        found = client.post("/classify", files={"image": image})
        assert found.json() == dict(zip(wanted.classes, wanted.probabilities, strict=True))
        wrong = client.post("/classify", files={"image": b"no image"})
        assert wrong.status_code == 422 and wrong.json()["detail"].startswith("image 1: ")
