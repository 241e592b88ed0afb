"""The files of a Hugging Face folder as untrusted data: JSON objects, and arrays from safetensors."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors

from pipelines import storage
from pipelines.errors import UserError

CONFIG = "config.json"
_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_MAX_JSON_BYTES = 1 << 24
_FLOATS = {"F64", "F32", "F16", "BF16"}


def read_object(path: pathlib.Path, why: str = "") -> dict[str, Any]:
    """Returns the JSON object in a file.

    Args:
        path: of the file.
        why: what it says, for the error if it is missing.

    Raises:
        UserError: if it is missing, too large, or no object.
    """
    if not path.is_file():
        raise UserError(f"{path.parent}: has no {path.name}{', which says ' + why if why else ''}; add it")
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise UserError(f"{path}: has more than {_MAX_JSON_BYTES:,} bytes; it is no {path.name} of a model")
    found = storage.read_json(str(path))
    if not isinstance(found, dict):
        raise UserError(f"{path}: must be a JSON object")
    return found


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the safetensors files of a model, one or those that its index names.

    Raises:
        UserError: if there are none; a pickle is a program and is never loaded.
    """
    if (folder / _ONE).is_file():
        return [folder / _ONE]
    if (folder / _INDEX).is_file():
        names = read_object(folder / _INDEX).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise UserError(f"{folder / _INDEX}: has no 'weight_map' of arrays to files; download it again")
        files = [pathlib.Path(storage.inside(str(folder), name)) for name in sorted(set(names.values()))]
        if missing := [file.name for file in files if not file.is_file()]:
            raise UserError(f"{folder}: has no {missing[0]}, which {_INDEX} names; download it")
        return files
    pickles = [path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))]
    if pickles:
        raise UserError(
            f"{folder}: has {pickles[0]} and no {_ONE}; a pickle is a program and is not loaded. Save the model as "
            "safetensors, in transformers by save_pretrained"
        )
    raise UserError(f"{folder}: has no {_ONE}; add the weights of the model")


class Weights:
    """The arrays of a checkpoint, read one at a time, with a note of those that were."""

    def __init__(self, files: list[pathlib.Path]) -> None:
        """Reads the names.

        Raises:
            UserError: if a file is no safetensors file, or two files have one name.
        """
        self.where = str(files[0].parent)
        self._files: dict[str, pathlib.Path] = {}
        for path in files:
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118
                    if name in self._files:
                        raise UserError(f"{path}: has {name}, as {self._files[name].name} has; download both again")
                    self._files[name] = path

    def __iter__(self) -> Iterator[str]:
        """Yields the names of all arrays."""
        return iter(self._files)

    def read(self, names: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Returns arrays as float32 under other names.

        Args:
            names: ours, by the checkpoint's.

        Raises:
            UserError: if an array is not of floating-point numbers.
        """
        found: dict[str, np.ndarray] = {}
        for path in sorted(set(self._files.values())):
            with _opened(path) as file:
                for name in (name for name in names if self._files[name] == path):
                    kind = file.get_slice(name).get_dtype()
                    if kind not in _FLOATS:
                        raise UserError(
                            f"{path}: {name} is of type {kind}, must be one of {', '.join(sorted(_FLOATS))}"
                        )
                    found[names[name]] = np.asarray(file.get_tensor(name), np.float32)
        return found


def _opened(path: pathlib.Path) -> Any:
    try:
        return safetensors.safe_open(str(path), framework="numpy")
    except Exception as error:
        # The library's own error is no subclass of any other; it checks that all offsets are within the file.
        raise UserError(f"{path}: is no whole safetensors file ({error}); download it again") from error
