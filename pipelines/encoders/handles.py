"""Handles to encoders: resolves each once at launch, loads its model in a worker, runs batches.

A handle is a built-in name, a SavedModel folder, a TF Hub or Kaggle URL, a `.npz` of a Vision Transformer, or an
`encoder.json` that says what one of these takes and gives (docs/encoders.md). The SavedModels behind the built-in names
are made by `builtin_encoders`, and called by `saved_model`; Vision Transformers are left to `vit`.
"""

import contextlib
import ctypes
import dataclasses
import os
import pathlib
import re
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from configs.base import Encoders
from pipelines import manifest, schemas, storage
from pipelines.encoders import builtin, saved_model
from pipelines.errors import UserError, nearest
from pipelines.images.decode import ImagePreprocess

DESCRIPTION_FILE = "encoder.json"
PRECOMPUTED = "precomputed:"
_TEXT_LENGTH_STEP = 8
# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_URL = ("http://", "https://")
_DOWNLOADING = threading.Lock()
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
        model: built-in name, folder, URL or `.npz` that holds the weights.
        description: what the model takes and gives, as in `encoder.json`.
    """

    handle: str
    kind: str
    info: schemas.EncoderInfo
    model: str
    description: dict[str, Any]

    @property
    def space(self) -> str:
        """Name of the space that its vectors share with those of other encoders; empty for a space of its own."""
        if self.kind == "precomputed":
            return self.handle.removeprefix(PRECOMPUTED)
        return str(self.description.get("space", ""))


def columns(encoders: Encoders) -> dict[str, tuple[str, str]]:
    """Returns the handle and the kind, `image` or `text`, of each vector column that the config names.

    Raises:
        UserError: if there is no key encoder, or two handles are of one column.
    """
    if not encoders.key:
        raise UserError("--config.encoders.key: is empty; every memory needs keys")
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


def _check(description: dict[str, Any]) -> None:
    if not isinstance(description["name"], str):
        raise ValueError("'name' must be a text")
    if type(description["dim"]) is not int or description["dim"] < 1:
        raise ValueError("'dim' must be a number of 1 or more")
    if not isinstance(description.get("space", ""), str):
        raise ValueError("'space' must be a text")
    kind, preprocess = description["kind"], description["preprocess"]
    if not isinstance(preprocess, dict):
        raise ValueError("'preprocess' must be an object")
    if kind == "image":
        known = [field.name for field in dataclasses.fields(ImagePreprocess)]
    elif kind == "text":
        known = ["tokenizer", "max_tokens"]
    else:
        raise ValueError(f"'kind' is {kind!r}, must be image or text")
    if unknown := [name for name in preprocess if name not in known]:
        raise ValueError(f"'preprocess' has no field {unknown[0]!r}; {nearest(unknown[0], known)}")
    if kind == "image":
        ImagePreprocess(**{"size": preprocess["size"], **preprocess}).check()
    elif preprocess:
        # Without a tokenizer the model takes strings.
        if type(preprocess["max_tokens"]) is not int or preprocess["max_tokens"] < 1:
            raise ValueError("'max_tokens' must be a whole number of 1 or more")
        file = preprocess["tokenizer"]
        if not isinstance(file, str) or pathlib.PurePath(file).is_absolute() or ".." in pathlib.PurePath(file).parts:
            raise ValueError("'tokenizer' must be the path of a file within the folder of the model")
    saved_model.check(description, 2 if kind == "text" and preprocess else 1)


def _describe(handle: str) -> tuple[dict[str, Any], str, str]:
    """Returns the description of a handle, the model it is of, and where the description stands."""
    if handle in builtin.NAMES:
        return builtin.describe(handle), handle, handle
    if handle in PUBLISHED:
        return dict(PUBLISHED[handle]), handle, handle
    if handle.endswith(".npz"):
        return {}, handle, handle
    if handle.endswith(".json"):
        path = handle
    elif handle.startswith(_URL):
        raise UserError(
            f"encoder {handle!r}: nothing is known of what this model takes and gives; write an encoder.json with "
            '"model" set to this URL and name that file (docs/encoders.md)'
        )
    else:
        path = storage.join(handle, DESCRIPTION_FILE)
        if not any(storage.exists(storage.join(handle, file)) for file in (saved_model.FILE, DESCRIPTION_FILE)):
            raise UserError(
                f"encoder {handle!r}: is neither a SavedModel folder nor built in ({', '.join(builtin.NAMES)})"
            )
    description = storage.read_json(path)
    if not isinstance(description, dict) or not isinstance(description.get("model", ""), str):
        raise UserError(f"{path}: must be an object whose 'model', if it has one, is a folder, a URL or a .npz")
    # Where the model lies is no part of what it is.
    return description, storage.join(path.rpartition("/")[0] or ".", description.pop("model", "")), path


def _describe_vit(description: dict[str, Any], model: str, where: str) -> dict[str, Any]:
    """Returns a description with what the weights of a Vision Transformer say."""
    from pipelines.encoders import vit, vit_checkpoint

    config = vit_checkpoint.read_config(model)
    wanted = description.get("preprocess", {})
    if not isinstance(wanted, dict) or type(wanted.get("size", 1)) is not int:
        raise UserError(f"{where}: 'preprocess' must be an object whose 'size' is a whole number")
    if wanted.get("value_range") is not None:
        raise UserError(f"{where}: 'value_range' is not for a Vision Transformer, which scales its pixels itself")
    known = vit.describe(model, config, wanted.get("size"))
    for name in sorted(known.keys() & description.keys() - {"name", "preprocess"}):
        if description[name] != known[name]:
            raise UserError(f"{where}: {name!r} is {description[name]!r}, of these weights it is {known[name]!r}")
    return {**known, **description, "preprocess": {**known["preprocess"], **wanted}}


def resolve(handle: str, dtype: str, normalize: bool = True, crop_fraction: float = 0.0) -> EncoderSpec:
    """Finds an encoder; one that is to be built or downloaded is, unless the cache has it.

    Args:
        handle: see the module.
        dtype: of the vectors on disk, `float32` or `float16`.
        normalize: whether vectors get unit length.
        crop_fraction: of images, instead of the described one; 0 for that.

    Raises:
        UserError: if there is no such encoder, or its description is incomplete.
    """
    if dtype not in schemas.DTYPES:
        raise UserError(f"--config.encoders.dtype={dtype}: no such type; {nearest(dtype, list(schemas.DTYPES))}")
    description, model, where = _describe(handle)
    if model.endswith(".npz"):
        description = _describe_vit(description, model, where)
    if not 0 <= crop_fraction <= 1:
        raise UserError(
            f"--config.encoders.crop_fraction={crop_fraction:g}: must be 0 to 1, and 0 is for the encoder's own"
        )
    try:
        _check(description)
        if crop_fraction and description["kind"] == "image":
            description = {**description, "preprocess": {**description["preprocess"], "crop_fraction": crop_fraction}}
            _check(description)
    except (KeyError, ValueError) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{where}: {reason}; docs/encoders.md says what it must hold") from error
    # What shares a space with it decides no vector, and may be said once the memory is there.
    identity = {name: value for name, value in description.items() if name != "space"}
    if model in builtin.NAMES:
        _local_folder(model)
    elif not model.endswith(".npz"):
        # A missing library is said before gigabytes are downloaded.
        saved_model.import_required(description)
        identity = {**identity, "files": _checksums(_local_folder(model), description)}
    info = schemas.EncoderInfo(manifest.fingerprint(identity), description["dim"], normalize, dtype)
    return EncoderSpec(handle, description["kind"], info, model, description)


def _checksums(folder: pathlib.Path, description: dict[str, Any]) -> dict[str, str]:
    """Returns the SHA-256 of each file of a SavedModel that there must be, but not of what describes it."""
    for file in filter(None, (saved_model.FILE, description["preprocess"].get("tokenizer"))):
        if not (folder / file).is_file():
            raise UserError(f"{folder}: holds no {file}")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / DESCRIPTION_FILE)
    return {str(p.relative_to(folder)): storage.sha256(str(p)) for p in files}


def precomputed(handle: str, dim: int, dtype: str, normalize: bool) -> EncoderSpec:
    """Returns the spec of vectors that a source brings; the name after `precomputed:` stands for their encoder."""
    fingerprint = manifest.fingerprint({"precomputed": handle.removeprefix(PRECOMPUTED), "dim": dim})
    return EncoderSpec(handle, "precomputed", schemas.EncoderInfo(fingerprint, dim, normalize, dtype), "", {})


def _local_folder(model: str) -> pathlib.Path:
    """Returns the folder of a SavedModel on this machine, fetched or built the first time."""
    cache = storage.cache_dir()
    if model in builtin.NAMES:
        return builtin.ensure(model, cache / "encoders")
    if model.startswith(_URL):
        return _from_hub(model)
    if "://" in model:
        return storage.fetch_folder(model, cache / "encoders")
    return pathlib.Path(model)


def _from_hub(url: str) -> pathlib.Path:
    # The library's own default lies in /tmp, where files are swept one by one and a half model stays behind.
    os.environ.setdefault("TFHUB_CACHE_DIR", str(storage.cache_dir() / "tfhub"))
    import tensorflow_hub as hub

    try:
        # Columns are resolved side by side; one must not sweep away what another has just fetched.
        with _DOWNLOADING:
            folder = pathlib.Path(hub.resolve(url))
            if not (folder / saved_model.FILE).exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder = pathlib.Path(hub.resolve(url))
    except Exception as error:
        # Networks fail in many ways, and TensorFlow passes on all of them.
        raise UserError(
            f"encoder {url}: cannot be downloaded ({error}); fetch it elsewhere and name its folder"
        ) from error
    if not (folder / saved_model.FILE).exists():
        raise UserError(f"encoder {url}: holds no {saved_model.FILE}; it is no TensorFlow 2 SavedModel")
    return folder


def one_thread_a_call(calls: int) -> None:
    """Makes TensorFlow give one thread to each of several simultaneous calls; without effect once it has run."""
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(calls)
    except RuntimeError:
        # The runtime of this process is up already, with the threads it was given first.
        return


def finish(vectors: np.ndarray, spec: EncoderSpec) -> np.ndarray:
    """Checks the width of vectors `[n, dim]` and, if the spec says so, brings them to unit length; float32."""
    if vectors.ndim != 2 or vectors.shape[1] != spec.info.dim:
        raise UserError(
            f"encoder {spec.handle!r}: gives {list(vectors.shape[1:])}, its description says [{spec.info.dim}]"
        )
    vectors = vectors.astype(np.float32, copy=False)
    if spec.info.normalized:
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return vectors


def keep_freed_memory() -> None:
    """Makes glibc keep large blocks that are freed; without effect on other C libraries.

    Each batch frees hundreds of megabytes and asks for them again. To give them back to the kernel in between took a
    third of the processor time of an EfficientNet. Threads share one arena, since those of their own hold no block of
    more than 64 MB; to be called before these threads begin.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


class ImageEncoder:
    """A loaded image encoder."""

    def __init__(self, spec: EncoderSpec) -> None:
        """Loads the model."""
        self.preprocess = ImagePreprocess(**spec.description["preprocess"])
        self._spec = spec
        if spec.model.endswith(".npz"):
            from pipelines.encoders import vit, vit_checkpoint

            self._model: Callable[..., Any] = vit.VitEncoder(*vit_checkpoint.load(spec.model), self.preprocess.size)
        else:
            self._model = saved_model.load(_local_folder(spec.model), spec.description)

    def encode(self, images: Sequence[np.ndarray | None], batch_size: int) -> np.ndarray:
        """Encodes at most `batch_size` images uint8 `[size, size, 3]` to vectors `[n, dim]` float32.

        A short batch is filled up and None is a black image, so that the graph sees one shape and a row's bits do not
        depend on how many others there are.
        """
        size = self.preprocess.size
        batch = np.zeros((batch_size, size, size, 3), np.uint8)
        for row, image in enumerate(images):
            if image is not None:
                batch[row] = image
        return finish(self._model(self.preprocess.scale(batch))[: len(images)], self._spec)


class TextEncoder:
    """A loaded text encoder, with its tokenizer if it takes token ids."""

    def __init__(self, spec: EncoderSpec) -> None:
        """Loads the SavedModel and, where there is one, the tokenizer beside it."""
        folder, preprocess = _local_folder(spec.model), spec.description["preprocess"]
        self._tokenizer = None
        if preprocess:
            import tokenizers

            path = folder / preprocess["tokenizer"]
            try:
                self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
            except Exception as error:
                # The library has no exception of its own.
                raise UserError(f"{path}: is no tokenizer that can be read ({error})") from error
            self._tokenizer.enable_truncation(preprocess["max_tokens"])
            self._tokenizer.enable_padding(pad_to_multiple_of=_TEXT_LENGTH_STEP)
        self._spec, self._model = spec, saved_model.load(folder, spec.description)

    def encode(self, texts: Sequence[str | None], batch_size: int) -> np.ndarray:
        """Encodes at most `batch_size` texts to vectors `[n, dim]` float32; None is an empty text."""
        batch = [text or "" for text in texts] + [""] * (batch_size - len(texts))
        if self._tokenizer is None:
            import tensorflow as tf

            return finish(self._model(tf.constant(batch))[: len(texts)], self._spec)
        encodings = self._tokenizer.encode_batch(batch)
        tokens = np.array([e.ids for e in encodings], np.int32)
        mask = np.array([e.attention_mask for e in encodings], np.int32)
        return finish(self._model(tokens, mask)[: len(texts)], self._spec)


class EncoderSet:
    """The loaded encoders of all columns; one that serves several columns is loaded, and run, once.

    Attributes:
        columns: the loaded encoder of each column.
    """

    def __init__(self, specs: Mapping[str, EncoderSpec]) -> None:
        """Loads each encoder; vectors that a source brings need none."""
        loaded: dict[str, ImageEncoder | TextEncoder] = {}
        for spec in specs.values():
            if spec.kind != "precomputed" and spec.handle not in loaded:
                loaded[spec.handle] = ImageEncoder(spec) if spec.kind == "image" else TextEncoder(spec)
        self.columns = {column: loaded[spec.handle] for column, spec in specs.items() if spec.handle in loaded}
