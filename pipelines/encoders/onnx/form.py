"""What an ONNX file says of itself, read from its bytes before any library loads it.

The field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

import dataclasses
import math
import mmap
import pathlib
from collections.abc import Mapping

from pipelines.encoders.onnx import wire
from pipelines.encoders.onnx.wire import Value
from pipelines.errors import UserError

# By the numbers of `TensorProto.DataType`, named as NumPy does.
_TYPES = {
    **{1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string"},
    **{9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16"},
}
# Floats of all widths, and integers of 8 and 4 bits, which quantised weights are; other integers are shapes and places.
_WEIGHTS = {1, 2, 3, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23}
_EXTERNAL = 1
# Operators of onnxruntime without a library of their own; "" stands for ai.onnx.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
# They run a compiled model of another file, or Python.
_REFUSED = ("EPContext", "PythonOp", "PythonOpGrad", "ATen")
# They scale activations by the largest value of the whole batch.
_BATCH_SCALED = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        dtype: as NumPy names it, `string`, or the number of another type.
        shape: 0 for a dimension of any size; None if the file does not say.
    """

    dtype: str
    shape: tuple[int, ...] | None

    def __str__(self) -> str:
        """Returns type and shape, such as `float32 [?, 3, 224, 224]`."""
        sizes = ["?" if size == 0 else str(size) for size in self.shape or ()]
        return f"{self.dtype} [{', '.join(sizes)}]" if self.shape is not None else f"{self.dtype} of any shape"


@dataclasses.dataclass(frozen=True)
class Form:
    """What a file says.

    Attributes:
        inputs: what must be given, by name, in order.
        outputs: likewise.
        external: paths, relative to the file, of the files that hold weights of it.
        parameters: number of weights.
        scales_by_batch: whether a vector depends on the other rows of its batch, as of dynamic quantisation.
    """

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    external: tuple[str, ...]
    parameters: int
    scales_by_batch: bool


def read(path: pathlib.Path) -> Form:
    """Reads a file, but not its weights.

    Raises:
        UserError: if it is no ONNX file, or has an operator that onnxruntime itself does not have.
    """
    reader = _Reader()
    try:
        with path.open("rb") as file:
            reader.model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        if not reader.outputs:
            raise ValueError("there is no graph with an output")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not an ONNX file, or is damaged ({error})") from error
    for domain, name in sorted(reader.operators - reader.functions):
        if domain not in _DOMAINS or name in _REFUSED:
            raise UserError(
                f"{path}: has the operator {name} of {domain or 'ai.onnx'}, which only code beside onnxruntime can "
                "run, and such code is never loaded; export the model with standard operators"
            )
    given = {name: tensor for name, tensor in reader.inputs.items() if name not in reader.initialised}
    scaled = any(name in _BATCH_SCALED for _, name in reader.operators)
    return Form(given, reader.outputs, tuple(sorted(reader.external)), reader.parameters, scaled)


class _Reader:
    """Gathers what the messages of a file say; each method takes the bytes of one."""

    def __init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.initialised: set[str] = set()
        self.operators: set[tuple[str, str]] = set()
        self.functions: set[tuple[str, str]] = set()
        self.external: set[str] = set()
        self.parameters = 0

    def model(self, data: Value) -> None:
        for number, value in wire.fields(data):
            if number == 7:
                self.graph(value, outermost=True)
            elif number == 25:
                self.function(value)

    def graph(self, data: Value, outermost: bool = False) -> None:
        for number, value in wire.fields(data):
            if number == 1:
                self.node(value)
            elif number == 5:
                self.initialised.add(self.tensor(value))
            elif number == 15:
                self.sparse(value)
            elif number in (11, 12) and outermost:
                name, tensor = _value_info(value)
                (self.inputs if number == 11 else self.outputs)[name] = tensor

    def function(self, data: Value) -> None:
        name = domain = ""
        for number, value in wire.fields(data):
            if number == 1:
                name = wire.text(value)
            elif number == 7:
                self.node(value)
            elif number == 10:
                domain = wire.text(value)
        self.functions.add((domain, name))

    def node(self, data: Value) -> None:
        name = domain = ""
        for number, value in wire.fields(data):
            if number == 4:
                name = wire.text(value)
            elif number == 5:
                self.attribute(value)
            elif number == 7:
                domain = wire.text(value)
        self.operators.add((domain, name))

    def attribute(self, data: Value) -> None:
        for number, value in wire.fields(data):
            if number in (5, 10):
                self.tensor(value)
            elif number in (6, 11):
                self.graph(value)
            elif number in (22, 23):
                self.sparse(value)

    def sparse(self, data: Value) -> None:
        for number, value in wire.fields(data):
            if number in (1, 2):
                self.initialised.add(self.tensor(value))

    def tensor(self, data: Value) -> str:
        """Returns the name of a tensor."""
        shape: list[int] = []
        kind, name, places, is_external = 0, "", [], False
        for number, value in wire.fields(data):
            if number == 1:
                shape += wire.integers(value)
            elif number == 2:
                (kind,) = wire.integers(value)
            elif number == 8:
                name = wire.text(value)
            elif number == 13:
                entry = {part: wire.text(text) for part, text in wire.fields(value)}
                places += [entry.get(2, "")] if entry.get(1) == "location" else []
            elif number == 14:
                is_external = wire.integers(value) == [_EXTERNAL]
        if is_external or places:
            self.external.update(places or [""])
        if kind in _WEIGHTS and shape:
            self.parameters += math.prod(shape)
        return name


def _value_info(data: Value) -> tuple[str, Tensor]:
    """Returns name, type and shape of a ValueInfoProto."""
    name, dtype, shape = "", "no tensor", None
    for number, value in wire.fields(data):
        if number == 1:
            name = wire.text(value)
        elif number == 2:
            for kind, tensor in wire.fields(value):
                if kind == 1:
                    dtype, shape = _tensor_type(tensor)
    return name, Tensor(dtype, shape)


def _tensor_type(data: Value) -> tuple[str, tuple[int, ...] | None]:
    dtype, shape = "no type", None
    for number, value in wire.fields(data):
        if number == 1:
            (kind,) = wire.integers(value)
            dtype = _TYPES.get(kind, f"type {kind}")
        elif number == 2:
            shape = tuple(_size(size) for part, size in wire.fields(value) if part == 1)
    return dtype, shape


def _size(data: Value) -> int:
    """Returns the size of a dimension, 0 for any."""
    sizes = [wire.integers(value)[0] for number, value in wire.fields(data) if number == 1]
    return max(sizes[-1], 0) if sizes else 0
