"""The files of a model on this machine: built, downloaded, copied from a store, or in a folder of the user's."""

import os
import pathlib
import shutil
import threading
from typing import Any

from pipelines import storage
from pipelines.encoders import builtin, cache, saved_model
from pipelines.encoders.towers import checkpoints
from pipelines.errors import UserError

URL = ("http://", "https://")
"""What the URL of a TF Hub or Kaggle model begins with."""

_DOWNLOADING = threading.Lock()


def local_folder(model: str, description: dict[str, Any]) -> pathlib.Path:
    """Returns the folder of a SavedModel on this machine, which is fetched or built the first time.

    Args:
        model: built-in name, checkpoint, folder or URL.
        description: of the encoder; of a checkpoint, the size of its images.

    Raises:
        UserError: if it cannot be fetched or built.
    """
    if model in builtin.NAMES:
        return builtin.ensure(model, storage.cache_dir() / "encoders")
    if checkpoints.is_handle(model):
        return checkpoints.ensure(model, description["preprocess"].get("size"))
    if model.startswith(URL):
        return _from_hub(model)
    if storage.is_url(model):
        return cache.fetch_folder(model)
    return pathlib.Path(model)


def _from_hub(url: str) -> pathlib.Path:
    # The library's own default is in /tmp, which is swept file by file and can leave half a model behind.
    os.environ.setdefault("TFHUB_CACHE_DIR", str(storage.cache_dir() / "tfhub"))
    import tensorflow_hub as hub

    try:
        # Columns are resolved in parallel; one must not remove what another has just fetched.
        with _DOWNLOADING:
            folder = pathlib.Path(hub.resolve(url))
            if not (folder / saved_model.FILE).exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder = pathlib.Path(hub.resolve(url))
    except Exception as error:
        # Networks fail in many ways, and TensorFlow passes on all of them.
        raise UserError(
            f"encoder {url}: cannot be downloaded ({error}); download it elsewhere and name its folder"
        ) from error
    if not (folder / saved_model.FILE).exists():
        raise UserError(f"encoder {url}: has no {saved_model.FILE}; it is not a TensorFlow 2 SavedModel")
    return folder


def checksums(folder: pathlib.Path, description: dict[str, Any], description_file: str) -> dict[str, str]:
    """Returns the SHA-256 of each file of a SavedModel by path, without the file that describes it.

    Raises:
        UserError: if a file that the model needs is missing.
    """
    for file in filter(None, (saved_model.FILE, description["preprocess"].get("tokenizer"))):
        if not (folder / file).is_file():
            raise UserError(f"{folder}: has no {file}")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / description_file)
    return {str(p.relative_to(folder)): storage.sha256(str(p)) for p in files}
