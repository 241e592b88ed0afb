"""What a SavedModel may do: its operations are read, and those that reach beyond tensors refused, before it is loaded.

A SavedModel is a program. Loading it restores variables and fills tables from its own files; everything else that
reaches files, sockets, processes, Python or code of its own is found here by the names of operations, in the graph and
in the library of its functions (docs/adr/0024-what-is-not-trusted.md).
"""

import pathlib
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipelines.errors import UserError

FLAG = "--config.encoders.unsafe_models=true"
# By what they reach; without a leading `_` and `Experimental`.
_REFUSED = {
    "read data of their own": re.compile(r".*Dataset.*|.*Iterator.*"),
    "call Python": re.compile(r".*PyFunc.*"),
    "read or write files": re.compile(
        r".*File(?!name|spec).*|.*Reader.*|RecordInput|LoadAndRemapMatrix|.*Saver|"
        r"Write.*Summary|(Create|Flush|Close)?Summary(Db|File)?Writer|CreateSummary.*|ImportEvent|"
        r"Debug(Identity|NanCount|NumericSummary).*|DumpTensor|FixedUnigramCandidateSampler|Skipgram|"
        r"(De|En)codeProto.*|StoreMinibatchStatistics.*|(Initialize|Create)TRT.*"
    ),
    "reach other machines": re.compile(
        r"(Delete)?Rpc.*|Remote.*|(Host)?(Send|Recv)|Collective.*|Nccl.*|.*DistributedTPU.*|WorkerHeartbeat|DTensor.*|"
        r"Xla(Send|Recv).*Host.*|XlaHostCompute.*"
    ),
    "run code of their own": re.compile(
        r"Xla(Launch|CustomCall|Run|Compile).*|.*TRTEngine.*|MlirPassthrough.*|Ifrt.*|KernelLabel.*"
    ),
}
_SAVE = re.compile(r"(DTensor|Distributed)?Save.*|MergeV2Checkpoints")
_RESTORE = re.compile(r"(DTensor)?Restore.*")
_TABLES = ("InitializeTableFromTextFile", "InitializeTableFromTextFileV2")
_IMPORTING = threading.Lock()
_PATH = re.compile(rb"(/|~|\w+://|\.\./).|.*/\.\./", re.DOTALL)


def check(file: pathlib.Path) -> None:
    """Checks the operations of a SavedModel; `file` is its `saved_model.pb`.

    Raises:
        UserError: names the first operation that is refused and where it is; or if the file cannot be read.
    """
    from google.protobuf.message import DecodeError

    # Its modules import each other, so two threads that begin at once would find some of them half loaded.
    with _IMPORTING:
        from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(file.read_bytes())
    except (DecodeError, OSError) as error:
        raise UserError(f"{file}: TensorFlow cannot load this SavedModel ({error})") from error
    for graph in model.meta_graphs:
        for where, operation, reason in _refused(graph):
            raise UserError(
                f"{file}: {where} has the operation {operation}, which can {reason}; a model that you trust is "
                f"loaded with {FLAG}"
            )


def _refused(graph: Any) -> Iterator[tuple[str, str, str]]:
    """Yields place, operation and reason of what is refused in a MetaGraphDef."""
    bodies = {function.signature.name: function.node_def for function in graph.graph_def.library.function}
    nodes = {node.name: node for node in graph.graph_def.node}
    for where, body in (("the graph", nodes.values()), *((f"function {n}", body) for n, body in bodies.items())):
        for node in body:
            if reason := _reason(node):
                yield where, node.op, reason
    # Every model can save and restore itself; what it is asked for must not do that to other files.
    serving, restoring = _serving(graph, nodes), _before(nodes, [graph.saver_def.restore_op_name])
    starts = _functions(serving) | set(graph.object_graph_def.concrete_functions)
    for group, roots, kinds in ((serving, starts, (_SAVE, _RESTORE)), (restoring, _functions(restoring), (_SAVE,))):
        called = [node for name in _called(roots, bodies) for node in bodies.get(name, ())]
        for node in (*group, *called):
            if any(kind.fullmatch(node.op) for kind in kinds):
                yield "what it computes" if group is serving else "its restoring", node.op, "read or write files"
    yield from _foreign_tables(graph, [*nodes.values(), *(node for body in bodies.values() for node in body)])


def _reason(node: Any) -> str:
    """Returns what an operation can do; empty for nothing that is refused."""
    name = node.op.lstrip("_").removeprefix("Experimental")
    if node.op in _TABLES:
        return ""
    if name == "PrintV2" and node.attr["output_stream"].s.startswith(b"file:"):
        return "read or write files"
    if name == "XlaCallModule" and b"custom_call" in node.attr["module"].s:
        return "run code of their own"
    return next((reason for reason, names in _REFUSED.items() if names.fullmatch(name)), "")


def _serving(graph: Any, nodes: Mapping[str, Any]) -> list[Any]:
    """Returns the nodes that signatures and initialisation need; a model of TensorFlow 1 is run by these."""
    names = [info.name for signature in graph.signature_def.values() for info in signature.outputs.values()]
    for collection in graph.collection_def.values():
        names += collection.node_list.value
    return _before(nodes, names)


def _before(nodes: Mapping[str, Any], names: Iterable[str]) -> list[Any]:
    """Returns the nodes of these names, `^x` and `x:0` included, and all that they depend on."""
    found: dict[str, Any] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop().lstrip("^").partition(":")[0]
        if name in nodes and name not in found:
            found[name] = nodes[name]
            waiting += nodes[name].input
    return list(found.values())


def _functions(nodes: Iterable[Any]) -> set[str]:
    """Returns the functions that nodes name: in attributes, and as operations."""
    names = set()
    for node in nodes:
        names.add(node.op)
        for value in node.attr.values():
            names |= {value.func.name, *(function.name for function in value.list.func)}
    return names


def _called(roots: Iterable[str], bodies: Mapping[str, Any]) -> set[str]:
    """Returns the functions that are called from others, and these."""
    found: set[str] = set()
    waiting = [name for name in roots if name in bodies]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [inner for inner in _functions(bodies[name]) if inner in bodies]
    return found


def _foreign_tables(graph: Any, nodes: list[Any]) -> Iterator[tuple[str, str, str]]:
    """Yields tables that may be filled from files that are not in the model's folder."""
    assets = list(graph.asset_file_def)
    for asset in assets:
        path = pathlib.PurePosixPath(asset.filename)
        if path.is_absolute() or ".." in path.parts:
            yield f"the asset {asset.filename!r}", "Asset", "read or write files"
    table = next((node.op for node in nodes if node.op in _TABLES), None)
    if table is None:
        return
    if not assets:
        yield "a model without assets", table, "read or write files"
    own = {asset.tensor_info.name.partition(":")[0] for asset in assets}
    for node in nodes:
        if node.op == "Const" and node.name not in own:
            values = node.attr["value"].tensor.string_val
            if len(values) == 1 and _PATH.match(values[0]):
                yield f"beside the path {values[0][:80].decode(errors='replace')!r} it", table, "read or write files"
