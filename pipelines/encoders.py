"""Handles to encoders: resolves a name or folder once at launch, loads the SavedModel in a worker, runs batches.

The SavedModels behind the built-in names are made by `builtin_encoders`. A folder of one's own needs an
`encoder.json` that says what the encoder takes and gives (docs/contracts.md).
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines import builtin_encoders, manifest, schemas, storage
from pipelines.decode import ImagePreprocess
from pipelines.errors import UserError
from pipelines.options import nearest

DESCRIPTION_FILE = "encoder.json"
_TEXT_LENGTH_STEP = 8


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """An encoder that was found and described, but not loaded.

    Attributes:
        handle: the name or folder that the config gave.
        kind: `image` or `text`.
        info: its fingerprint, width and form.
        preprocess: what must be done to its inputs.
    """

    handle: str
    kind: str
    info: manifest.EncoderInfo
    preprocess: dict[str, Any]


def _folder(handle: str) -> pathlib.Path:
    if handle in builtin_encoders.NAMES:
        return builtin_encoders.ensure(handle, storage.cache_dir() / "encoders")
    folder = pathlib.Path(handle)
    if not (folder / "saved_model.pb").exists():
        raise UserError(
            f"encoder {handle!r}: is neither a SavedModel folder nor built in ({', '.join(builtin_encoders.NAMES)})"
        )
    return folder


def _check(description: dict[str, Any]) -> None:
    if not isinstance(description["name"], str):
        raise ValueError("'name' must be a text")
    if not isinstance(description["dim"], int) or description["dim"] < 1:
        raise ValueError("'dim' must be a number of 1 or more")
    if description["kind"] == "image":
        ImagePreprocess(**description["preprocess"]).check()
    elif description["kind"] == "text":
        if not isinstance(description["preprocess"]["max_tokens"], int):
            raise ValueError("'max_tokens' must be a whole number")
        if not isinstance(description["preprocess"]["tokenizer"], str):
            raise ValueError("'tokenizer' must be the name of a file")
    else:
        raise ValueError(f"'kind' is {description['kind']!r}, must be image or text")


def resolve(handle: str, dtype: str) -> EncoderSpec:
    """Finds an encoder, building a built-in one if it is not cached yet.

    Args:
        handle: built-in name, or folder of a SavedModel with an `encoder.json`.
        dtype: of the vectors on disk, `float32` or `float16`.

    Raises:
        UserError: if there is no such encoder, or its description is incomplete.
    """
    folder = _folder(handle)
    path = str(folder / DESCRIPTION_FILE)
    description = storage.read_json(path)
    try:
        _check(description)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: {reason}; docs/contracts.md says what it must hold") from error
    if dtype not in schemas.DTYPES:
        raise UserError(f"--config.encoders.dtype={dtype}: no such type; {nearest(dtype, list(schemas.DTYPES))}")
    if handle not in builtin_encoders.NAMES:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        description = {**description, "files": {str(p.relative_to(folder)): storage.sha256(str(p)) for p in files}}
    info = manifest.EncoderInfo(manifest.fingerprint(description), int(description["dim"]), True, dtype)
    return EncoderSpec(handle, description["kind"], info, description["preprocess"])


def one_thread_a_call(calls: int) -> None:
    """Makes TensorFlow give one thread to each of several simultaneous calls; without effect once it has run."""
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(calls)
    except RuntimeError:
        # The runtime of this process is up already, with the threads it was given first.
        return


def _load(handle: str) -> Any:
    import tensorflow_hub as hub

    folder = str(_folder(handle))
    try:
        return hub.load(folder)
    except Exception as error:
        # A broken SavedModel raises whatever its reader met first.
        raise UserError(f"{folder}: TensorFlow cannot load this SavedModel ({error})") from error


def _unit(vectors: np.ndarray, spec: EncoderSpec) -> np.ndarray:
    if vectors.ndim != 2 or vectors.shape[1] != spec.info.dim:
        raise UserError(
            f"encoder {spec.handle!r}: gives {list(vectors.shape[1:])}, its description says [{spec.info.dim}]"
        )
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


class ImageEncoder:
    """A loaded image encoder."""

    def __init__(self, spec: EncoderSpec) -> None:
        """Loads the SavedModel."""
        self.preprocess = ImagePreprocess(**spec.preprocess)
        self._spec, self._model = spec, _load(spec.handle)

    def encode(self, images: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
        """Encodes at most `batch_size` images uint8 `[size, size, 3]` to unit vectors `[n, dim]` float32.

        A short batch is filled up, so that the graph sees one shape and a row's bits do not depend on the others.
        """
        size = self.preprocess.size
        batch = np.zeros((batch_size, size, size, 3), np.uint8)
        batch[: len(images)] = images
        return _unit(self._model(batch).numpy()[: len(images)], self._spec)


class TextEncoder:
    """A loaded text encoder with its tokenizer."""

    def __init__(self, spec: EncoderSpec) -> None:
        """Loads the SavedModel and the tokenizer beside it."""
        import tokenizers

        folder = _folder(spec.handle)
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / spec.preprocess["tokenizer"]))
        self._tokenizer.enable_truncation(spec.preprocess["max_tokens"])
        self._tokenizer.enable_padding(pad_to_multiple_of=_TEXT_LENGTH_STEP)
        self._spec, self._model = spec, _load(spec.handle)

    def encode(self, texts: Sequence[str], batch_size: int) -> np.ndarray:
        """Encodes at most `batch_size` texts to unit vectors `[n, dim]` float32."""
        encodings = self._tokenizer.encode_batch([*texts, *[""] * (batch_size - len(texts))])
        tokens = np.array([e.ids for e in encodings], np.int32)
        mask = np.array([e.attention_mask for e in encodings], np.int32)
        return _unit(self._model(tokens, mask).numpy()[: len(texts)], self._spec)


class EncoderSet:
    """The loaded encoders of all roles; an encoder that serves two roles is loaded once."""

    def __init__(self, specs: dict[str, EncoderSpec]) -> None:
        """Loads each encoder."""
        loaded: dict[str, ImageEncoder | TextEncoder] = {}
        for spec in specs.values():
            if spec.handle not in loaded:
                loaded[spec.handle] = ImageEncoder(spec) if spec.kind == "image" else TextEncoder(spec)
        self.image: dict[str, ImageEncoder] = {}
        self.text: dict[str, TextEncoder] = {}
        for role, spec in specs.items():
            encoder = loaded[spec.handle]
            if isinstance(encoder, ImageEncoder):
                self.image[role] = encoder
            else:
                self.text[role] = encoder
