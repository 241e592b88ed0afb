"""Handles of checkpoints: `hf:FOLDER#image` and `hf:FOLDER#text`, from the files to a SavedModel in the cache.

A description holds what decides the vectors: the form of the tower, the digests of the weights and of the prepared
tokenizer, and the version of the graphs. `describe` reads configs and hashes files; `ensure` builds.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from pipelines import storage
from pipelines.encoders import cache
from pipelines.encoders.towers import texts
from pipelines.encoders.towers.hugging_face import hub, models, preprocessing
from pipelines.encoders.towers.tower import TextForm
from pipelines.errors import UserError

PREFIX = "hf:"
KINDS = ("image", "text")
# Raised when a change of `graph` changes vectors.
_GRAPH_VERSION = 1
_TOKENIZER = "assets.extra/tokenizer.json"
_SPACE_DIGITS = 16


def is_handle(handle: str) -> bool:
    """Tells whether a handle names a checkpoint that is read here."""
    return handle.startswith(PREFIX)


def pinned(handle: str) -> str:
    """Returns the handle with the revision of a model of the Hugging Face Hub, so that each machine takes the same."""
    place, _, kind = _split(handle)
    return f"{PREFIX}{hub.pinned(place)}#{kind}" if hub.is_name(place) else handle


def _split(handle: str) -> tuple[str, str, str]:
    place, mark, kind = handle.removeprefix(PREFIX).rpartition("#")
    if not mark or kind not in KINDS or not place:
        place = handle.removeprefix(PREFIX) if not mark else place
        raise UserError(f"encoder {handle!r}: say which tower is meant, {PREFIX}{place}#image or {PREFIX}{place}#text")
    return place, mark, kind


def _find(handle: str) -> tuple[pathlib.Path, str]:
    """Returns the folder of a checkpoint on this machine, and the kind of the tower that is meant."""
    place, _, kind = _split(handle)
    if hub.is_name(place):
        return hub.download(place), kind
    folder = cache.fetch_folder(place) if storage.is_url(place) else pathlib.Path(place)
    if not folder.is_dir():
        raise UserError(
            f"encoder {handle!r}: there is no folder {folder}; name one, or ORG/NAME of the Hugging Face Hub"
        )
    return folder, kind


def describe(handle: str) -> dict[str, Any]:
    """Returns the `encoder.json` of a checkpoint's tower, without building it.

    Raises:
        UserError: if a file is missing or damaged, or the model is not one of those that are read here.
    """
    folder, kind = _find(handle)
    images = preprocessing.read(folder) if kind == "image" else None
    form = models.read_form(folder, kind, images)
    files = models.weight_files(folder)
    digests = {file.relative_to(folder).as_posix(): cache.sha256(file) for file in files}
    found: dict[str, Any] = {
        "name": f"{models.model_type(folder)}-{kind}",
        "kind": kind,
        "dim": form.vector_width,
        # What JSON makes of it, so that a stored description is equal to this one.
        "form": json.loads(json.dumps(dataclasses.asdict(form))),
        "weights_sha256": digests,
        "graph_version": _GRAPH_VERSION,
    }
    if models.has_both(folder):
        found["space"] = "towers-" + hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()[:_SPACE_DIGITS]
    if isinstance(form, TextForm):
        prepared = texts.prepare(folder, models.model_type(folder), form)
        found["tokenizer_sha256"] = hashlib.sha256(prepared.tokenizer).hexdigest()
        return {**found, "preprocess": {"tokenizer": _TOKENIZER, "max_tokens": prepared.max_tokens}}
    return {**found, "preprocess": images.preprocess if images else {}}


def ensure(handle: str) -> pathlib.Path:
    """Returns the folder of a tower's SavedModel, which is built the first time.

    Raises:
        UserError: as `describe`, or if the weights do not fit the config.
    """

    def build(_: pathlib.Path, built: pathlib.Path) -> None:
        cache.run_in_new_process(_build, handle, built)

    return cache.ensure(describe(handle), storage.cache_dir() / "encoders", build)


def _build(handle: str, built: pathlib.Path) -> None:
    """Reads the weights and saves the graph; runs in a process of its own."""
    cache.use_no_gpu()
    import tensorflow as tf

    from pipelines.encoders.towers import graph

    folder, kind = _find(handle)
    tower = models.read(folder, kind, preprocessing.read(folder) if kind == "image" else None)
    module = graph.module(tower)
    tf.saved_model.save(module, str(built), signatures={"serving_default": module.features})
    if isinstance(tower.form, TextForm):
        path = built / _TOKENIZER
        path.parent.mkdir()
        path.write_bytes(texts.prepare(folder, models.model_type(folder), tower.form).tokenizer)
