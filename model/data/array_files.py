"""Trees of arrays as safetensors files: parameters of heads, and what heads prepare. No file is ever unpickled.

A leaf is named by its way through the tree, `head/classifier/kernel`.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from pipelines import storage
from pipelines.errors import UserError, one_line

_BETWEEN = "/"
_METADATA = "web_memory"


def write(path: str, tree: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """Writes a tree, whole or not at all, and returns the SHA-256 of the file; equal trees give equal bytes.

    Args:
        path: of the file.
        tree: arrays in dicts and NamedTuples, whose names have no `/`.
        metadata: kept in the file's header, as JSON in its entry `web_memory`.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in sorted(_leaves(tree, ""))}
    # The library writes several entries in any order.
    header = {_METADATA: json.dumps(dict(metadata), sort_keys=True)}
    with storage.atomic_write(path) as file:
        file.write(safetensors.numpy.save(arrays, header))
    return storage.sha256(path)


def read(path: str, sha256: str, remedy: str) -> dict[str, Any]:
    """Returns the tree of a file as nested dicts of arrays.

    Args:
        path: of the file.
        sha256: that it must have.
        remedy: what to do if it is missing or damaged, the end of the error's sentence.

    Raises:
        UserError: if it is missing, damaged, or no file of arrays.
    """
    storage.check_sha256(path, sha256, remedy)
    with storage.open_read(path) as file:
        data = file.read()
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path}: is no file of arrays ({one_line(error)}); {remedy}") from error
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *way, last = name.split(_BETWEEN)
        place = tree
        for step in way:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise UserError(f"{path}: {name!r} is below an array; {remedy}")
        if last in place:
            raise UserError(f"{path}: {name!r} is an array and a folder; {remedy}")
        place[last] = array
    return tree


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    fields = tree._asdict() if hasattr(tree, "_asdict") else tree
    if not isinstance(fields, Mapping):
        yield name, fields
        return
    for part, below in fields.items():
        yield from _leaves(below, f"{name}{_BETWEEN}{part}" if name else part)
