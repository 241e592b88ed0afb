"""An encoder with a linear layer behind it, as a SavedModel of its own: `x -> encoder(x) @ matrix + bias`.

The encoder's own graph and weights become a part of the new model, which then needs neither its handle nor its files.
"""

import json
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np

from pipelines import storage
from pipelines.encoders import cache, model_files, saved_model
from pipelines.encoders.handles import DESCRIPTION_FILE, EncoderSpec
from pipelines.encoders.onnx import files as onnx_files
from pipelines.errors import UserError
from pipelines.images.decode import ImagePreprocess

_TOKENIZER = "assets.extra/tokenizer.json"
# TensorFlow writes a random number into it, and reads it for its own statistics only.
_FINGERPRINT = "fingerprint.pb"


def check(spec: EncoderSpec) -> None:
    """Raises a `UserError` if no SavedModel can be made of an encoder: it has no TensorFlow graph."""
    for is_it, reason in (
        (spec.kind == "precomputed", "has vectors and no model"),
        (onnx_files.is_onnx(spec.model), "is an ONNX file, which runs in onnxruntime"),
    ):
        if is_it:
            raise UserError(
                f"encoder {spec.handle!r}: {reason}; a tower is made of a built-in encoder, a SavedModel or a "
                "checkpoint (docs/encoders.md)"
            )


def save(spec: EncoderSpec, matrix: np.ndarray, bias: np.ndarray, name: str, space: str, folder: str) -> None:
    """Writes an encoder with a linear layer behind it, and its `encoder.json`; same arguments, same bytes.

    Args:
        spec: of the encoder. Its vectors enter the layer at unit length if the spec says so.
        matrix: of the layer, float32 `[dim, width]`.
        bias: float32 `[width]`.
        name: of the new encoder.
        space: of its vectors.
        folder: that is written, on any storage; it must not exist.

    Raises:
        UserError: if the encoder has no TensorFlow graph, or its graph cannot be a part of another one.
    """
    check(spec)
    with tempfile.TemporaryDirectory(prefix="web-memory-") as scratch:
        built = pathlib.Path(scratch) / "built"
        # A new process, for names in a graph are numbered by those that the process has used before.
        cache.run_in_new_process(_save, spec, matrix, bias, built)
        (built / _FINGERPRINT).unlink(missing_ok=True)
        _describe(spec, matrix.shape[1], name, space, built)
        for file in sorted(path for path in built.rglob("*") if path.is_file()):
            storage.copy(str(file), storage.join(folder, file.relative_to(built).as_posix()))


def _describe(spec: EncoderSpec, width: int, name: str, space: str, folder: pathlib.Path) -> None:
    """Writes the description, and copies the tokenizer."""
    preprocess = dict(spec.description["preprocess"])
    if "tokenizer" in preprocess:
        source = model_files.local_folder(spec.model, spec.description) / preprocess["tokenizer"]
        preprocess["tokenizer"] = _TOKENIZER
        (folder / _TOKENIZER).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, folder / _TOKENIZER)
    description = {"name": name, "kind": spec.kind, "dim": width, "space": space, "preprocess": preprocess}
    if "requires" in spec.description:
        description["requires"] = spec.description["requires"]
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")


def _save(spec: EncoderSpec, matrix: np.ndarray, bias: np.ndarray, folder: pathlib.Path) -> None:
    """Writes the SavedModel; runs in a process of its own."""
    cache.use_no_gpu()
    import tensorflow as tf

    source = model_files.local_folder(spec.model, spec.description)
    model, call = saved_model.graph(source, spec.description, spec.unsafe)
    inputs = _inputs(spec, saved_model.length(model, spec.description))

    class Tower(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            # Named, so that their weights are saved with this model.
            self.encoder, self.matrix, self.bias = model, tf.Variable(matrix), tf.Variable(bias)

        @tf.function(input_signature=inputs, autograph=False)
        def __call__(self, *arrays: Any) -> Any:
            vectors = tf.cast(_call(call, arrays), tf.float32)
            if spec.info.normalized:
                # As `loaded.unit`.
                vectors /= tf.maximum(tf.norm(vectors, axis=-1, keepdims=True), 1e-12)
            return tf.linalg.matmul(vectors, self.matrix) + self.bias

    try:
        tf.saved_model.save(Tower(), str(folder))
    except (TypeError, ValueError, tf.errors.OpError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"encoder {spec.handle!r}: cannot be a part of another graph ({reason})") from error


def _call(call: Any, arrays: tuple[Any, ...]) -> Any:
    """Calls the encoder's graph; token ids in the integers that it takes, as TensorFlow does for NumPy's."""
    import tensorflow as tf

    try:
        return call(*arrays)
    except (TypeError, ValueError):
        if arrays[0].dtype != tf.int32:
            raise
        return call(*(tf.cast(array, tf.int64) for array in arrays))


def _inputs(spec: EncoderSpec, length: int) -> list[Any]:
    """Returns what the model is called with (docs/encoders.md), `[B, ..]`; a text model may have a fixed length."""
    import tensorflow as tf

    preprocess = spec.description["preprocess"]
    if spec.kind == "image":
        images = ImagePreprocess(**preprocess)
        pixels = images.scale(np.zeros((1, images.size, images.size, 3), np.uint8))
        return [tf.TensorSpec((None, *pixels.shape[1:]), pixels.dtype, "images")]
    if not preprocess:
        return [tf.TensorSpec((None,), tf.string, "texts")]
    return [tf.TensorSpec((None, length or None), tf.int32, name) for name in ("token_ids", "attention_mask")]
