"""A SavedModel of any signature and outputs as a function from arrays to one matrix.

The fields `signature`, `inputs`, `output` and `requires` of `encoder.json` (docs/encoders.md) are read here.
`model_files` finds the folder, `loaded` prepares the arrays.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipelines.encoders import model_operations
from pipelines.errors import UserError, nearest

FILE = "saved_model.pb"


def check(description: Mapping[str, Any], arrays: int) -> None:
    """Raises a `ValueError` that names the field that is wrong; a batch consists of `arrays` arrays."""
    if not isinstance(description.get("signature", ""), str):
        raise ValueError("'signature' must be the name of one")
    names = description.get("inputs")
    if names is not None:
        if not isinstance(names, list) or len(names) != arrays or not all(isinstance(name, str) for name in names):
            raise ValueError(f"'inputs' must be a list of {arrays} name{'s' * (arrays > 1)}")
    output = description.get("output")
    if isinstance(output, bool) or not isinstance(output, str | int | None):
        raise ValueError("'output' must be a name or a place, counted from 0")
    if description.get("requires") not in (None, "tensorflow_text"):
        raise ValueError("'requires' can only be tensorflow_text")


def import_required(description: Mapping[str, Any]) -> None:
    """Imports the library whose operations a model uses.

    Raises:
        UserError: if it is not installed, or does not fit the version of TensorFlow.
    """
    if not description.get("requires"):
        return
    import tensorflow as tf

    try:
        import tensorflow_text  # noqa: F401
    except (ImportError, tf.errors.OpError) as error:
        release = tf.__version__.rpartition(".")[0]
        raise UserError(
            f"encoder {description['name']!r}: needs the operations of TensorFlow Text ({error}); "
            f"pip install 'tensorflow-text=={release}.*'"
        ) from error


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded model, which is called with arrays.

    Attributes:
        run: from arrays `[B, ..]`, in the order of `inputs`, to float32 `[B, ..]`.
        length: second dimension of the first array, where the model states one; 0 if it takes any.
    """

    run: Callable[..., np.ndarray]
    length: int

    def __call__(self, *arrays: Any) -> np.ndarray:
        """Returns the output for a batch; a `UserError` if the model does not accept the arrays or lacks the output."""
        return self.run(*arrays)


def load(folder: pathlib.Path, description: Mapping[str, Any], unsafe: bool = False) -> Model:
    """Loads a model.

    Args:
        folder: of the SavedModel.
        description: what it takes and gives.
        unsafe: whether its operations may reach files, sockets, processes and Python.

    Raises:
        UserError: if it cannot be loaded, may not be, or has no such signature.
    """
    import tensorflow as tf

    model, call = graph(folder, description, unsafe)

    def run(*arrays: Any) -> np.ndarray:
        try:
            picked = call(*arrays)
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            given = " and ".join(f"{tf.as_dtype(array.dtype).name} {list(array.shape)}" for array in arrays)
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"{folder}: does not take {given}; see 'signature' and 'inputs' ({reason})") from error
        if not tf.is_tensor(picked) or not picked.dtype.is_floating or picked.shape[:1] != arrays[0].shape[:1]:
            raise UserError(f"{folder}: its output is not a float tensor with a row for each input; see 'output'")
        return np.asarray(picked.numpy(), np.float32)

    return Model(run, length(model, description))


def graph(folder: pathlib.Path, description: Mapping[str, Any], unsafe: bool = False) -> tuple[Any, Callable[..., Any]]:
    """Loads a model as a part of other graphs; arguments and errors as of `load`.

    Returns:
        The loaded object, which holds the weights, and a function of tensors, in the order of `inputs`, that returns
        the vectors as TensorFlow's tensor. It raises a `UserError` if the model lacks the output.
    """
    import tensorflow as tf
    import tensorflow_hub as hub

    import_required(description)
    if not unsafe:
        model_operations.check(folder / FILE)
    try:
        model = hub.load(str(folder))
    except Exception as error:
        # A broken SavedModel raises errors of many types.
        raise UserError(f"{folder}: TensorFlow cannot load this SavedModel ({error})") from error
    signature, names = description.get("signature"), description.get("inputs")
    if signature is not None:
        call = _signature(model, signature, names, folder)
    elif callable(model):

        def call(*arrays: Any) -> Any:
            # TensorFlow casts NumPy arrays to the model's types: right for token ids, wrong for the scale of pixels.
            taken = [array if array.dtype == np.int32 else tf.convert_to_tensor(array) for array in arrays]
            return model(dict(zip(names, taken, strict=True))) if names else model(*taken)

    else:
        known = ", ".join(model.signatures) or "none"
        raise UserError(f"{folder}: cannot be called; name one of its signatures ({known}) as 'signature'")
    return model, lambda *arrays: _pick(call(*arrays), description.get("output"), folder)


def length(model: Any, description: Mapping[str, Any]) -> int:
    """Returns the second dimension of the first input, 0 if any is taken: texts of fixed length are `[None, 77]`."""
    signature, names = description.get("signature"), description.get("inputs")
    if signature is None:
        functions = getattr(model.__call__, "concrete_functions", ())
        first = [arguments[0] for arguments, _ in (f.structured_input_signature for f in functions) if arguments]
    else:
        first = [model.signatures[signature].structured_input_signature[1]]
    # Inputs with names are a dict, in no order.
    specs: list[Any] = [spec.get((names or [*spec])[0]) if isinstance(spec, dict) else spec for spec in first if spec]
    shapes = [spec.shape for spec in specs if hasattr(spec, "shape")]
    lengths = [shape[1] or 0 if shape.rank == 2 else 0 for shape in shapes]
    return 0 if 0 in lengths else max(lengths, default=0)


def _signature(model: Any, signature: str, names: list[str] | None, folder: pathlib.Path) -> Callable[..., Any]:
    import tensorflow as tf

    if signature not in model.signatures:
        raise UserError(f"{folder}: has no signature {signature!r}; {nearest(signature, list(model.signatures))}")
    function = model.signatures[signature]
    specs = function.structured_input_signature[1]
    if names is None and len(specs) > 1:
        # They have no order: token ids could be taken for the mask.
        raise UserError(f"{folder}: {signature} has the inputs {', '.join(specs)}; name them in order as 'inputs'")
    order = list(specs) if names is None else names
    if unknown := [name for name in order if name not in specs]:
        raise UserError(f"{folder}: {signature} has no input {unknown[0]!r}; {nearest(unknown[0], list(specs))}")

    def cast(name: str, array: Any) -> Any:
        given, wanted = tf.as_dtype(array.dtype), specs[name].dtype
        # Pixels would lose their scale, in either direction.
        if (given.is_integer, given.is_floating) != (wanted.is_integer, wanted.is_floating):
            raise TypeError(f"{name} is {wanted.name}; of images, 'value_range' makes float32")
        if not specs[name].shape.is_compatible_with(array.shape):
            # TensorFlow itself looks at the types only.
            raise ValueError(f"{name} is {specs[name].shape}")
        return tf.cast(array, wanted)

    def call(*arrays: Any) -> Any:
        return function(**{name: cast(name, array) for name, array in zip(order, arrays, strict=True)})

    return call


def _pick(result: Any, output: str | int | None, folder: pathlib.Path) -> Any:
    if isinstance(result, Mapping):
        if output is None and len(result) == 1:
            return next(iter(result.values()))
        if output not in result:
            raise UserError(f"{folder}: gives {', '.join(map(str, result))}; name one of them as 'output'")
        return result[output]
    several = result if isinstance(result, list | tuple) else [result]
    if output is None and len(several) == 1:
        return several[0]
    if not isinstance(output, int) or not 0 <= output < len(several):
        raise UserError(f"{folder}: gives {len(several)} tensor(s) without names; 'output' must be the place of one")
    return several[output]
