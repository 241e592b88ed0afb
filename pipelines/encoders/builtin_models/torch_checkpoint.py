"""Reads weights from a PyTorch checkpoint as hostile data, without PyTorch.

It parses the legacy (before 1.6) `torch.save` format: four pickles, then the raw storages. A pickle is a program, so
this module runs only the few callables that rebuild plain tensors, and never imports anything that a file names.
Callers verify checksums and interpret the tensors.
"""

import collections
import io
import math
import pickle
import pickletools
from typing import Any, NamedTuple

import numpy as np

from pipelines.errors import UserError

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _StorageType(NamedTuple):
    """Stands for a `torch.*Storage` class: says how wide its elements are."""

    dtype: str


class _Storage(NamedTuple):
    """A storage that a tensor points to; its bytes follow the pickles."""

    key: str
    dtype: str
    size: int


class _Tensor(NamedTuple):
    """A tensor whose storage has not been read yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _RebuildTensor:
    """Stands in for `torch._utils._rebuild_tensor_v2`, and checks its arguments.

    An object without attributes instead of a function, whose attributes a pickle could set.
    """

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        if not isinstance(storage, _Storage) or not all(
            isinstance(value, tuple) and all(type(item) is int and item >= 0 for item in value)
            for value in ((offset,), shape, strides)
        ):
            raise pickle.UnpicklingError("a tensor has a malformed storage, offset, shape or stride")
        return _Tensor(storage, offset, shape, strides)


class _NewDict:
    """Stands in for `collections.OrderedDict`; only makes empty ones.

    Without this, a short file could copy a large dict many times.
    """

    __slots__ = ()

    def __call__(self) -> collections.OrderedDict[Any, Any]:
        return collections.OrderedDict()


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _NewDict(),
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGE_DTYPES.items()},
}


class _RestrictedUnpickler(pickle.Unpickler):
    """Resolves the names in `_ALLOWED` to stand-ins and refuses every other."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is refused") from None

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _StorageType(dtype), str(key), str(), int(size), None) if size >= 0:
                return _Storage(key, dtype, size)
        raise pickle.UnpicklingError("a storage reference is malformed or is a view")


def _unpickle(stream: io.BytesIO) -> Any:
    """Loads one pickle from `stream`, which is left at the byte after it."""
    start = stream.tell()
    limit = len(stream.getbuffer())
    # The unpickler sizes its memo by the largest index in a file, so a few bytes could claim tens of GB: check first.
    for opcode, argument, _ in pickletools.genops(stream):
        if "PUT" in opcode.name and isinstance(argument, int) and argument > limit:
            raise pickle.UnpicklingError(f"memo index {argument} is larger than the file")
    stream.seek(start)
    return _RestrictedUnpickler(stream).load()


def _read_storages(stream: io.BytesIO, storages: dict[str, _Storage]) -> dict[str, np.ndarray]:
    """Reads the raw storages after the pickles, in the order of the file's list of keys."""
    keys = _unpickle(stream)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise ValueError("the list of storages does not match the tensors")
    arrays = {}
    for key in keys:
        storage = storages[key]
        size = int.from_bytes(stream.read(8), "little", signed=True)
        if size != storage.size:
            raise ValueError(f"storage {key} has {size} elements where {storage.size} are named")
        n_bytes = size * np.dtype(storage.dtype).itemsize
        data = stream.read(n_bytes)
        if len(data) != n_bytes:
            raise ValueError(f"storage {key} ends after {len(data)} of {n_bytes} bytes")
        arrays[key] = np.frombuffer(data, storage.dtype)
    return arrays


def _materialise(name: str, tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """Returns one tensor as a strided view into its storage, after checking that it fits."""
    if len(tensor.shape) != len(tensor.strides):
        raise ValueError(f"tensor {name} has {len(tensor.shape)} axes but not as many strides")
    size = math.prod(tensor.shape)
    reach = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides, strict=True))
    # A zero stride could make a huge tensor of one element, so the size is bounded as well.
    if size and (size > len(storage) or tensor.offset + reach >= len(storage)):
        raise ValueError(f"tensor {name} reaches past the end of its storage")
    return np.lib.stride_tricks.as_strided(
        storage[tensor.offset if size else 0 :],
        tensor.shape,
        [stride * storage.itemsize for stride in tensor.strides],
        writeable=False,
    )


def _parse(data: bytes) -> dict[str, np.ndarray]:
    stream = io.BytesIO(data)
    if _unpickle(stream) != _MAGIC_NUMBER or _unpickle(stream) != _PROTOCOL_VERSION:
        raise ValueError("it does not start like a legacy checkpoint")
    system = _unpickle(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it was not written on a little-endian machine")
    tensors = _unpickle(stream)
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in tensors.items()
    ):
        raise ValueError("it holds something other than a flat dict of named tensors")
    storages: dict[str, _Storage] = {}
    for tensor in tensors.values():
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise ValueError(f"storage {tensor.storage.key} is described in two ways")
    arrays = _read_storages(stream, storages)
    return {name: _materialise(name, tensor, arrays[tensor.storage.key]) for name, tensor in tensors.items()}


def read_legacy_checkpoint(data: bytes, source: str) -> dict[str, np.ndarray]:
    """Reads the tensors of a legacy PyTorch state dict; runs nothing that the file names.

    Args:
        data: the whole file. Memory use is bounded by a small multiple of its length.
        source: what to call the file in an error.

    Returns:
        Read-only arrays by tensor name, in the file's order, with the dtypes of their storages.

    Raises:
        UserError: the file is truncated, malformed, in another format or names a callable other
            than those that rebuild tensors.
    """
    try:
        return _parse(data)
    # A hostile pickle can raise anything: stack underflows, unhashable keys, bad UTF-8.
    except Exception as error:
        raise UserError(
            f"{source} was refused as a PyTorch checkpoint: {error or type(error).__name__}; "
            "fetch the file again from a source you trust."
        ) from error
