"""Models of the Hugging Face Hub, from a server on this machine that answers as the Hub does."""

import hashlib
import http.server
import json
import pathlib
import re
import threading

import numpy as np
import pytest

from pipelines.encoders.handles import resolve
from pipelines.encoders.loaded import ImageEncoder
from pipelines.encoders.towers.hugging_face import hub
from pipelines.errors import UserError
from tests.pipelines.encoders.towers import arrays, folders

_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(http.server.BaseHTTPRequestHandler):
    """One model, of the branch `main` and one commit."""

    folder: pathlib.Path

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(with_body=False)

    def do_GET(self) -> None:  # noqa: N802
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        if found := re.fullmatch(r"/org/model/resolve/(\w+)/(.+)", self.path):
            path = self.folder / found[2]
            body = path.read_bytes() if path.is_file() and found[1] == _COMMIT else None
        elif re.fullmatch(rf"/api/models/org/model/revision/(main|{_COMMIT})(\?.*)?", self.path):
            files = [{"rfilename": path.name} for path in sorted(self.folder.iterdir())]
            body = json.dumps({"id": "org/model", "sha": _COMMIT, "siblings": files}).encode()
        elif re.fullmatch(rf"/api/models/org/model/tree/(main|{_COMMIT})(\?.*)?", self.path):
            listed = [(path.name, path.read_bytes()) for path in sorted(self.folder.iterdir())]
            found = [{"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for n, d in listed]
            body = json.dumps(found).encode()
        else:
            body = None
        self.send_response(404 if body is None else 200)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", _COMMIT)
        self.end_headers()
        if with_body and body is not None:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    import huggingface_hub.constants

    folders.write("dinov2", tmp_path / "model")
    (tmp_path / "model/pytorch_model.bin").write_bytes(b"a pickle")
    handler = type("Handler", (_Hub,), {"folder": tmp_path / "model"})
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WEB_MEMORY_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        address = f"http://localhost:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield tmp_path
        server.shutdown()


@pytest.mark.slow
def test_a_model_of_the_hub_is_pinned_to_its_commit_and_taken_without_its_pickles(server):
    spec = resolve("hf:org/model#image", "float32")
    assert spec.model == f"hf:org/model@{_COMMIT}#image"
    names = {path.name for path in hub.download(f"org/model@{_COMMIT}").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert spec.info == resolve(f"hf:{server}/model#image", "float32").info
    found = ImageEncoder(spec).encode(list(arrays.images(3, 24)), 4)
    expected = np.array(folders.oracle("dinov2")["image"])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


def test_what_the_hub_does_not_have_is_said_with_what_to_do(server):
    with pytest.raises(UserError, match="encoder hf:org/other: is no folder here, and cannot be had .*name its"):
        resolve("hf:org/other#image", "float32")
    with pytest.raises(UserError, match="encoder hf:org/model@v2: is no folder here"):
        resolve("hf:org/model@v2#image", "float32")
