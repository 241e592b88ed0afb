"""Whether an ONNX file and its description fit: which inputs get what, which output has the vectors.

The fields `inputs`, `output` and `pool` of `encoder.json` are read here (docs/encoders.md).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipelines.encoders.onnx.form import Form, Tensor
from pipelines.errors import UserError, nearest

POOLS = ("mean", "first")
USUAL = ("input_ids", "attention_mask", "token_type_ids")
"""Names that exporters give to the inputs of text models: token ids, mask, and types of tokens, which are all 0."""
_FLOATS = ("float32", "float16", "float64")


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a file is called.

    Attributes:
        inputs: names of the inputs: the pixels, or token ids, mask and types, as many as there are.
        dtypes: of the inputs.
        output: name of the output.
        rows: of each call; 0 for those of the batch.
        length: of texts, in tokens; 0 if that of the longest will do.
    """

    inputs: tuple[str, ...]
    dtypes: tuple[str, ...]
    output: str
    rows: int
    length: int


def check(description: Mapping[str, Any]) -> None:
    """Raises a `ValueError` that names the field of a description that is wrong."""
    for name in ("signature", "requires"):
        if name in description:
            raise ValueError(f"{name!r} is for SavedModels, and the model is an ONNX file")
    most = 1 if description["kind"] == "image" else len(USUAL)
    names = description.get("inputs")
    if names is not None:
        texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not texts or not 1 <= len(names) <= most or len(set(names)) < len(names):
            what = "the name of the input" if most == 1 else "the names of token ids, mask and types, in this order"
            raise ValueError(f"'inputs' must be a list of {what}")
    output = description.get("output")
    if isinstance(output, bool) or not isinstance(output, str | int | None):
        raise ValueError("'output' must be a name or a place, counted from 0")
    if description.get("pool") not in (None, *POOLS):
        raise ValueError(f"'pool' must be one of {', '.join(POOLS)}")
    if description["kind"] == "text" and not description["preprocess"]:
        raise ValueError("'preprocess' must name 'tokenizer' and 'max_tokens', since an ONNX file takes token ids")


def fit(form: Form, description: Mapping[str, Any], where: str) -> Fit:
    """Returns how a file is called, for images or for texts.

    Args:
        form: of the file.
        description: checked by `check`.
        where: the file, for messages.

    Raises:
        UserError: if an input is needed that there is nothing for, or an input or output is not as described.
    """
    is_image = description["kind"] == "image"
    names = _inputs(form, description.get("inputs"), is_image, where)
    tensors = [form.inputs[name] for name in names]
    if is_image:
        _check_pixels(names[0], tensors[0], description["preprocess"], where)
    else:
        _check_tokens(names, tensors, where)
    shape = tensors[0].shape or (0, 0)
    length = 0 if is_image else shape[1]
    if not is_image and len(names) == 1:
        # Nothing tells the model what is padding, so it must not depend on the other texts.
        length = length or description["preprocess"]["max_tokens"]
    if form.scales_by_batch and shape[0] > 1:
        raise UserError(
            f"{where}: is quantised dynamically and takes {shape[0]} rows at once, so vectors depend on other "
            "rows; export it with batches of any size"
        )
    dtypes = tuple(tensor.dtype for tensor in tensors)
    rows = shape[0] or int(form.scales_by_batch)
    return Fit(tuple(names), dtypes, _output(form, description, where), rows, length)


def _inputs(form: Form, given: list[str] | None, is_image: bool, where: str) -> list[str]:
    """Returns the names of the inputs in order."""
    known = list(form.inputs)
    if given is not None and (unknown := [name for name in given if name not in known]):
        raise UserError(f"{where}: has no input {unknown[0]!r}; {nearest(unknown[0], known)}")
    names = given or (known if is_image and len(known) == 1 else [name for name in USUAL if name in known])
    if not names or (given is None and not is_image and names[0] != USUAL[0]):
        what = "that of the pixels" if is_image else "those of token ids, mask and types, in this order,"
        raise UserError(f"{where}: has the inputs {', '.join(known)}; name {what} as 'inputs'")
    if others := [name for name in known if name not in names]:
        gives = "pixels are given" if is_image else "token ids, mask and types are given"
        raise UserError(
            f"{where}: needs the input {others[0]!r}, and only {gives}; export the part of the model that makes "
            f"vectors of {'images' if is_image else 'texts'}, or name its inputs as 'inputs'"
        )
    return names


def _check_pixels(name: str, tensor: Tensor, preprocess: Mapping[str, Any], where: str) -> None:
    if (tensor.dtype in _FLOATS) != (preprocess.get("value_range") is not None) or (
        tensor.dtype not in (*_FLOATS, "uint8")
    ):
        raise UserError(f"{where}: {name} is {tensor.dtype}; pixels are uint8, or with a 'value_range' float32")
    size, first = preprocess["size"], preprocess.get("layout") == "channels_first"
    made = (0, 3, size, size) if first else (0, size, size, 3)
    if tensor.shape is None:
        return
    if len(tensor.shape) != 4 or any(a != b for a, b in zip(tensor.shape[1:], made[1:], strict=True) if a):
        raise UserError(f"{where}: {name} is {tensor}, 'preprocess' makes {list(made[1:])}; see 'size' and 'layout'")


def _check_tokens(names: list[str], tensors: list[Tensor], where: str) -> None:
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype not in ("int32", "int64") or len(tensor.shape or (0, 0)) != 2:
            raise UserError(f"{where}: {name} is {tensor}; token ids are int32 or int64 [B, T]")


def _output(form: Form, description: Mapping[str, Any], where: str) -> str:
    """Returns the name of the output, whose shape is checked as far as the file says it."""
    known, wanted = list(form.outputs), description.get("output")
    if wanted is None and len(known) > 1:
        raise UserError(f"{where}: gives {', '.join(known)}; name one of them as 'output'")
    if isinstance(wanted, int) and not 0 <= wanted < len(known):
        raise UserError(f"{where}: gives {len(known)} tensor(s); 'output' must be the place of one, counted from 0")
    name = wanted if isinstance(wanted, str) else known[wanted or 0]
    if name not in known:
        raise UserError(f"{where}: has no output {name!r}; {nearest(name, known)}")
    tensor = form.outputs[name]
    if tensor.dtype not in _FLOATS:
        raise UserError(f"{where}: its output {name} is {tensor.dtype}, no floats; see 'output'")
    check_output(name, tensor.shape, description, where)
    return str(name)


def check_output(name: str, shape: tuple[int, ...] | None, description: Mapping[str, Any], where: str) -> None:
    """Raises a `UserError` if an output of this shape holds no vectors as described."""
    if shape is None:
        return
    pool, dim = description.get("pool"), description["dim"]
    if len(shape) == 3 and pool is None:
        raise UserError(
            f"{where}: its output {name} has a vector for each part of an input; set 'pool' to {' or '.join(POOLS)}, "
            "or name another 'output'"
        )
    if len(shape) != (2 if pool is None else 3):
        raise UserError(f"{where}: its output {name} has {len(shape)} dimensions; see 'output' and 'pool'")
    if shape[-1] not in (0, dim):
        raise UserError(f"{where}: its output {name} has the width {shape[-1]}, its description says {dim}")
