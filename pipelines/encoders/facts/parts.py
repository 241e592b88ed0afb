"""What an encoder is made of: its files with their digests, their size, and how many weights they hold."""

import dataclasses
import math
import pathlib

from pipelines.encoders import builtin, model_files, saved_model
from pipelines.encoders.handles import DESCRIPTION_FILE, EncoderSpec
from pipelines.encoders.onnx import files as onnx_files
from pipelines.encoders.onnx import form
from pipelines.encoders.towers import checkpoints


@dataclasses.dataclass(frozen=True)
class Parts:
    """What an encoder is made of.

    Attributes:
        source: where the files are from; empty for files of the user's.
        files: SHA-256 by path.
        parameters: number of weights.
        size_bytes: of the files that are loaded.
    """

    source: str
    files: dict[str, str]
    parameters: int
    size_bytes: int


def read(spec: EncoderSpec) -> Parts:
    """Returns what a resolved encoder is made of, whose files are on this machine or in a store."""
    if onnx_files.is_onnx(spec.model):
        path = onnx_files.local(spec.model, spec.description)
        paths = onnx_files.paths(path, spec.description)
        size = sum(file.stat().st_size for file in paths)
        return Parts("", onnx_files.checksums(path, spec.description), form.read(path).parameters, size)
    folder = model_files.local_folder(spec.model, spec.description)
    source, files = "", {}
    if spec.model in builtin.NAMES:
        source, files = str(spec.description["source"]), dict(builtin.ENCODERS[spec.model].files)
    elif checkpoints.is_handle(spec.model):
        source, files = spec.model, dict(spec.description["weights_sha256"])
    else:
        files = model_files.checksums(folder, spec.description, DESCRIPTION_FILE)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    # Constants of a checkpoint's graph, such as the mean of the pixels, are no weights.
    count = variables(folder) if checkpoints.is_handle(spec.model) else saved_parameters(folder)
    return Parts(source, files, count, size)


def variables(folder: pathlib.Path) -> int:
    """Returns the number of weights in the variables of a SavedModel."""
    import tensorflow as tf

    if not (folder / "variables/variables.index").exists():
        return 0
    reader = tf.train.load_checkpoint(str(folder / "variables/variables"))
    types = reader.get_variable_to_dtype_map()
    shapes = reader.get_variable_to_shape_map()
    return sum(math.prod(shape) for name, shape in shapes.items() if types[name].is_floating)


def saved_parameters(folder: pathlib.Path) -> int:
    """Returns the number of weights of a SavedModel: its variables, and the constants of its graph."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    count, seen = variables(folder), set()
    model = saved_model_pb2.SavedModel()
    model.ParseFromString((folder / saved_model.FILE).read_bytes())
    for graph in model.meta_graphs:
        library = [node for function in graph.graph_def.library.function for node in function.node_def]
        for node in (*graph.graph_def.node, *library):
            tensor = node.attr["value"].tensor if node.op == "Const" else None
            if tensor is None or not tf.as_dtype(tensor.dtype).is_floating or not tensor.tensor_shape.dim:
                continue
            # A function that was traced twice has its constants twice.
            content = tensor.SerializeToString(deterministic=True)
            if content not in seen:
                seen.add(content)
                count += math.prod(size.size for size in tensor.tensor_shape.dim)
    return count
