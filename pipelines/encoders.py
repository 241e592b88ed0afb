"""Handles to encoders: resolves each once at launch, loads its model in a worker, runs batches.

A handle is a built-in name, a SavedModel folder, a TF Hub or Kaggle URL, a `.npz` of a Vision Transformer, or an
`encoder.json` that says what one of these takes and gives (docs/encoders.md). The SavedModels behind the built-in names
are made by `builtin_encoders`, Vision Transformers by `vit`.
"""

import dataclasses
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from configs.base import Encoders
from pipelines import builtin_encoders, manifest, schemas, storage
from pipelines.decode import ImagePreprocess
from pipelines.errors import UserError
from pipelines.options import nearest

DESCRIPTION_FILE = "encoder.json"
PRECOMPUTED = "precomputed:"
_TEXT_LENGTH_STEP = 8
_URL = ("http://", "https://")
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
    info: manifest.EncoderInfo
    model: str
    description: dict[str, Any]


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
    if not isinstance(description["dim"], int) or description["dim"] < 1:
        raise ValueError("'dim' must be a number of 1 or more")
    preprocess = description["preprocess"]
    if description["kind"] == "image":
        ImagePreprocess(**preprocess).check()
    elif description["kind"] == "text":
        # Without a tokenizer the model takes strings.
        if preprocess and not isinstance(preprocess["max_tokens"], int):
            raise ValueError("'max_tokens' must be a whole number")
        if preprocess and not isinstance(preprocess["tokenizer"], str):
            raise ValueError("'tokenizer' must be the name of a file")
    else:
        raise ValueError(f"'kind' is {description['kind']!r}, must be image or text")


def _describe(handle: str) -> tuple[dict[str, Any], str, str]:
    """Returns the description of a handle, the model it is of, and where the description stands."""
    if handle in builtin_encoders.NAMES:
        return builtin_encoders.describe(handle), handle, handle
    if handle in PUBLISHED:
        return dict(PUBLISHED[handle]), handle, handle
    if handle.endswith(".json"):
        description = storage.read_json(handle)
        if not isinstance(description, dict) or not isinstance(description.get("model"), str):
            raise UserError(f"{handle}: must be an object that names its 'model', a folder, a URL or a .npz")
        model = storage.join(handle.rpartition("/")[0] or ".", description.pop("model"))
        return description, model, handle
    if handle.endswith(".npz"):
        return {}, handle, handle
    if handle.startswith(_URL):
        raise UserError(
            f"encoder {handle!r}: nothing is known of what this model takes and gives; write an encoder.json with "
            '"model" set to this URL and name that file (docs/encoders.md)'
        )
    if not storage.exists(storage.join(handle, "saved_model.pb")):
        raise UserError(
            f"encoder {handle!r}: is neither a SavedModel folder nor built in ({', '.join(builtin_encoders.NAMES)})"
        )
    path = storage.join(handle, DESCRIPTION_FILE)
    return storage.read_json(path), handle, path


def resolve(handle: str, dtype: str, normalize: bool = True) -> EncoderSpec:
    """Finds an encoder; one that is to be built or downloaded is, unless the cache has it.

    Args:
        handle: see the module.
        dtype: of the vectors on disk, `float32` or `float16`.
        normalize: whether vectors get unit length.

    Raises:
        UserError: if there is no such encoder, or its description is incomplete.
    """
    if dtype not in schemas.DTYPES:
        raise UserError(f"--config.encoders.dtype={dtype}: no such type; {nearest(dtype, list(schemas.DTYPES))}")
    description, model, where = _describe(handle)
    if model.endswith(".npz"):
        from pipelines import vit, vit_checkpoint

        loaded, _ = vit_checkpoint.load(model)
        known = vit.describe(model, loaded.config, description.get("preprocess", {}).get("size"))
        description = {**known, **description, "preprocess": known["preprocess"] | description.get("preprocess", {})}
    try:
        _check(description)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{where}: {reason}; docs/encoders.md says what it must hold") from error
    identity = description
    if model in builtin_encoders.NAMES:
        _local_folder(model)
    elif not model.endswith(".npz"):
        folder = _local_folder(model)
        files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != DESCRIPTION_FILE)
        identity = {**description, "files": {str(p.relative_to(folder)): storage.sha256(str(p)) for p in files}}
    info = manifest.EncoderInfo(manifest.fingerprint(identity), int(description["dim"]), normalize, dtype)
    return EncoderSpec(handle, description["kind"], info, model, description)


def precomputed(handle: str, dim: int, dtype: str, normalize: bool) -> EncoderSpec:
    """Returns the spec of vectors that a source brings; the name after `precomputed:` stands for their encoder."""
    fingerprint = manifest.fingerprint({"precomputed": handle.removeprefix(PRECOMPUTED), "dim": dim})
    return EncoderSpec(handle, "precomputed", manifest.EncoderInfo(fingerprint, dim, normalize, dtype), "", {})


def _local_folder(model: str) -> pathlib.Path:
    """Returns the folder of a SavedModel on this machine, fetched or built the first time."""
    cache = storage.cache_dir()
    if model in builtin_encoders.NAMES:
        return builtin_encoders.ensure(model, cache / "encoders")
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
        folder = pathlib.Path(hub.resolve(url))
        if not (folder / "saved_model.pb").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder = pathlib.Path(hub.resolve(url))
    except Exception as error:
        # Networks fail in many ways, and TensorFlow passes on all of them.
        raise UserError(
            f"encoder {url}: cannot be downloaded ({error}); fetch it elsewhere and name its folder"
        ) from error
    if not (folder / "saved_model.pb").exists():
        raise UserError(f"encoder {url}: holds no saved_model.pb; it is no TensorFlow 2 SavedModel")
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


def _load(spec: EncoderSpec) -> Callable[..., Any]:
    """Loads a SavedModel as a function of its inputs, in their order, whatever its signature and output are like."""
    import tensorflow as tf
    import tensorflow_hub as hub

    description, folder = spec.description, str(_local_folder(spec.model))
    if module := description.get("requires"):
        _import_required(spec, module)
    try:
        model = hub.load(folder)
    except Exception as error:
        # A broken SavedModel raises whatever its reader met first.
        raise UserError(f"{folder}: TensorFlow cannot load this SavedModel ({error})") from error
    signature, names = description.get("signature"), description.get("inputs")
    if signature is None:
        if not callable(model):
            known = ", ".join(model.signatures)
            raise UserError(f"{folder}: cannot be called; name a 'signature' in {DESCRIPTION_FILE}: it has {known}")

        def call(*inputs: Any) -> Any:
            return model(dict(zip(names, inputs, strict=True))) if names else model(*inputs)

    else:
        if signature not in model.signatures:
            raise UserError(f"{folder}: has no signature {signature!r}; {nearest(signature, list(model.signatures))}")
        function = model.signatures[signature]
        specs = function.structured_input_signature[1]
        order = names or list(specs)
        if unknown := [name for name in order if name not in specs]:
            raise UserError(f"{folder}: {signature} has no input {unknown[0]!r}; {nearest(unknown[0], list(specs))}")

        def call(*inputs: Any) -> Any:
            pairs = zip(order, inputs, strict=True)
            return function(**{name: tf.cast(value, specs[name].dtype) for name, value in pairs})

    return lambda *inputs: _pick(call(*inputs), spec)


def _import_required(spec: EncoderSpec, module: str) -> None:
    """Loads the library whose operations a model is made of."""
    if module != "tensorflow_text":
        raise UserError(f"encoder {spec.handle!r}: requires {module!r}; only tensorflow_text can be asked for")
    try:
        import tensorflow_text  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"encoder {spec.handle!r}: needs the operations of TensorFlow Text; pip install 'tensorflow-text==2.20.*'"
        ) from error


def _pick(result: Any, spec: EncoderSpec) -> np.ndarray:
    output = spec.description.get("output")
    if isinstance(result, Mapping):
        if output is None and len(result) == 1:
            output = next(iter(result))
        if output not in result:
            raise UserError(
                f"encoder {spec.handle!r}: gives {', '.join(map(str, result))}; name one as 'output' of its description"
            )
        result = result[output]
    elif isinstance(result, list | tuple):
        if not isinstance(output or 0, int) or not -len(result) <= (output or 0) < len(result):
            raise UserError(f"encoder {spec.handle!r}: gives {len(result)} tensors; 'output' must be the place of one")
        result = result[output or 0]
    return np.asarray(result.numpy(), np.float32)


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


class ImageEncoder:
    """A loaded image encoder."""

    def __init__(self, spec: EncoderSpec) -> None:
        """Loads the model."""
        self.preprocess = ImagePreprocess(**spec.description["preprocess"])
        self._spec = spec
        if spec.model.endswith(".npz"):
            from pipelines import vit, vit_checkpoint

            self._model: Callable[..., Any] = vit.VitEncoder(*vit_checkpoint.load(spec.model), self.preprocess.size)
        else:
            self._model = _load(spec)

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
        preprocess = spec.description["preprocess"]
        self._tokenizer = None
        if preprocess:
            import tokenizers

            path = _local_folder(spec.model) / preprocess["tokenizer"]
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
            self._tokenizer.enable_truncation(preprocess["max_tokens"])
            self._tokenizer.enable_padding(pad_to_multiple_of=_TEXT_LENGTH_STEP)
        self._spec, self._model = spec, _load(spec)

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
