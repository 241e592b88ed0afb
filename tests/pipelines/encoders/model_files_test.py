"""Models that are fetched: from a store, over HTTP, and what is said when they cannot be."""

import http.server
import json
import sys
import tarfile
import threading

import fsspec
import numpy as np
import pytest

from pipelines.encoders import model_files
from pipelines.encoders.handles import resolve
from pipelines.encoders.loaded import ImageEncoder
from pipelines.errors import UserError
from tests.pipelines.encoders import made

pytestmark = pytest.mark.usefixtures("cache")


def test_a_missing_tensorflow_text_is_said_before_the_download(describe, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_text", None)
    monkeypatch.setattr(model_files, "local_folder", lambda *_: pytest.fail("downloads"))
    for handle in (
        describe(made.Strings, made.TEXT, requires="tensorflow_text"),
        "https://tfhub.dev/google/sentence-t5/st5-base/1",
    ):
        with pytest.raises(UserError, match=r"TensorFlow Text .*pip install 'tensorflow-text==2\.\d+\.\*'"):
            resolve(handle, "float32")


def test_a_remote_folder_is_fetched(describe):
    folder = describe(made.Plain, made.IMAGE)
    remote = fsspec.filesystem("memory")
    remote.put(folder + "/", "/encoders_test/model/", recursive=True)
    spec = resolve("memory://encoders_test/model", "float32")
    assert spec.info == resolve(folder, "float32").info
    np.testing.assert_allclose(
        ImageEncoder(spec).encode(made.images(), made.BATCH), made.unit(made.mean(made.images())), rtol=1e-5
    )


@pytest.fixture
def server(tmp_path):
    """Serves a folder and counts what was asked for."""
    asked = []
    root = tmp_path / "served"
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(root))

        def log_message(self, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", root, asked
        listening.shutdown()
        thread.join()


def _serve(root, folder, name="model.tar.gz"):
    with tarfile.open(root / name, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            if path.name != "encoder.json":
                tar.add(path, path.relative_to(folder), recursive=False)


def test_a_url_is_downloaded_once_and_again_if_swept(describe, server, tmp_path, cache):
    url, root, asked = server
    folder = describe(made.Plain, made.IMAGE)
    _serve(root, tmp_path / "encoder")
    handle = tmp_path / "url.json"
    handle.write_text(json.dumps({**made.IMAGE, "model": f"{url}/model.tar.gz"}))
    spec = resolve(str(handle), "float32")
    assert spec.info == resolve(folder, "float32").info
    np.testing.assert_allclose(
        ImageEncoder(spec).encode(made.images(), made.BATCH), made.unit(made.mean(made.images())), rtol=1e-5
    )
    assert len(asked) == 1
    (swept,) = cache.glob("*/saved_model.pb")
    swept.unlink()
    assert resolve(str(handle), "float32").info == spec.info
    assert len(asked) == 2 and swept.exists()


def test_downloads_are_in_our_cache_unless_told_otherwise(describe, server, tmp_path, monkeypatch):
    url, root, _ = server
    describe(made.Plain, made.IMAGE)
    _serve(root, tmp_path / "encoder")
    monkeypatch.delenv("TFHUB_CACHE_DIR")
    (tmp_path / "url.json").write_text(json.dumps({**made.IMAGE, "model": f"{url}/model.tar.gz"}))
    resolve(str(tmp_path / "url.json"), "float32")
    assert len([*(tmp_path / "cache/tfhub").glob("*/saved_model.pb")]) == 1


def test_downloads_that_fail_are_worded(server, tmp_path):
    url, root, _ = server
    (root / "text.tar.gz").write_text("no archive")
    (tmp_path / "note").mkdir()
    (tmp_path / "note/README").write_text("no model")
    _serve(root, tmp_path / "note", "empty.tar.gz")
    for name, words in (
        ("gone", "cannot be downloaded .*404.*download it elsewhere"),
        ("text.tar.gz", "cannot be downloaded"),
        ("empty.tar.gz", "has no saved_model.pb"),
    ):
        (tmp_path / "url.json").write_text(json.dumps({**made.IMAGE, "model": f"{url}/{name}"}))
        with pytest.raises(UserError, match=words):
            resolve(str(tmp_path / "url.json"), "float32")
