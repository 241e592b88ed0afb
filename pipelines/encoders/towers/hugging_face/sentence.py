"""What a sentence-transformers folder puts behind its transformer: pooling, dense layers, unit length."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from pipelines import storage
from pipelines.encoders.towers.hugging_face import weights
from pipelines.encoders.towers.tower import Dense, TextForm
from pipelines.errors import UserError

MODULES = "modules.json"
_POOLS = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}
_ACTIVATIONS = {"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}
_LAYER = {"linear.weight": "kernel", "linear.bias": "bias"}


def transformer_folder(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the transformer in a sentence-transformers folder, which is often the folder itself."""
    if not (folder / MODULES).is_file():
        return folder
    return next(iter(_modules(folder)), ("", folder))[1]


def _modules(folder: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """Returns the type, without its package, and the folder of each module."""
    path = folder / MODULES
    if not path.is_file():
        raise UserError(
            f"{folder}: has no {MODULES}, which says how the vectors of tokens become one; take the folder that "
            "sentence-transformers saves, or convert the model to a SavedModel or ONNX (docs/encoders.md)"
        )
    found = storage.read_json(str(path))
    is_list = isinstance(found, list) and all(isinstance(module, dict) for module in found)
    if not is_list or not all(isinstance(module.get(name), str) for module in found for name in ("type", "path")):
        raise UserError(f"{path}: must be a list of modules, each with a type and a path")
    modules = [
        (m["type"].rpartition(".")[2], storage.inside(str(folder), m["path"]) if m["path"] else str(folder))
        for m in found
    ]
    if not modules or modules[0][0] != "Transformer":
        raise UserError(f"{path}: the first module must be a Transformer")
    return [(kind, pathlib.Path(place)) for kind, place in modules]


def extend(folder: pathlib.Path, form: TextForm) -> TextForm:
    """Returns the form of a transformer with what the folder's modules put behind it.

    Raises:
        UserError: if modules.json is missing, or has a module that is not known here.
    """
    for kind, place in _modules(folder)[1:]:
        if kind == "Pooling" and not form.layers:
            form = dataclasses.replace(form, pool=_pool(place))
        elif kind == "Dense" and not form.is_unit:
            form = dataclasses.replace(form, layers=(*form.layers, _dense(place)))
        elif kind == "Normalize":
            form = dataclasses.replace(form, is_unit=True)
        else:
            raise UserError(
                f"{folder / MODULES}: has a module {kind!r}, which is not known here or not at this place; convert the "
                "model to a SavedModel or ONNX (docs/encoders.md)"
            )
    return form


def _pool(place: pathlib.Path) -> str:
    fields = weights.read_object(place / weights.CONFIG, "how the vectors of tokens become one")
    chosen = [name for name, value in fields.items() if name.startswith("pooling_mode_") and value is True]
    if isinstance(fields.get("pooling_mode"), str):
        # The form of sentence-transformers 5.
        chosen = [f"pooling_mode_{fields['pooling_mode']}_tokens", f"pooling_mode_{fields['pooling_mode']}_token"]
        chosen = [name for name in chosen if name in _POOLS]
    if len(chosen) != 1 or chosen[0] not in _POOLS:
        known = ", ".join(name.removeprefix("pooling_mode_") for name in _POOLS)
        raise UserError(f"{place / weights.CONFIG}: pools by {', '.join(chosen) or 'nothing'}, must be one of {known}")
    return _POOLS[chosen[0]]


def _dense(place: pathlib.Path) -> Dense:
    path = place / weights.CONFIG
    fields = weights.read_object(path, "the widths of a dense layer")
    sides: list[Any] = [fields.get("in_features"), fields.get("out_features")]
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"{path}: 'in_features' and 'out_features' must be whole numbers of 1 or more")
    activation = str(fields.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise UserError(f"{path}: the activation {activation} is not one of {', '.join(_ACTIVATIONS)}")
    return Dense(sides[0], sides[1], fields.get("bias") is not False, _ACTIVATIONS[activation])


def with_layers(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays with those of the folder's dense layers."""
    if not (folder / MODULES).is_file():
        return arrays
    places = [place for kind, place in _modules(folder) if kind == "Dense"]
    for number, place in enumerate(places):
        found = weights.Weights(weights.weight_files(place))
        known = {name: f"layers.{number}.{_LAYER[name]}" for name in found if name in _LAYER}
        layer = found.read(known)
        arrays |= {name: array.T if name.endswith("kernel") else array for name, array in layer.items()}
    return arrays


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the weights of the folder's dense layers."""
    if not (folder / MODULES).is_file():
        return []
    return [file for kind, place in _modules(folder) if kind == "Dense" for file in weights.weight_files(place)]
