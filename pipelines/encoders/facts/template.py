"""An `encoder.json` to fill in, for a model that has none: what its signatures tell, and what they do not."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from pipelines import storage
from pipelines.encoders import cache, saved_model
from pipelines.encoders.handles import DESCRIPTION_FILE
from pipelines.encoders.onnx import files as onnx_files
from pipelines.encoders.onnx import form
from pipelines.encoders.onnx.fit import USUAL
from pipelines.encoders.onnx.form import Tensor
from pipelines.errors import UserError

FILL_IN = "FILL IN"
_TOKENIZER = "tokenizer.json"
_DEFAULT_SIGNATURE = "serving_default"


@dataclasses.dataclass(frozen=True)
class Signature:
    """What one way to call a model takes and gives; `name` is empty for an ONNX file."""

    name: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Template:
    """A description to fill in.

    Attributes:
        signatures: all that the model has.
        path: where the description belongs.
        text: of the file.
        missing: a sentence for each field that must be filled in or checked.
    """

    signatures: list[Signature]
    path: str
    text: str
    missing: list[str]


def wanted(handle: str) -> bool:
    """Tells whether a handle is a SavedModel folder or an ONNX file without a description."""
    if onnx_files.is_onnx(handle):
        return storage.exists(handle) and not storage.exists(_beside(handle))
    if "://" in handle and handle.startswith("http"):
        return False
    return storage.exists(storage.join(handle, saved_model.FILE)) and not storage.exists(
        storage.join(handle, DESCRIPTION_FILE)
    )


def _beside(handle: str) -> str:
    return storage.join(handle.rpartition("/")[0] or ".", DESCRIPTION_FILE)


def make(handle: str) -> Template:
    """Returns the template for a model that `wanted` names.

    Raises:
        UserError: if the model cannot be read, or has no signature.
    """
    is_onnx = onnx_files.is_onnx(handle)
    if is_onnx:
        found = form.read(onnx_files.local(handle, {"preprocess": {}}))
        signatures = [Signature("", found.inputs, found.outputs)]
    else:
        signatures = _signatures(cache.fetch_folder(handle) if storage.is_url(handle) else pathlib.Path(handle))
    if not signatures:
        raise UserError(f"{handle}: has no signatures; save the model with one, or write an encoder.json for its call")
    chosen = next((one for one in signatures if one.name == _DEFAULT_SIGNATURE), signatures[0])
    description, missing = _describe(chosen, pathlib.PurePath(storage.name(handle)).stem)
    if is_onnx:
        description = {"model": storage.name(handle), **description}
    path = _beside(handle) if is_onnx else storage.join(handle, DESCRIPTION_FILE)
    return Template(signatures, path, json.dumps(description, indent=2), missing)


def _signatures(folder: pathlib.Path) -> list[Signature]:
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString((folder / saved_model.FILE).read_bytes())
    except DecodeError as error:
        raise UserError(f"{folder / saved_model.FILE}: is not a SavedModel ({error})") from error

    def tensors(infos: Any) -> dict[str, Tensor]:
        found = {}
        for name, info in sorted(infos.items()):
            shape = info.tensor_shape
            sizes = None if shape.unknown_rank else tuple(max(size.size, 0) for size in shape.dim)
            found[name] = Tensor(tf.as_dtype(info.dtype).name, sizes)
        return found

    return [
        Signature(name, tensors(signature.inputs), tensors(signature.outputs))
        for graph in model.meta_graphs
        for name, signature in sorted(graph.signature_def.items())
        if signature.outputs and signature.inputs
    ]


def _describe(signature: Signature, name: str) -> tuple[dict[str, Any], list[str]]:
    inputs = list(signature.inputs.values())
    ranks = [len(tensor.shape) if tensor.shape is not None else 0 for tensor in inputs]
    is_text = any(tensor.dtype == "string" or tensor.dtype.startswith("int") for tensor in inputs)
    kind = "text" if is_text else "image" if 4 in ranks else FILL_IN
    description: dict[str, Any] = {"name": name, "kind": kind}
    missing = ["kind: image or text"] if kind == FILL_IN else []
    output = _best_output(signature.outputs)
    tensor = signature.outputs[output]
    width = tensor.shape[-1] if tensor.shape else 0
    description["dim"] = width or FILL_IN
    missing += [] if width else ["dim: the width of the vectors"]
    if signature.name:
        description["signature"] = signature.name
    if len(inputs) > 1:
        description["inputs"] = sorted(signature.inputs, key=lambda name: USUAL.index(name) if name in USUAL else -1)
        missing.append("inputs: check the order, which is token ids, mask and, of ONNX files, types of tokens")
    if len(signature.outputs) > 1:
        description["output"] = output
        missing.append(f"output: check that {output} has the vectors, one for each input")
    if len(tensor.shape or ()) == 3 and not signature.name:
        description["pool"] = FILL_IN
        missing.append(f"pool: {output} has a vector for each token; mean or first makes one of them")
    description["preprocess"], more = (_text if is_text else _image)(inputs[0])
    return description, missing + more


def _best_output(outputs: Mapping[str, Tensor]) -> str:
    """Returns the first output with a vector for each input, as far as the shapes tell."""
    return next((name for name, tensor in outputs.items() if len(tensor.shape or ()) == 2), next(iter(outputs)))


def _image(tensor: Tensor) -> tuple[dict[str, Any], list[str]]:
    shape = tensor.shape or ()
    first = len(shape) == 4 and shape[1] == 3 and shape[3] != 3
    size = (shape[2] if first else shape[1]) if len(shape) == 4 else 0
    preprocess: dict[str, Any] = {"size": size or FILL_IN, "crop_fraction": 1.0, "resize": "bicubic"}
    missing = [] if size else ["size: the side of the images, in pixels"]
    missing.append("crop_fraction, resize: as the model was trained, often 0.875 and bicubic or bilinear")
    if tensor.dtype != "uint8":
        preprocess["value_range"] = FILL_IN
        missing.append(
            "value_range: what black and white are, [-1, 1], [0, 1] or, if the graph scales pixels, [0, 255]; with "
            "'mean' and 'std' if the model was trained with them"
        )
    if first:
        preprocess["layout"] = "channels_first"
    return preprocess, missing


def _text(tensor: Tensor) -> tuple[dict[str, Any], list[str]]:
    if tensor.dtype == "string":
        return {}, []
    length = tensor.shape[1] if tensor.shape and len(tensor.shape) == 2 else 0
    missing = [f"tokenizer: put the {_TOKENIZER} of the model into its folder"]
    missing += [] if length else ["max_tokens: the most tokens that the model was trained with, a multiple of 8"]
    return {"tokenizer": _TOKENIZER, "max_tokens": length or FILL_IN}, missing
