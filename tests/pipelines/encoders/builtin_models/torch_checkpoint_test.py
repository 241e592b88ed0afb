"""Checkpoints are hostile data: the right tensors come out, and nothing else ever runs."""

import collections
import os
import pickle
import struct
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.encoders.builtin_models.torch_checkpoint import read_legacy_checkpoint
from pipelines.errors import UserError

_HEADER = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})


def _torch() -> tuple[types.ModuleType, types.ModuleType]:
    """Builds stand-ins for the two PyTorch modules, whose names are all that a pickle holds."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage", "UntypedStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))

    def _rebuild_tensor_v2(*arguments): ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    return torch, utils


_TORCH, _TORCH_UTILS = _torch()


class _Storage:
    def __init__(self, key, values, dtype, class_name):
        self.key, self.array, self.class_name = key, np.asarray(values, dtype), class_name


class _Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return _TORCH_UTILS._rebuild_tensor_v2, self.arguments


def _dump(value, path) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if isinstance(item, _Storage):
                kind = getattr(_TORCH, item.class_name)
                return ("storage", kind, item.key, "cpu", len(item.array), None)
            return None

    with open(path, "ab") as file:
        Pickler(file, protocol=2).dump(value)


def _write(path, state, storages, header=_HEADER) -> bytes:
    """Writes a file as `torch.save(.., _use_new_zipfile_serialization=False)` lays it out."""
    saved = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": _TORCH, "torch._utils": _TORCH_UTILS})
    try:
        for value in (*header, state, [storage.key for storage in storages]):
            _dump(value, path)
    finally:
        for name, module in saved.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})
    with open(path, "ab") as file:
        for storage in storages:
            file.write(struct.pack("<q", len(storage.array)) + storage.array.tobytes())
    return path.read_bytes()


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> bytes:
    weights = _Storage("7", range(12), "<f4", "FloatStorage")
    count = _Storage("3", [41], "<i8", "LongStorage")
    state = collections.OrderedDict(
        kernel=_Tensor(weights, 0, (2, 3), (3, 1)),
        transposed=_Tensor(weights, 6, (2, 3), (1, 2)),
        count=_Tensor(count, 0, (), ()),
        empty=_Tensor(weights, 0, (0, 4), (4, 1)),
    )
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    return _write(tmp_path_factory.mktemp("checkpoint") / "valid.pth", state, [weights, count])


def test_reads_shapes_strides_offsets_and_dtypes(valid):
    tensors = read_legacy_checkpoint(valid, "valid.pth")
    assert list(tensors) == ["kernel", "transposed", "count", "empty"]
    np.testing.assert_array_equal(tensors["kernel"], np.array([[0, 1, 2], [3, 4, 5]], np.float32), strict=True)
    np.testing.assert_array_equal(tensors["transposed"], np.array([[6, 8, 10], [7, 9, 11]], np.float32), strict=True)
    np.testing.assert_array_equal(tensors["count"], np.array(41, np.int64), strict=True)
    assert tensors["empty"].shape == (0, 4)
    assert not any(tensor.flags.writeable for tensor in tensors.values())


class _Command:
    """Unpickles to a call of `os.system`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("part", range(4))
def test_refuses_a_command_in_any_part_and_does_not_run_it(part, tmp_path):
    victim = tmp_path / "victim"
    parts = [*_HEADER, {}]
    parts[part] = {"kernel": _Command(victim)}
    data = _write(tmp_path / "evil.pth", parts[3], [], parts[:3])
    with pytest.raises(UserError, match=r"evil\.pth.*(posix|nt)\.system, which is refused"):
        read_legacy_checkpoint(data, "evil.pth")
    assert not victim.exists()


@given(st.data())
def test_refuses_a_file_cut_anywhere(valid, data):
    length = data.draw(st.integers(0, len(valid) - 1))
    with pytest.raises(UserError, match="refused as a PyTorch checkpoint"):
        read_legacy_checkpoint(valid[:length], "cut.pth")


@given(st.data())
def test_damage_is_refused_or_changes_values_only(valid, data):
    damaged = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(valid) - 1))] = data.draw(st.integers(0, 255))
    try:
        tensors = read_legacy_checkpoint(bytes(damaged), "damaged.pth")
    except UserError:
        return
    assert all(tensor.size * tensor.itemsize <= len(valid) for tensor in tensors.values())


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "message"),
    [
        (0, (5,), (1,), "past the end"),
        (1, (4,), (1,), "past the end"),
        (0, (2, 2), (3, 1), "past the end"),
        (0, (1 << 40,), (0,), "past the end"),
        (0, (2, 2), (1,), "strides"),
        (0, (-1,), (1,), "malformed"),
        (3, (2,), (-1,), "malformed"),
        (0, (2.0,), (1,), "malformed"),
    ],
)
def test_refuses_a_tensor_that_does_not_fit_its_storage(offset, shape, strides, message, tmp_path):
    storage = _Storage("0", range(4), "<f4", "FloatStorage")
    data = _write(tmp_path / "a.pth", {"kernel": _Tensor(storage, offset, shape, strides)}, [storage])
    with pytest.raises(UserError, match=message):
        read_legacy_checkpoint(data, "a.pth")


def test_refuses_a_storage_of_unknown_type(tmp_path):
    storage = _Storage("0", range(4), "<f4", "UntypedStorage")
    data = _write(tmp_path / "a.pth", {"kernel": _Tensor(storage, 0, (4,), (1,))}, [storage])
    with pytest.raises(UserError, match=r"torch\.UntypedStorage, which is refused"):
        read_legacy_checkpoint(data, "a.pth")


def test_refuses_a_memo_index_that_would_claim_gigabytes():
    bomb = b"\x80\x02}r\xff\xff\xff\x7f."
    with pytest.raises(UserError, match="memo index 2147483647"):
        read_legacy_checkpoint(bomb, "bomb.pth")


@pytest.mark.parametrize("name", [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n"])
def test_refuses_to_change_what_it_calls(name):
    set_attribute = b"\x80\x02" + name + b"N}U\x04evilK\x01s\x86b."
    with pytest.raises(UserError, match="evil"):
        read_legacy_checkpoint(set_attribute, "evil.pth")


def test_refuses_what_is_not_a_state_dict(tmp_path):
    data = _write(tmp_path / "a.pth", {"kernel": "text"}, [])
    with pytest.raises(UserError, match="other than a flat dict of named tensors"):
        read_legacy_checkpoint(data, "a.pth")
