"""Models of the Hugging Face Hub: downloaded where the network allows, at a revision that is recorded."""

import os
import pathlib
import re

from pipelines import storage
from pipelines.errors import UserError

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?")
# Of a repository with weights in several forms, only those that are read here.
_WANTED = ("*.json", "*.safetensors", "*/*.json", "*/*.safetensors", "*.model")
_UNWANTED = ("onnx/*", "openvino/*")


def is_name(place: str) -> bool:
    """Tells whether a place is ORG/NAME or ORG/NAME@REVISION, and no folder on this machine."""
    return _NAME.fullmatch(place) is not None and not pathlib.Path(place).exists()


def _parts(place: str) -> tuple[str, str | None]:
    match = _NAME.fullmatch(place)
    assert match
    return match[1], match[2]


def pinned(place: str) -> str:
    """Returns ORG/NAME@REVISION with the commit that a name or a branch stands for; a `UserError` as of `download`."""
    return f"{_parts(place)[0]}@{download(place).name}"


def download(place: str) -> pathlib.Path:
    """Returns the folder of a model, which is named by its commit and is downloaded if the cache lacks it.

    Raises:
        UserError: if the hub cannot be reached, or has no such model.
    """
    # Beside what else is cached, if the library is not told otherwise.
    os.environ.setdefault("HF_HUB_CACHE", str(storage.cache_dir() / "huggingface"))
    import huggingface_hub

    name, revision = _parts(place)
    try:
        found = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(_WANTED),
            ignore_patterns=list(_UNWANTED),
            cache_dir=os.environ["HF_HUB_CACHE"],
        )
    except Exception as error:
        raise _failed(place, error) from error
    return pathlib.Path(found)


def _failed(place: str, error: Exception) -> UserError:
    # The network fails in many ways, and so does the library.
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    return UserError(
        f"encoder hf:{place}: is no folder here, and cannot be had from the Hugging Face Hub ({said}); download it "
        "elsewhere and name its folder"
    )
