"""Handles of checkpoints, `hf:FOLDER#image` or `FILE.npz#text`, from the files to a SavedModel in the cache.

`FILE.npz` alone is its tower of images.

A description holds what decides the vectors: the form of the tower, the digests of the weights and of the prepared
tokenizer, and the version of the graphs. `describe` reads configs and hashes files; `ensure` builds.
"""

import dataclasses
import fnmatch
import hashlib
import json
import pathlib
from typing import Any, Protocol

from pipelines import storage
from pipelines.encoders import cache
from pipelines.encoders.towers import texts
from pipelines.encoders.towers.hugging_face import hub, models, preprocessing
from pipelines.encoders.towers.npz_files import big_vision, tips
from pipelines.encoders.towers.texts import Texts
from pipelines.encoders.towers.tower import ImageForm, TextForm, Tower
from pipelines.errors import UserError

PREFIX = "hf:"
KINDS = ("image", "text")
_NPZ = (".npz", *(f".npz#{kind}" for kind in KINDS))
# Raised when a change of `graph` changes vectors.
_GRAPH_VERSION = 1
_TOKENIZER = "assets.extra/tokenizer.json"
# What stands beside weights of big_vision and of TIPSv2, in the order in which it is looked for.
_TOKENIZERS = ("tokenizer.json", "*.spm", "*.model")
_TIPS_TOKENIZERS = ("tokenizer.model", "*.model", "*.spm")
_SPACE_DIGITS = 16


class _Checkpoint(Protocol):
    """A checkpoint on this machine, and one of its towers."""

    @property
    def kind(self) -> str:
        """Of the tower: `image` or `text`."""

    @property
    def name(self) -> str:
        """What the model is called, whatever its place."""

    def files(self) -> dict[str, pathlib.Path]:
        """Returns the files of the weights by their names in the checkpoint."""

    def shared(self) -> dict[str, pathlib.Path]:
        """Returns the files of both towers whose vectors share a space; none if there is no other tower."""

    def form(self) -> ImageForm | TextForm:
        """Returns the form of the tower; reads no weights."""

    def tower(self) -> Tower:
        """Returns the tower."""

    def images(self) -> dict[str, Any]:
        """Returns the preprocessing of images, fields of `ImagePreprocess`."""

    def texts(self, form: TextForm) -> Texts:
        """Returns the tokenizer."""


@dataclasses.dataclass(frozen=True)
class _Folder:
    """A folder as the Hugging Face Hub has it."""

    place: pathlib.Path
    kind: str

    @property
    def name(self) -> str:
        return models.model_type(self.place)

    def files(self) -> dict[str, pathlib.Path]:
        return {path.relative_to(self.place).as_posix(): path for path in models.weight_files(self.place)}

    def shared(self) -> dict[str, pathlib.Path]:
        return self.files() if models.has_both(self.place) else {}

    def form(self) -> ImageForm | TextForm:
        return models.read_form(self.place, self.kind, self._preprocessing())

    def tower(self) -> Tower:
        return models.read(self.place, self.kind, self._preprocessing())

    def _preprocessing(self) -> preprocessing.Preprocessing | None:
        return preprocessing.read(self.place) if self.kind == "image" else None

    def images(self) -> dict[str, Any]:
        return preprocessing.read(self.place).preprocess

    def texts(self, form: TextForm) -> Texts:
        return texts.prepare(self.place, models.model_type(self.place), form)


@dataclasses.dataclass(frozen=True)
class _File:
    """A `.npz` of augreg, big_vision or TIPSv2; `size` of images is the tower's own if None."""

    place: pathlib.Path
    kind: str
    size: int | None

    @property
    def name(self) -> str:
        return self.place.name.removesuffix(".npz")

    @property
    def _is_tips(self) -> bool:
        return tips.is_tips(str(self.place))

    def files(self) -> dict[str, pathlib.Path]:
        return {self.place.name: self.place}

    def shared(self) -> dict[str, pathlib.Path]:
        if not self._is_tips:
            return self.files() if big_vision.has_both(str(self.place)) else {}
        other = tips.other(self.place, self.kind)
        return {**self.files(), other.name: other} if other else {}

    def form(self) -> ImageForm | TextForm:
        if not self._is_tips:
            return big_vision.read_form(str(self.place), self.kind, self.size)
        form = tips.read_form(str(self.place), self.kind)
        if isinstance(form, ImageForm) and self.size not in (None, form.size):
            raise UserError(f"{self.place}: an input of {self.size} pixels does not fit this tower; take {form.size}")
        return form

    def tower(self) -> Tower:
        if self._is_tips:
            return tips.read(str(self.place), self.kind)
        return big_vision.read(str(self.place), self.kind, self.size)

    def images(self) -> dict[str, Any]:
        """Returns the published evaluations': the centre 7/8 of ViTs, the whole image of SigLIP and TIPS."""
        form = self.form()
        size = form.size if isinstance(form, ImageForm) else 0
        if self._is_tips or (isinstance(form, ImageForm) and not form.has_class and not form.is_mean):
            return {"size": size, "crop": "squash", "resize": "bilinear"}
        return {"size": size, "crop": "center", "resize": "area", "crop_fraction": 0.875}

    def texts(self, form: TextForm) -> Texts:
        patterns = _TIPS_TOKENIZERS if self._is_tips else _TOKENIZERS
        found = [path for pattern in patterns for path in sorted(self.place.parent.glob(pattern))]
        if not found:
            files = f"{'' if self._is_tips else 'tokenizer.json and no '}.spm or .model of sentencepiece"
            raise UserError(
                f"{self.place.parent}: has no {files}, which says how texts become tokens; put the one that the model "
                "was trained with beside its weights"
            )
        return (texts.beside_tips if self._is_tips else texts.beside_weights)(found[0], form)


def is_handle(handle: str) -> bool:
    """Tells whether a handle names a checkpoint that is read here."""
    return handle.startswith(PREFIX) or handle.endswith(_NPZ)


def pinned(handle: str) -> str:
    """Returns the handle with the revision of a model of the Hugging Face Hub, so that each machine takes the same."""
    place, kind = _split(handle)
    is_of_hub = handle.startswith(PREFIX) and hub.is_name(place)
    return f"{PREFIX}{hub.pinned(place)}#{kind}" if is_of_hub else handle


def _split(handle: str) -> tuple[str, str]:
    if handle.endswith(_NPZ[0]) and not handle.startswith(PREFIX):
        return handle, KINDS[0]
    place, mark, kind = handle.removeprefix(PREFIX).rpartition("#")
    if not mark or kind not in KINDS or not place:
        place = handle.removeprefix(PREFIX) if not mark else place
        raise UserError(f"encoder {handle!r}: say which tower is meant, {PREFIX}{place}#image or {PREFIX}{place}#text")
    return place, kind


def _local_file(place: str) -> pathlib.Path:
    """Returns a `.npz` with what belongs beside it, on this machine."""
    if not storage.is_url(place):
        return pathlib.Path(place)
    name = storage.name(place)
    wanted = (name, *tips.pair(name).values(), *_TOKENIZERS)
    folder = place.rpartition("/")[0]
    return cache.fetch_folder(folder, lambda file: any(fnmatch.fnmatchcase(file, one) for one in wanted)) / name


def _find(handle: str, size: int | None) -> _Checkpoint:
    """Returns a checkpoint, which is on this machine afterwards."""
    place, kind = _split(handle)
    if not handle.startswith(PREFIX):
        if not storage.exists(place):
            raise UserError(f"encoder {handle!r}: there is no file {place}")
        return _File(_local_file(place), kind, size)
    if hub.is_name(place):
        return _Folder(hub.download(place), kind)
    folder = cache.fetch_folder(place) if storage.is_url(place) else pathlib.Path(place)
    if not folder.is_dir():
        raise UserError(
            f"encoder {handle!r}: there is no folder {folder}; name one, or ORG/NAME of the Hugging Face Hub"
        )
    return _Folder(folder, kind)


def describe(handle: str, size: int | None = None) -> dict[str, Any]:
    """Returns the `encoder.json` of a checkpoint's tower, without building it.

    Args:
        handle: of the tower.
        size: side of the images that a `.npz` is to take, in pixels, which must give its grid of patches; by default
            its own. Folders state theirs.

    Raises:
        UserError: if a file is missing or damaged, or the model is not one of those that are read here.
    """
    checkpoint = _find(handle, size)
    form = checkpoint.form()
    digests = {name: cache.sha256(path) for name, path in checkpoint.files().items()}
    found: dict[str, Any] = {
        "name": f"{checkpoint.name}-{checkpoint.kind}",
        "kind": checkpoint.kind,
        "dim": form.vector_width,
        # What JSON makes of it, so that a stored description is equal to this one.
        "form": json.loads(json.dumps(dataclasses.asdict(form))),
        "weights_sha256": digests,
        "graph_version": _GRAPH_VERSION,
    }
    if shared := checkpoint.shared():
        both = sorted((name, cache.sha256(path)) for name, path in shared.items())
        found["space"] = "towers-" + hashlib.sha256(repr(both).encode()).hexdigest()[:_SPACE_DIGITS]
    if isinstance(form, TextForm):
        prepared = checkpoint.texts(form)
        found["tokenizer_sha256"] = hashlib.sha256(prepared.tokenizer).hexdigest()
        return {**found, "preprocess": {"tokenizer": _TOKENIZER, "max_tokens": prepared.max_tokens}}
    return {**found, "preprocess": checkpoint.images()}


def ensure(handle: str, size: int | None = None) -> pathlib.Path:
    """Returns the folder of a tower's SavedModel, which is built the first time; arguments as those of `describe`.

    Raises:
        UserError: as `describe`, or if the weights do not fit the config.
    """

    def build(_: pathlib.Path, built: pathlib.Path) -> None:
        cache.run_in_new_process(_build, handle, size, built)

    return cache.ensure(describe(handle, size), storage.cache_dir() / "encoders", build)


def _build(handle: str, size: int | None, built: pathlib.Path) -> None:
    """Reads the weights and saves the graph; runs in a process of its own."""
    cache.use_no_gpu()
    import tensorflow as tf

    from pipelines.encoders.towers import graph

    checkpoint = _find(handle, size)
    tower = checkpoint.tower()
    module = graph.module(tower)
    tf.saved_model.save(module, str(built), signatures={"serving_default": module.features})
    if isinstance(tower.form, TextForm):
        path = built / _TOKENIZER
        path.parent.mkdir()
        path.write_bytes(checkpoint.texts(tower.form).tokenizer)
