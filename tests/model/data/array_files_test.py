"""Files of arrays: trees come back with their bits; what is damaged or no such file is refused."""

import hashlib
import json
from typing import NamedTuple

import numpy as np
import pytest

from model.data import array_files
from pipelines.errors import UserError


class _Pair(NamedTuple):
    first: np.ndarray
    second: dict[str, np.ndarray]


def _tree():
    rng = np.random.default_rng(0)
    return {"b": _Pair(rng.normal(size=(3, 2)).astype(np.float32), {"x": np.float32(7)}), "a": np.arange(3)}


def test_trees_come_back(tmp_path):
    path = str(tmp_path / "x.safetensors")
    sha256 = array_files.write(path, _tree(), {"head": "mam"})
    found = array_files.read(path, sha256, "again")
    np.testing.assert_array_equal(found["b"]["first"], _tree()["b"].first)
    assert found["b"]["second"]["x"].shape == () and found["b"]["second"]["x"] == 7
    np.testing.assert_array_equal(found["a"], [0, 1, 2])


def test_equal_trees_give_equal_bytes_whatever_is_said_of_them(tmp_path):
    path, said = str(tmp_path / "x.safetensors"), {name: name * 3 for name in "abcdefgh"}
    turned = dict(reversed(said.items()))
    assert len({array_files.write(path, _tree(), metadata) for metadata in [said, turned] * 10}) == 1


def test_files_are_checked(tmp_path):
    path = tmp_path / "x.safetensors"
    sha256 = array_files.write(str(path), _tree(), {})
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"is damaged.*train again"):
        array_files.read(str(path), sha256, "train again")


def _named(*names: str) -> bytes:
    header = {n: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, n in enumerate(names)}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(4 * len(names))


@pytest.mark.parametrize("data", [b"", b"no arrays", b"\xff" * 40, _named("a", "a/b"), _named("a/b", "a")])
def test_what_is_no_file_of_arrays_is_refused(tmp_path, data):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match="train again"):
        array_files.read(str(path), hashlib.sha256(data).hexdigest(), "train again")
