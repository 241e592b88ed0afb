"""Towers of `.npz` files that Flax models were saved to: augreg's ViT, big_vision's, and both towers of SigLIP 1 and 2.

Such a file has no config: depth, widths, heads and pooling are those that the shapes of its arrays tell.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from pipelines.encoders.towers.npz_files import npz
from pipelines.encoders.towers.tower import Blocks, Dense, ImageForm, TextForm, Tower
from pipelines.errors import UserError

# Where a tower may be: plain parameters, in a train state, in a two-tower model, in both.
_ROOTS = {
    "image": ("", "params/", "img/", "params/img/", "opt/target/", "opt/target/img/"),
    "text": ("txt/", "params/txt/", "opt/target/txt/"),
}
_MARKS = {"image": "embedding/kernel", "text": "Embed_0/embedding"}
_CLASSIFIER = "head/"
BLOCK = {
    "norm1": "LayerNorm_0",
    "norm2": "LayerNorm_1",
    "attention": "MultiHeadDotProductAttention_0",
    "mlp.in": "MlpBlock_0/Dense_0",
    "mlp.out": "MlpBlock_0/Dense_1",
}
"""Names within a block, by ours."""
# Those of augreg and the first ViTs, which were numbered together.
_OLD_BLOCK = {
    "norm1": "LayerNorm_0",
    "norm2": "LayerNorm_2",
    "attention": "MultiHeadDotProductAttention_1",
    "mlp.in": "MlpBlock_3/Dense_0",
    "mlp.out": "MlpBlock_3/Dense_1",
}
_POSITIONS = ("pos_embedding", "Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding")
_IMAGE = {
    "patch": "embedding",
    "class": "cls",
    "last_norm": "Transformer/encoder_norm",
    "pool.probe": "MAPHead_0/probe",
    **{f"pool.{ours}": f"MAPHead_0/{theirs}" for ours, theirs in BLOCK.items() if ours != "norm1"},
    # The head has one norm only.
    "pool.norm": "MAPHead_0/LayerNorm_0",
    "layers.0": "pre_logits",
}
_TEXT = {
    "tokens": "Embed_0/embedding",
    "positions": "pos_embedding",
    "last_norm": "Encoder_0/encoder_norm",
    "layers.0": "head",
}
_SECOND_POSITIONS = "Encoder_0/pos_embedding"
_MAX_DEPTH = 256


def translated(ours: str, names: Mapping[str, str], joint: str) -> str:
    """Returns the name for ours: that of the longest place that is known, and what is behind it."""
    parts = ours.split(".")
    for count in range(len(parts), 0, -1):
        if (place := ".".join(parts[:count])) in names:
            return joint.join([names[place], *parts[count:]])
    return ours


@dataclasses.dataclass(frozen=True)
class FlaxNames:
    """How a Flax checkpoint names the arrays of a tower.

    Attributes:
        root: what all names begin with.
        within: names within a block, by ours.
        outside: all others, by ours.
        place: of the blocks, below the root.
        is_stacked: whether each array has a leading axis of all blocks.
    """

    root: str
    within: Mapping[str, str]
    outside: Mapping[str, str]
    place: str
    is_stacked: bool = False

    def name(self, ours: str) -> str:
        """Returns the checkpoint's name of an array."""
        if found := re.fullmatch(r"blocks\.(\d+)\.(.+)", ours):
            number = "" if self.is_stacked else f"_{found[1]}"
            return f"{self.root}{self.place}encoderblock{number}/{translated(found[2], self.within, '/')}"
        return self.root + translated(ours, self.outside, "/")

    def part(self, blocks: Blocks, ours: str, array: np.ndarray) -> np.ndarray:
        """Returns our array of the checkpoint's; one of an unforeseen shape is returned as it is."""
        if self.is_stacked and (found := re.match(r"blocks\.(\d+)\.", ours)):
            if not array.ndim or len(array) != blocks.depth:
                return array
            array = array[int(found[1])]
        heads = (blocks.heads, blocks.key_width)
        if re.search(r"attention\.(query|key|value)\.", ours) and array.shape[-2:] == heads:
            return array.reshape(*array.shape[:-2], -1)
        if ours.endswith("attention.out.kernel") and array.shape[:2] == heads:
            return array.reshape(-1, *array.shape[2:])
        if ours in ("class", "pool.probe") and array.shape[:-1] == (1, 1):
            return array[0, 0]
        return array[0] if ours == "positions" and array.ndim == 3 and len(array) == 1 else array

    def blocks(self, path: str, arrays: Mapping[str, np.ndarray], activation: str, gated: bool = False) -> Blocks:
        """Returns the blocks that the shapes tell.

        Raises:
            UserError: if there are none or too many, or the first of them is odd.
        """
        stack = ("L ", 1) if self.is_stacked else ("", 0)
        query = self.name("blocks.0.attention.query.kernel")
        shape = npz.shape(path, arrays, query, f"{stack[0]}D H D/H")
        width, heads, key_width = shape[stack[1] :]
        hidden = npz.shape(path, arrays, self.name("blocks.0.mlp.in.kernel"), f"{stack[0]}D M")[-1]
        depth = (
            shape[0] if self.is_stacked else count_blocks(arrays, rf"{self.root}{self.place}encoderblock_(\d{{1,9}})/")
        )
        if depth > _MAX_DEPTH:
            raise UserError(f"{path}: has {depth} blocks, the most are {_MAX_DEPTH}; take the checkpoint of a ViT")
        return Blocks(depth, width, heads, hidden, activation, 1e-6, head_width=key_width, gated=gated)


NAMES = FlaxNames("", BLOCK, {**_IMAGE, "positions": _POSITIONS[0]}, "Transformer/")
"""Names of an image tower in today's big_vision, those of the parameters of `models/vit.py`."""


def count_blocks(names: Iterable[str], pattern: str) -> int:
    """Returns the number of blocks whose numbers a pattern finds in names, counted to the highest."""
    return max((int(found[1]) + 1 for name in names if (found := re.match(pattern, name))), default=0)


def square_side(path: str, name: str, count: int) -> int:
    """Returns the side of a square of `count` patches; a `UserError` names the array if they make none."""
    side = math.isqrt(count)
    if not side or side * side != count:
        raise UserError(f"{path}: {name} has {count} places, which make no square of patches (with or without cls)")
    return side


def read_form(path: str, kind: str, size: int | None = None) -> ImageForm | TextForm:
    """Returns the form of a tower; reads only the headers of its arrays.

    Args:
        path: `.npz`, local, `gs://` or `s3://`.
        kind: `image` or `text`.
        size: side of the images in pixels, which must give the grid of the checkpoint; by default the grid's own.

    Raises:
        UserError: if the file does not exist, is broken or hostile, or has no such tower.
    """
    return _read(path, kind, size, False).form


def has_both(path: str) -> bool:
    """Tells whether a file has towers of images and of texts, whose vectors share a space; reads no array."""
    with npz.opened(path, "a checkpoint") as archive:
        names = npz.members(archive).keys()
    return all(any(root + _MARKS[kind] in names for root in _ROOTS[kind]) for kind in _ROOTS)


def read(path: str, kind: str, size: int | None = None) -> Tower:
    """Returns a tower with its weights; the arguments and errors are those of `read_form`."""
    return _read(path, kind, size, True)


def _read(path: str, kind: str, size: int | None, is_whole: bool) -> Tower:
    arrays = npz.read(path, functools.partial(_chosen, path, kind), is_whole)
    root = _root(path, kind, arrays)
    return _image(path, root, arrays, size) if kind == "image" else _text(path, root, arrays)


def _root(path: str, kind: str, names: Collection[str]) -> str:
    found = [root for root in _ROOTS[kind] if root + _MARKS[kind] in names]
    if len(found) != 1:
        places = ", ".join(root or "the top" for root in _ROOTS[kind])
        raise UserError(
            f"{path}: must have one array {_MARKS[kind]} below one of {places}, has {len(found)}; take a checkpoint of "
            + ("augreg, big_vision or SigLIP" if kind == "image" else "SigLIP with both towers")
        )
    return found[0]


def _chosen(path: str, kind: str, names: set[str]) -> list[str]:
    root = _root(path, kind, names)
    if kind == "image":
        return [name for name in names if name.startswith(root) and not name.startswith(root + _CLASSIFIER)]
    # What other two-tower models pool, and project images by, is not in the file.
    images = root.removesuffix("txt/") + "img/"
    if f"{images}MAPHead_0/probe" not in names or any(name.startswith(images + _CLASSIFIER) for name in names):
        raise UserError(
            f"{path}: its image tower has no MAPHead_0, or a head, so it is no SigLIP, and how its texts are pooled is "
            "unknown; convert the text tower to a SavedModel or ONNX (docs/encoders.md)"
        )
    return [name for name in names if name.startswith(root)]


def _image(path: str, root: str, arrays: npz.Arrays, size: int | None) -> Tower:
    is_old = any("/MultiHeadDotProductAttention_1/" in name for name in arrays)
    places = [name for name in _POSITIONS if root + name in arrays] or [_POSITIONS[0]]
    names = FlaxNames(
        root,
        _OLD_BLOCK if is_old else BLOCK,
        {**_IMAGE, "positions": places[0]},
        "Transformer/",
        _is_stacked(arrays, f"{root}Transformer/"),
    )
    blocks = names.blocks(path, arrays, "gelu_tanh")
    has_probe = f"{root}MAPHead_0/probe" in arrays
    has_class = f"{root}cls" in arrays and not has_probe
    patch = npz.shape(path, arrays, names.name("patch.kernel"), "P P 3 D")[0]
    count = npz.shape(path, arrays, names.name("positions"), "1 N D")[1]
    is_apart = has_class and math.isqrt(count) ** 2 == count
    grid = square_side(path, names.name("positions"), count - (has_class and not is_apart))
    layer = Dense(blocks.width, blocks.width, True, "tanh")
    form = ImageForm(
        blocks,
        _size(path, patch, grid, size),
        patch,
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        has_class=has_class,
        is_mean=not has_class and not has_probe,
        layers=(layer,) if f"{root}pre_logits/kernel" in arrays else (),
    )

    def part(ours: str, array: np.ndarray) -> np.ndarray:
        found = names.part(blocks, ours, array)
        return behind_class(found) if ours == "positions" and is_apart else found

    return npz.tower(path, form, arrays, names.name, part)


def behind_class(positions: np.ndarray) -> np.ndarray:
    """Returns positions `[N, C]` with one of zeros, for a class token that has none, before them."""
    return np.concatenate([np.zeros_like(positions[:1]), positions])


def _size(path: str, patch: int, grid: int, size: int | None) -> int:
    own = grid * patch
    # SigLIP's So400m/14 was trained on 384 pixels, of which its 27 x 27 patches cover 378.
    if size is not None and size // patch != grid:
        raise UserError(f"{path}: an input of {size} pixels does not fit this ViT; take {own} to {own + patch - 1}")
    return own if size is None else size


def _is_stacked(arrays: Iterable[str], place: str) -> bool:
    return any(name.startswith(f"{place}encoderblock/") for name in arrays)


def _text(path: str, root: str, arrays: npz.Arrays) -> Tower:
    names = FlaxNames(root, BLOCK, _TEXT, "Encoder_0/", _is_stacked(arrays, f"{root}Encoder_0/"))
    blocks = names.blocks(path, arrays, "gelu_tanh")
    arrays = _with_second_positions(path, root, arrays)
    length = npz.shape(path, arrays, names.name("positions"), "1 N D")[1]
    head = names.name("layers.0.kernel")
    layers: tuple[Dense, ...] = ()
    if head in arrays:
        width = npz.shape(path, arrays, head, "D C")[1]
        layers = (Dense(blocks.width, width, names.name("layers.0.bias") in arrays),)
    form = TextForm(
        blocks,
        tokens=npz.shape(path, arrays, names.name("tokens"), "V D")[0],
        pool="last",
        positions=length,
        length=length,
        is_masked=False,
        layers=layers,
    )
    return npz.tower(path, form, arrays, names.name, functools.partial(names.part, blocks))


def _with_second_positions(path: str, root: str, arrays: npz.Arrays) -> npz.Arrays:
    """Returns arrays with the second positions of old checkpoints added to the first."""
    first, second = f"{root}pos_embedding", f"{root}{_SECOND_POSITIONS}"
    if first not in arrays or second not in arrays:
        return arrays
    if arrays[first].shape != arrays[second].shape:
        raise UserError(
            f"{path}: {second}, which is added to {first}, is {list(arrays[second].shape)}, must be "
            f"{list(arrays[first].shape)}; fetch the file again"
        )
    rest = {name: array for name, array in arrays.items() if name != second}
    return {**rest, first: arrays[first] + arrays[second]}
