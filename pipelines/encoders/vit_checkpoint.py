"""Reads big_vision, augreg and SigLIP checkpoints (`.npz`) into a `vit.Vit`.

It renames the arrays of older checkpoints and infers the config from shapes. The parameters of `Vit` have the names of
big_vision's `models/vit.py`, so a renamed checkpoint is a parameter tree. `vit` has the graph; `npz` bounds what is
read.
"""

import math
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from pipelines.encoders.towers.npz_files import npz
from pipelines.encoders.vit import Params, Vit, VitConfig
from pipelines.errors import UserError

# Where the image tower may be: plain parameters, in a train state, in a two-tower model (SigLIP, LiT), in both.
_ROOTS = ("", "params/", "img/", "params/img/", "opt/target/", "opt/target/img/")
# How augreg and the first ViTs, written before Flax linen, name what has another name in big_vision now.
_OLD_NAMES = (
    (r"Transformer/(posembed_input/)?pos_embedding", "pos_embedding"),
    (r"(Transformer/encoderblock\w*)/MultiHeadDotProductAttention_1/(.+)", r"\1/MultiHeadDotProductAttention_0/\2"),
    (r"(Transformer/encoderblock\w*)/LayerNorm_2/(.+)", r"\1/LayerNorm_1/\2"),
    (r"(Transformer/encoderblock\w*)/MlpBlock_3/(.+)", r"\1/MlpBlock_0/\2"),
)
_CLASSIFIER = "head/"
_STACKED_BLOCK = "Transformer/encoderblock/"
_MAX_DEPTH = 256


def _find_tower(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Returns the members of the image tower, by their names below its root; a `ValueError` if they are too large."""
    members = npz.members(archive)
    roots = [root for root in _ROOTS if f"{root}embedding/kernel" in members]
    if len(roots) != 1:
        raise ValueError(f"it must have one array embedding/kernel below one of {', '.join(_ROOTS[1:])} or the top")
    tower = {
        name.removeprefix(roots[0]): info
        for name, info in members.items()
        if name.startswith(roots[0]) and not name.startswith(roots[0] + _CLASSIFIER)
    }
    npz.check_size(tower.values())
    return tower


def _rename(name: str) -> str:
    for old, new in _OLD_NAMES:
        if re.fullmatch(old, name):
            return re.sub(old, new, name)
    return name


def modernise(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts the arrays of an image tower to the names and shapes of today's big_vision, and so of `Vit`.

    Old names are renamed, blocks that `nn.scan` stacked along a leading axis are split, and the part of a position
    embedding that belongs to the class token is added to the token.

    Raises:
        UserError: if two arrays have the same meaning, or stacked blocks have no rows or too many.
    """
    found: dict[str, np.ndarray] = {}
    for old, array in arrays.items():
        name = _rename(old)
        if not name.startswith(_STACKED_BLOCK):
            parts = {name: array}
        elif array.ndim and 0 < len(array) <= _MAX_DEPTH:
            rest = name.removeprefix(_STACKED_BLOCK)
            parts = {f"Transformer/encoderblock_{index}/{rest}": part for index, part in enumerate(array)}
        else:
            raise UserError(f"{old} is {list(array.shape)}, must have one row for each of 1 to {_MAX_DEPTH} blocks")
        if both := sorted(found.keys() & parts):
            raise UserError(f"{old} and another array both mean {both[0]}; remove one of them")
        found |= parts
    cls, positions = found.get("cls"), found.get("pos_embedding")
    if cls is not None and positions is not None and positions.ndim == 3 and _square_side(positions.shape[1]) is None:
        if cls.shape == positions[:, :1].shape:
            found["cls"], found["pos_embedding"] = cls + positions[:, :1], positions[:, 1:]
    return found


def _square_side(count: int) -> int | None:
    root = math.isqrt(count)
    return root if root and root * root == count else None


def _shape(arrays: Mapping[str, Any], name: str, form: str) -> tuple[int, ...]:
    """Returns the shape of an array, whose axes `form` names: `P P 3 D`."""
    if name not in arrays:
        raise UserError(f"has no array {name}")
    if len(arrays[name].shape) != len(form.split()) or 0 in arrays[name].shape:
        raise UserError(f"{name} is {list(arrays[name].shape)}, must be [{form}]")
    return arrays[name].shape


def infer(arrays: Mapping[str, Any]) -> VitConfig:
    """Infers the config from the shapes of the arrays that `modernise` returned, and checks all of them.

    Raises:
        UserError: if an array is missing, does not fit the others, or is not one of a ViT.
    """
    block = "Transformer/encoderblock_0"
    patch, _, _, width = _shape(arrays, "embedding/kernel", "P P 3 D")
    _, count, _ = _shape(arrays, "pos_embedding", "1 N D")
    _, heads, head_dim = _shape(arrays, f"{block}/MultiHeadDotProductAttention_0/query/kernel", "D H D/H")
    if heads * head_dim != width:
        raise UserError(f"{block}/MultiHeadDotProductAttention_0/query/kernel: {heads} x {head_dim} is not {width}")
    _, mlp_dim = _shape(arrays, f"{block}/MlpBlock_0/Dense_0/kernel", "D M")
    if (grid := _square_side(count)) is None:
        raise UserError(f"pos_embedding has {count} places, which make no square of patches (with or without cls)")
    numbers = {int(found[1]) for name in arrays if (found := re.match(r"Transformer/encoderblock_(\d{1,4})/", name))}
    if len(numbers) > _MAX_DEPTH or (depth := max(numbers) + 1) != len(numbers):
        raise UserError(f"the blocks {block} and following are not numbered one by one, up to {_MAX_DEPTH}")
    pool = "map" if "MAPHead_0/probe" in arrays else "cls" if "cls" in arrays else "gap"
    config = VitConfig(patch, width, depth, heads, mlp_dim, grid, pool, "pre_logits/kernel" in arrays)
    _check_shapes(arrays, _shapes(config))
    return config


def _check_shapes(arrays: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    for name in sorted(expected.keys() | arrays.keys()):
        if name not in arrays:
            raise UserError(f"has no array {name}, which its other arrays need")
        if name not in expected:
            raise UserError(f"has an array {name}, which this ViT has no place for")
        if tuple(arrays[name].shape) != expected[name]:
            raise UserError(f"{name} is {list(arrays[name].shape)}, must be {list(expected[name])}")


def _shapes(config: VitConfig) -> dict[str, tuple[int, ...]]:
    images = jax.ShapeDtypeStruct((1, *[config.patch * config.grid] * 2, 3), jnp.float32)
    params = jax.eval_shape(Vit(config).init, jax.random.key(0), images)["params"]
    return {name: leaf.shape for name, leaf in flax.traverse_util.flatten_dict(params, sep="/").items()}


def _read(
    path: str, read: Callable[[zipfile.ZipFile, zipfile.ZipInfo], np.ndarray]
) -> tuple[VitConfig, dict[str, np.ndarray]]:
    with npz.opened(path, "a ViT checkpoint") as archive:
        try:
            arrays = modernise({name: read(archive, info) for name, info in _find_tower(archive).items()})
            return infer(arrays), arrays
        except UserError as error:
            raise UserError(f"{path}: {error}; take a ViT checkpoint of augreg, big_vision or SigLIP") from error


def read_config(path: str) -> VitConfig:
    """Returns the config of a checkpoint; reads only the headers of its arrays. Errors as `load`."""
    return _read(path, npz.read_shape)[0]


def load(path: str, dtype: Any = jnp.float32) -> tuple[Vit, Params]:
    """Loads a checkpoint: augreg, big_vision (also in `params/` and with stacked blocks), or SigLIP's image tower.

    The classifier (`head`) is not read; a `pre_logits` layer is part of the model.

    Args:
        path: `.npz`, local, `gs://` or `s3://`. At most 16 GiB of float32, float16 or bfloat16 arrays are read, and
            no pickles.
        dtype: of the matrix products; see `Vit`.

    Returns:
        The module and its parameters, NumPy float32.

    Raises:
        UserError: if the file does not exist, is broken or hostile, or is not such a checkpoint.
    """
    config, arrays = _read(path, npz.read_array)
    return Vit(config, dtype), flax.traverse_util.unflatten_dict(arrays, sep="/")
