"""The files of an ONNX model on this machine: the file itself, those of its weights beside it, and its tokenizer."""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines import storage
from pipelines.encoders.onnx import form
from pipelines.errors import UserError

SUFFIX = ".onnx"


def is_onnx(model: str) -> bool:
    """Tells whether a model is an ONNX file, by its name."""
    return model.endswith(SUFFIX)


def local(model: str, description: Mapping[str, Any]) -> pathlib.Path:
    """Returns an ONNX file on this machine, beside which its other files are; those of a store are copied once.

    Raises:
        UserError: if a file is missing, or one is named outside the folder of the model.
    """
    if model.startswith(("http://", "https://")):
        raise UserError(f"encoder {model}: an ONNX file is not read from a URL; download it with its encoder.json")
    if not storage.is_url(model):
        path = pathlib.Path(model)
        _check(path, paths(path, description) if path.is_file() else [path])
        return path
    folder, _, file = model.rpartition("/")
    tokenizer = description["preprocess"].get("tokenizer")
    needed = [file, *filter(None, [tokenizer])]
    place = _fetch(folder, needed)
    if external := form.read(place / file).external:
        _check_inside(folder, external)
        place = _fetch(folder, [*needed, *external])
    return place / file


def paths(path: pathlib.Path, description: Mapping[str, Any]) -> list[pathlib.Path]:
    """Returns the files that decide the vectors: the model, those of its weights, the tokenizer."""
    external = form.read(path).external
    _check_inside(str(path.parent), external)
    tokenizer = description.get("preprocess", {}).get("tokenizer")
    return [path, *(path.parent / name for name in (*external, *filter(None, [tokenizer])))]


def checksums(path: pathlib.Path, description: Mapping[str, Any]) -> dict[str, str]:
    """Returns the SHA-256 of each file that decides the vectors, by its path in the folder of the model."""
    return {
        file.relative_to(path.parent).as_posix(): storage.sha256(str(file)) for file in sorted(paths(path, description))
    }


def _check_inside(folder: str, names: Sequence[str]) -> None:
    for name in names:
        storage.inside(folder, name)


def _check(path: pathlib.Path, needed: Sequence[pathlib.Path]) -> None:
    for file in needed:
        if not file.is_file():
            raise UserError(f"{path}: no such file" if file == path else f"{path}: needs {file}, which is not there")


def _fetch(folder: str, names: Sequence[str]) -> pathlib.Path:
    """Returns a folder of the cache with copies of these files of a remote one; they are copied if they changed."""
    sources = {name: storage.inside(folder, name) for name in names}
    etags = []
    for name, source in sources.items():
        found = storage.found(source)
        if found is None:
            raise storage.MissingFile(f"{source}: no such file")
        etags.append((name, found.etag))
    digest = hashlib.sha256(repr((folder, sorted(etags))).encode()).hexdigest()
    target = storage.cache_dir() / "encoders" / f"{pathlib.PurePath(names[0]).stem}-{digest[:12]}"
    if not target.exists():
        with storage.atomic_folder(str(target)) as temporary:
            for name, source in sources.items():
                storage.copy(source, storage.inside(temporary, name))
    return target
