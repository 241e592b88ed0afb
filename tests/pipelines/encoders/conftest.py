import json
import shutil

import pytest

from tests.pipelines.encoders import made


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Saves a model at most once for all tests."""
    root = tmp_path_factory.mktemp("models")
    return lambda kind: made.saved(kind, root)


@pytest.fixture
def describe(models, tmp_path):
    """Writes a copy of a model with a description, and returns its folder as a handle."""

    def write(kind, description, /, **change):
        folder = tmp_path / "encoder"
        shutil.copytree(models(kind), folder)
        made.save_tokenizer(folder)
        (folder / "encoder.json").write_text(json.dumps({**description, **change}))
        return str(folder)

    return write


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WEB_MEMORY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))
    return tmp_path / "hub"
