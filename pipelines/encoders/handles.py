"""Handles to encoders, each resolved once at launch to what its model takes and gives.

A handle is a built-in name, a checkpoint (`hf:FOLDER#image`, `FILE.npz`), a SavedModel folder, a TF Hub or Kaggle URL,
an ONNX file, or an `encoder.json` that describes one of these (docs/encoders.md). `loaded` loads the models.
"""

import dataclasses
import pathlib
import re
from typing import Any

from configs.base import Encoders
from pipelines import manifest, schemas, storage
from pipelines.encoders import builtin, model_files, model_operations, process, saved_model
from pipelines.encoders.facts import foreign
from pipelines.encoders.onnx import files as onnx_files
from pipelines.encoders.onnx import fit as onnx_fit
from pipelines.encoders.onnx import session as onnx_session
from pipelines.encoders.towers import checkpoints
from pipelines.errors import UserError, nearest
from pipelines.images.decode import ImagePreprocess
from pipelines.sources.sample import without_login

DESCRIPTION_FILE = "encoder.json"
PRECOMPUTED = "precomputed:"
# What an `encoder.json` cannot say of a checkpoint, whose graph is built here and scales its pixels itself.
_NOT_OF_CHECKPOINTS = ("signature", "inputs", "output", "pool", "requires")
_NOT_OF_PIXELS = ("value_range", "mean", "std", "layout")
_NAMED = re.compile(r"([a-z][a-z0-9_]*)=(.+)")

_SENTENCE_T5 = {"kind": "text", "dim": 768, "output": 0, "requires": "tensorflow_text", "preprocess": {}}
# What published models take and give, for which a URL alone is a handle.
PUBLISHED: dict[str, dict[str, Any]] = {
    "https://tfhub.dev/google/sentence-t5/st5-base/1": {"name": "st5-base", **_SENTENCE_T5},
    "https://tfhub.dev/google/sentence-t5/st5-large/1": {"name": "st5-large", **_SENTENCE_T5},
    "https://tfhub.dev/google/sentence-t5/st5-3b/1": {"name": "st5-3b", **_SENTENCE_T5},
    "https://tfhub.dev/sayakpaul/vit_b16_fe/1": {
        "name": "vit-b16-fe",
        "kind": "image",
        "dim": 768,
        "preprocess": {"size": 224, "resize": "bilinear", "crop": "squash", "value_range": [-1, 1]},
    },
}


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """An encoder that was found and described, but not loaded.

    Attributes:
        handle: what the config gave.
        kind: `image`, `text` or `precomputed`.
        info: its fingerprint, width and form.
        model: built-in name, checkpoint, folder, URL or `.onnx` that holds the weights.
        description: what the model takes and gives, as in `encoder.json`.
        unsafe: whether the operations of its model may reach files, sockets, processes and Python.
        compute: precision of matrix products, `float32` or `bfloat16`.
    """

    handle: str
    kind: str
    info: schemas.EncoderInfo
    model: str
    description: dict[str, Any]
    unsafe: bool = False
    compute: str = process.FLOAT32

    @property
    def space(self) -> str:
        """Name of the space that its vectors share with those of other encoders; empty for a space of its own."""
        if self.kind == "precomputed":
            return self.handle.removeprefix(PRECOMPUTED)
        return str(self.description.get("space", ""))


def columns(encoders: Encoders) -> dict[str, tuple[str, str]]:
    """Returns the handle and the kind, `image` or `text`, of each vector column that the config names.

    Raises:
        UserError: if two handles are of one column.
    """
    found = {"key": (encoders.key, "image")}
    for role, kind in (("value_image", "image"), ("value_text", "text")):
        for entry in getattr(encoders, role):
            named = _NAMED.fullmatch(entry)
            column, handle = (f"{role}_{named[1]}", named[2]) if named else (role, entry)
            if column in found:
                raise UserError(
                    f"--config.encoders.{role}={','.join(getattr(encoders, role))}: two encoders for the column "
                    f"{column}; name one of them, such as large={handle}"
                )
            found[column] = (handle, kind)
    return found


def resolve(
    handle: str,
    dtype: str,
    normalize: bool = True,
    crop_fraction: float = 0.0,
    unsafe_models: bool = False,
    compute: str = process.FLOAT32,
    is_run: bool = True,
) -> EncoderSpec:
    """Resolves an encoder handle, downloading or building the model if it is not cached.

    Args:
        handle: see the module.
        dtype: of the vectors on disk, `float32` or `float16`.
        normalize: whether vectors are scaled to unit length.
        crop_fraction: of images, instead of the described one; 0 for the described one.
        unsafe_models: whether the operations of a model may reach files, sockets, processes and Python.
        compute: precision of matrix products, `float32` or `bfloat16`.
        is_run: whether this machine is to run the model; otherwise none is built, and the precision may be one that
            the machine does not have.

    Raises:
        UserError: if there is no such encoder, its description is incomplete, its model may not be loaded, or this
            machine or this model cannot compute in that precision.
    """
    if is_run:
        process.check_compute(compute)
    description, model, where = _describe(handle)
    if compute != process.FLOAT32 and onnx_files.is_onnx(model):
        raise UserError(
            f"{process.FLAG}={compute}: encoder {handle!r} runs in onnxruntime, which is not made faster by it; set "
            f"{process.FLAG}=float32"
        )
    try:
        _check(description, model)
        if crop_fraction and description["kind"] == "image":
            description = {**description, "preprocess": {**description["preprocess"], "crop_fraction": crop_fraction}}
            _check(description, model)
    except (KeyError, ValueError) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{where}: {reason}; docs/encoders.md says what it must contain") from error
    fingerprint = _fingerprint(description, model, unsafe_models, is_run)
    if compute != process.FLOAT32:
        fingerprint = manifest.fingerprint({"encoder": fingerprint, "compute": compute})
    info = schemas.EncoderInfo(fingerprint, description["dim"], normalize, dtype)
    return EncoderSpec(handle, description["kind"], info, model, description, unsafe_models, compute)


def configured(handle: str, encoders: Encoders) -> EncoderSpec:
    """Resolves a handle with the settings of a config; arguments and errors as those of `resolve`."""
    e = encoders
    return resolve(handle, e.dtype, e.normalize, e.crop_fraction, e.unsafe_models, e.compute)


def precomputed(handle: str, dim: int, dtype: str, normalize: bool) -> EncoderSpec:
    """Returns the spec of vectors that a source provides; the name after `precomputed:` stands for their encoder."""
    fingerprint = manifest.fingerprint({"precomputed": handle.removeprefix(PRECOMPUTED), "dim": dim})
    return EncoderSpec(handle, "precomputed", schemas.EncoderInfo(fingerprint, dim, normalize, dtype), "", {})


def _fingerprint(description: dict[str, Any], model: str, unsafe_models: bool, is_run: bool) -> str:
    """Returns the fingerprint of an encoder, whose model is on this machine afterwards if it `is_run` here."""
    # The space decides no vector, and may be named once the memory exists.
    identity = {name: value for name, value in description.items() if name != "space"}
    if model in builtin.NAMES or checkpoints.is_handle(model):
        if is_run:
            model_files.local_folder(model, description)
    elif onnx_files.is_onnx(model):
        identity["files"] = onnx_session.inspect(model, description)
    else:
        # A missing library is reported before gigabytes are downloaded.
        saved_model.import_required(description)
        folder = model_files.local_folder(model, description)
        identity["files"] = model_files.checksums(folder, description, DESCRIPTION_FILE)
        if not unsafe_models:
            # Again when it is loaded, elsewhere and later; here, so that nothing has been begun.
            model_operations.check(folder / saved_model.FILE)
    return manifest.fingerprint(identity)


def _describe(handle: str) -> tuple[dict[str, Any], str, str]:
    """Returns the description of a handle, its model, and where the description was found."""
    if handle in builtin.NAMES:
        return builtin.describe(handle), handle, handle
    if handle in PUBLISHED:
        return dict(PUBLISHED[handle]), handle, handle
    if checkpoints.is_handle(handle):
        pinned = checkpoints.pinned(handle)
        return checkpoints.describe(pinned), pinned, handle
    path = _description_file(handle)
    description = storage.read_json(path)
    if not isinstance(description, dict) or not isinstance(description.get("model", ""), str):
        raise UserError(
            f"{path}: must be an object whose 'model', if it has one, is a folder, a URL, a .onnx or a .npz"
        )
    if without_login(description.get("model", "")) != description.get("model", ""):
        raise UserError(f"{path}: 'model' is a URL with a name or a password; leave it out")
    if description.get("model", "").startswith(checkpoints.PREFIX):
        raise UserError(f"{path}: 'model' is {description['model']!r}; give it as the encoder itself")
    # The place of a model is no part of its identity.
    model = storage.join(path.rpartition("/")[0] or ".", description.pop("model", ""))
    if onnx_files.is_onnx(handle):
        _check_beside(handle, model, path)
        model = handle
    if checkpoints.is_handle(model):
        description = _with_weights(description, model, path)
    return description, model, path


def _check_beside(handle: str, model: str, path: str) -> None:
    """Raises a `UserError` if the description in the folder of an ONNX file is that of another file."""
    if onnx_files.is_onnx(model) and storage.name(model) != storage.name(handle):
        raise UserError(f"encoder {handle!r}: {path} describes {storage.name(model)}; write one for this file")


def _description_file(handle: str) -> str:
    if handle.endswith(".json"):
        return handle
    if handle.startswith(model_files.URL):
        raise UserError(
            f"encoder {handle!r}: its inputs and outputs are unknown; write an encoder.json with "
            '"model" set to this URL and name that file (docs/encoders.md)'
        )
    if onnx_files.is_onnx(handle):
        path = storage.join(handle.rpartition("/")[0] or ".", DESCRIPTION_FILE)
        if not storage.exists(handle):
            raise UserError(f"encoder {handle!r}: there is no such file")
        if not storage.exists(path):
            raise UserError(
                f"encoder {handle!r}: has no {DESCRIPTION_FILE} beside it; `web-memory encoders {handle}` shows one to "
                "fill in"
            )
        return path
    if not any(storage.exists(storage.join(handle, file)) for file in (saved_model.FILE, DESCRIPTION_FILE)):
        unknown = f"is neither a SavedModel folder nor built in ({', '.join(builtin.NAMES)})"
        raise UserError(f"encoder {handle!r}: {foreign.advice(handle) or unknown}")
    return storage.join(handle, DESCRIPTION_FILE)


def _with_weights(description: dict[str, Any], model: str, where: str) -> dict[str, Any]:
    """Adds what the weights of a checkpoint tell to a description, which may say how its images are prepared."""
    wanted = description.get("preprocess", {})
    if not isinstance(wanted, dict) or type(wanted.get("size", 1)) is not int:
        raise UserError(f"{where}: 'preprocess' must be an object whose 'size' is a whole number")
    found = [name for name in _NOT_OF_CHECKPOINTS if name in description]
    if found := [*found, *(name for name in _NOT_OF_PIXELS if wanted.get(name) is not None)]:
        raise UserError(f"{where}: {found[0]!r} is not for a checkpoint, which scales its pixels itself; leave it out")
    known = checkpoints.describe(model, wanted.get("size"))
    free = {"name", "space", "preprocess"} if known["kind"] == "image" else {"name", "space"}
    for name in sorted(known.keys() & description.keys() - free):
        if description[name] != known[name]:
            raise UserError(f"{where}: {name!r} is {description[name]!r}, of these weights it is {known[name]!r}")
    return {**known, **description, "preprocess": {**known["preprocess"], **wanted}}


def _check(description: dict[str, Any], model: str) -> None:
    """Raises a `ValueError` that names the field that is wrong, a `KeyError` for one that is missing."""
    if not isinstance(description["name"], str):
        raise ValueError("'name' must be a text")
    if type(description["dim"]) is not int or description["dim"] < 1:
        raise ValueError("'dim' must be a number of 1 or more")
    if not isinstance(description.get("space", ""), str):
        raise ValueError("'space' must be a text")
    kind, preprocess = description["kind"], description["preprocess"]
    if not isinstance(preprocess, dict):
        raise ValueError("'preprocess' must be an object")
    checks = {"image": _check_image, "text": _check_text}
    if kind not in list(checks):
        raise ValueError(f"'kind' is {kind!r}, must be image or text")
    checks[kind](preprocess)
    if onnx_files.is_onnx(model):
        onnx_fit.check(description)
    else:
        saved_model.check(description, 2 if kind == "text" and preprocess else 1)


def _check_names(preprocess: dict[str, Any], known: list[str]) -> None:
    if unknown := [name for name in preprocess if name not in known]:
        raise ValueError(f"'preprocess' has no field {unknown[0]!r}; {nearest(unknown[0], known)}")


def _check_image(preprocess: dict[str, Any]) -> None:
    _check_names(preprocess, [field.name for field in dataclasses.fields(ImagePreprocess)])
    ImagePreprocess(**{"size": preprocess["size"], **preprocess}).check()


def _check_text(preprocess: dict[str, Any]) -> None:
    _check_names(preprocess, ["tokenizer", "max_tokens"])
    if not preprocess:
        # Without a tokenizer the model takes strings.
        return
    if type(preprocess["max_tokens"]) is not int or preprocess["max_tokens"] < 1:
        raise ValueError("'max_tokens' must be a whole number of 1 or more")
    file = preprocess["tokenizer"]
    if not isinstance(file, str) or pathlib.PurePath(file).is_absolute() or ".." in pathlib.PurePath(file).parts:
        raise ValueError("'tokenizer' must be the path of a file within the folder of the model")
