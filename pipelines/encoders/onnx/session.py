"""An ONNX file as a function from arrays to one matrix, run by onnxruntime on the processor.

`files` finds the file, `fit` says how it is called, `loaded` prepares the arrays.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipelines.encoders.onnx import files, fit, form
from pipelines.encoders.saved_model import Model
from pipelines.errors import UserError, one_line

# Texts are padded to a multiple of so many tokens.
_TEXT_LENGTH_STEP = 8
# Warnings are not for the person at the keyboard.
_ERRORS_ONLY = 3


def library() -> Any:
    """Imports onnxruntime; a `UserError` if it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"ONNX files need onnxruntime ({error}); pip install 'web-memory[onnx]', or onnxruntime alone"
        ) from error
    return onnxruntime


def inspect(model: str, description: Mapping[str, Any]) -> dict[str, str]:
    """Checks a file against its description without loading it, and returns the SHA-256 of its files by their paths.

    Raises:
        UserError: if onnxruntime or a file is missing, or the file may not be loaded or is not as described.
    """
    # A missing library is reported before gigabytes are downloaded.
    library()
    path = files.local(model, description)
    fit.fit(form.read(path), description, str(path))
    return files.checksums(path, description)


def load(path: pathlib.Path, description: Mapping[str, Any]) -> Model:
    """Loads a model, which any number of threads may call, each with one thread of its own.

    Args:
        path: of the file on this machine.
        description: what it takes and gives.

    Raises:
        UserError: as of `inspect`, or if onnxruntime cannot load it.
    """
    runtime = library()
    found = fit.fit(form.read(path), description, str(path))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # The library has a type of its own for each reason.
        raise UserError(f"{path}: onnxruntime cannot load this model ({one_line(error)})") from error
    refused = runtime.capi.onnxruntime_pybind11_state.InvalidArgument

    def call(*arrays: np.ndarray) -> np.ndarray:
        given = _inputs(arrays, found)
        try:
            (result,) = session.run([found.output], given)
        except refused as error:
            shapes = " and ".join(f"{array.dtype} {list(array.shape)}" for array in given.values())
            raise UserError(f"{path}: does not take {shapes}; see 'inputs' ({one_line(error)})") from error
        fit.check_output(found.output, result.shape, description, str(path))
        if len(result) != len(arrays[0]):
            raise UserError(f"{path}: its output {found.output} has no row for each input; see 'output'")
        return _pooled(result.astype(np.float32), description.get("pool"), arrays[1] if arrays[1:] else None)

    def run(*arrays: np.ndarray) -> np.ndarray:
        return np.concatenate([call(*part) for part in _parts(arrays, found)])[: len(arrays[0])]

    return Model(run, found.length)


def _inputs(arrays: tuple[np.ndarray, ...], found: fit.Fit) -> dict[str, np.ndarray]:
    """Returns the inputs by name: pixels, or token ids, mask and types, which are 0."""
    given = [*arrays, np.zeros_like(arrays[0])][: len(found.inputs)]
    return {
        name: array.astype(dtype, copy=False)
        for name, dtype, array in zip(found.inputs, found.dtypes, given, strict=True)
    }


def _parts(arrays: tuple[np.ndarray, ...], found: fit.Fit) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields the arrays of each call, all of the number of rows that the model takes.

    A text that is alone keeps no padding of longer ones: the scale of a quantised model would depend on it.
    """
    if len(arrays) == 2 and not arrays[0].shape[1]:
        arrays = tuple(np.zeros((len(array), _TEXT_LENGTH_STEP), array.dtype) for array in arrays)
    rows = found.rows or len(arrays[0])
    for first in range(0, len(arrays[0]), rows):
        part = tuple(array[first : first + rows] for array in arrays)
        if missing := rows - len(part[0]):
            part = tuple(
                np.concatenate([array, np.zeros_like(array, shape=(missing, *array.shape[1:]))]) for array in part
            )
        if len(part) == 2 and rows == 1 and not found.length:
            tokens = max(int(part[1].sum()), 1)
            part = tuple(array[:, : -(-tokens // _TEXT_LENGTH_STEP) * _TEXT_LENGTH_STEP] for array in part)
        yield part


def _pooled(result: np.ndarray, pool: str | None, mask: np.ndarray | None) -> np.ndarray:
    """Returns vectors `[B, D]` of an output `[B, D]`, or `[B, T, D]` if they are to be pooled over T."""
    if pool is None:
        return result
    if pool == "first":
        return result[:, 0]
    if mask is None:
        return result.mean(1)
    weights = mask.astype(np.float32)
    return np.einsum("bt,btd->bd", weights, result) / np.maximum(weights.sum(1, keepdims=True), 1)
