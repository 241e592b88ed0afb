"""Towers of TIPSv2, whose image and text towers are a `.npz` each: those of its PyTorch and of its Scenic models.

Both have the same towers under other names. What they compute differs as their published code does: PyTorch's image
MLPs have the exact GELU and its text norms an epsilon of 1e-5, Scenic's the tanh form and 1e-6.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping

import numpy as np

from pipelines.encoders.towers.npz_files import npz
from pipelines.encoders.towers.npz_files.big_vision import (
    BLOCK,
    FlaxNames,
    behind_class,
    count_blocks,
    square_side,
    translated,
)
from pipelines.encoders.towers.tower import Blocks, ImageForm, TextForm, Tower
from pipelines.errors import UserError

# PyTorch's arrays do not tell the heads: B, L, So400m and g, by width.
HEADS = {768: 12, 1024: 16, 1152: 16, 1536: 24}
"""Attention heads of the published models, by width."""
_LENGTH = 64
# How the files of both towers of one model are called.
_ENDS = {"image": "_vision.npz", "text": "_text.npz"}
# The first TIPS has positions of 16 x 16, which Scenic's code resizes to the images of a model's training.
_FIRST_GRID = 16
_TORCH_IMAGE = {
    "patch": "patch_embed.proj",
    "class": "cls_token",
    "registers": "register_tokens",
    "positions": "pos_embed",
    "last_norm": "norm",
}
_TORCH_IMAGE_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    **{f"attention.{part}": "attn.qkv" for part in ("query", "key", "value")},
    "attention.out": "attn.proj",
    "scale1": "ls1.gamma",
    "scale2": "ls2.gamma",
}
_MLP = {"mlp.in": "mlp.fc1", "mlp.out": "mlp.fc2"}
_GATED_MLP = {"mlp.gate": "mlp.w12", "mlp.in": "mlp.w12", "mlp.out": "mlp.w3"}
_TORCH_TEXT = {"tokens": "token_embedding.weight", "last_norm": "ln_final"}
_TORCH_TEXT_BLOCK = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    **{f"attention.{part}": "attn.in_proj" for part in ("query", "key", "value")},
    "attention.out": "attn.out_proj",
    "mlp.in": "mlp.c_fc",
    "mlp.out": "mlp.c_proj",
}
_SCENIC_IMAGE = {
    "patch": "ToTokenSequence_0/embedding",
    # Both tokens are in one array.
    "class": "ToTokenSequence_0/cls",
    "registers": "ToTokenSequence_0/cls",
    "positions": "ToTokenSequence_0/posembed_input",
    "last_norm": "encoder_norm",
}
_SCENIC_GATED = {
    "mlp.gate": "FFNSwiGluFused_0/Dense_0",
    "mlp.in": "FFNSwiGluFused_0/Dense_1",
    "mlp.out": "FFNSwiGluFused_0/Dense_2",
}
_SCENIC_TEXT = {"tokens": "token_emb/emb_var", "last_norm": "text_encoder_norm"}
# The temperature is for probabilities only, the mask token for training.
_OTHERS = {"mask_token", "temperature", "temperature_contrastive"}


def is_tips(path: str) -> bool:
    """Returns whether a `.npz` has the names of a TIPS tower; reads no array."""
    with npz.opened(path, "a checkpoint") as archive:
        return not npz.members(archive).keys().isdisjoint(mark for mark, _, _ in _READERS)


def pair(name: str) -> dict[str, str]:
    """Returns the names of both files of a model by kind, from the name of one; empty if it is called otherwise."""
    models = {name.removesuffix(end) for end in _ENDS.values() if name.endswith(end)}
    return {kind: model + end for model in models for kind, end in _ENDS.items()}


def other(path: pathlib.Path, kind: str) -> pathlib.Path | None:
    """Returns the file beside `MODEL_vision.npz` or `MODEL_text.npz` that has the model's other tower.

    Args:
        path: of a tower of TIPSv2.
        kind: of this tower, `image` or `text`.

    Returns:
        The path, or None if the files are called otherwise or there is no such file.

    Raises:
        UserError: if one of the files is broken, or they are towers of two models.
    """
    (other_kind,) = _ENDS.keys() - {kind}
    names = pair(path.name)
    if names.get(kind) != path.name or not path.with_name(names[other_kind]).is_file():
        return None
    found = path.with_name(names[other_kind])
    widths = read_form(str(path), kind).vector_width, read_form(str(found), other_kind).vector_width
    if len(set(widths)) > 1:
        raise UserError(
            f"{found}: has vectors of {widths[1]} values, those of {path.name} beside it have {widths[0]}; fetch both "
            "files of one model"
        )
    return found


def read_form(path: str, kind: str) -> ImageForm | TextForm:
    """Returns the form of a tower; reads only the headers of its arrays.

    Args:
        path: `.npz`, local, `gs://` or `s3://`.
        kind: `image` or `text`.

    Raises:
        UserError: if the file does not exist, is broken or hostile, or is not such a tower of TIPSv2.
    """
    return _read(path, kind, False).form


def read(path: str, kind: str) -> Tower:
    """Returns a tower with its weights; the arguments and errors are those of `read_form`.

    The vector of an image is that of the first of its two class tokens, which was trained with texts.
    """
    return _read(path, kind, True)


def _read(path: str, kind: str, is_whole: bool) -> Tower:
    arrays = npz.read(path, lambda names: names - _OTHERS, is_whole)
    for mark, its_kind, reader in _READERS:
        if mark in arrays and its_kind == kind:
            return reader(path, arrays)
    marks = " or ".join(mark for mark, its_kind, _ in _READERS if its_kind == kind)
    raise UserError(f"{path}: has no array {marks}; take the {'vision' if kind == 'image' else kind} file of TIPSv2")


@dataclasses.dataclass(frozen=True)
class _TorchNames:
    """How a PyTorch checkpoint names the arrays of a tower; attributes as those of `FlaxNames`."""

    within: Mapping[str, str]
    outside: Mapping[str, str]
    place: str

    def name(self, ours: str) -> str:
        found = re.fullmatch(r"blocks\.(\d+)\.(.+)", ours)
        name = f"{self.place}{found[1]}.{translated(found[2], self.within, '.')}" if found else ""
        name = re.sub(r"\.(kernel|scale)$", ".weight", name or translated(ours, self.outside, "."))
        return name.replace("in_proj.", "in_proj_")

    def part(self, ours: str, array: np.ndarray) -> np.ndarray:
        """Returns our array of the checkpoint's; one of an unforeseen shape is returned as it is."""
        for joined in (("query", "key", "value"), ("gate", "in")):
            names = [self.name(re.sub(rf"\.({'|'.join(joined)})\.", f".{part}.", ours)) for part in joined]
            own = [number for number, part in enumerate(joined) if f".{part}." in ours]
            if own and len(set(names)) == 1 and array.ndim and len(array) % len(joined) == 0:
                array = np.split(array, len(joined))[own[0]]
        if ours == "patch.kernel" and array.ndim == 4:
            return array.transpose(2, 3, 1, 0)
        if ours.endswith(".kernel") and array.ndim == 2:
            return array.T
        if ours == "class" and array.shape[:2] == (1, 1):
            return array[0, 0]
        return array[0] if ours in ("registers", "positions") and array.ndim == 3 and len(array) == 1 else array

    def blocks(self, path: str, arrays: npz.Arrays, width: int, activation: str, epsilon: float) -> Blocks:
        if width not in HEADS:
            raise UserError(
                f"{path}: is {width} wide, but the heads of TIPSv2 are known for {', '.join(map(str, HEADS))} only"
            )
        rows = npz.shape(path, arrays, self.name("blocks.0.mlp.in.kernel"), "M D")[0]
        gated = "mlp.gate" in self.within
        return Blocks(
            depth=count_blocks(arrays, rf"{re.escape(self.place)}(\d{{1,2}})\."),
            width=width,
            heads=HEADS[width],
            hidden=rows // 2 if gated else rows,
            activation=activation,
            epsilon=epsilon,
            gated=gated,
            layer_scale=self.name("blocks.0.scale1") in arrays,
        )


def _torch_image(path: str, arrays: npz.Arrays) -> Tower:
    gated = "blocks.0.mlp.w12.weight" in arrays
    names = _TorchNames({**_TORCH_IMAGE_BLOCK, **(_GATED_MLP if gated else _MLP)}, _TORCH_IMAGE, "blocks.")
    width, _, patch, _ = npz.shape(path, arrays, "patch_embed.proj.weight", "D 3 P P")
    blocks = names.blocks(path, arrays, width, "silu" if gated else "gelu", 1e-6)
    count = npz.shape(path, arrays, "pos_embed", "1 N D")[1]
    grid = square_side(path, "pos_embed", count - 1)
    registers = npz.shape(path, arrays, "register_tokens", "1 R D")[1]
    return npz.tower(path, _image_form(blocks, patch, grid, registers), arrays, names.name, names.part)


def _image_form(blocks: Blocks, patch: int, grid: int, registers: int) -> ImageForm:
    return ImageForm(blocks, grid * patch, patch, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), registers=registers)


def _torch_text(path: str, arrays: npz.Arrays) -> Tower:
    names = _TorchNames(_TORCH_TEXT_BLOCK, _TORCH_TEXT, "transformer.resblocks.")
    tokens, width = npz.shape(path, arrays, "token_embedding.weight", "V D")
    form = _text_form(names.blocks(path, arrays, width, "relu", 1e-5), tokens)
    return npz.tower(path, form, arrays, names.name, names.part)


def _text_form(blocks: Blocks, tokens: int) -> TextForm:
    return TextForm(
        blocks, tokens=tokens, pool="mean", positions=_LENGTH, sinusoids=True, token_scale=blocks.width**0.5
    )


def _scenic_image(path: str, arrays: npz.Arrays) -> Tower:
    gated = any("/FFNSwiGluFused_0/" in name for name in arrays)
    names = FlaxNames("encoder/", {**BLOCK, **(_SCENIC_GATED if gated else {})}, _SCENIC_IMAGE, "transformer/")
    blocks = names.blocks(path, arrays, "silu" if gated else "gelu_tanh", gated)
    patch = npz.shape(path, arrays, names.name("patch.kernel"), "P P 3 D")[0]
    place = names.name("positions")
    _, rows, columns, _ = npz.shape(path, arrays, place, "1 N N D")
    if rows != columns or rows == _FIRST_GRID:
        raise UserError(
            f"{path}: {place} has {rows} x {columns} places; TIPSv2 has a square, and 16 x 16 are of the first "
            "TIPS, which is not read; take a file of TIPSv2"
        )
    tokens = npz.shape(path, arrays, names.name("class"), "1 K D")[1]

    def part(ours: str, array: np.ndarray) -> np.ndarray:
        if ours in ("class", "registers"):
            return array[0, 0] if ours == "class" else array[0, 1:]
        if ours == "positions":
            return behind_class(array.reshape(-1, array.shape[-1]))
        return names.part(blocks, ours, array)

    return npz.tower(path, _image_form(blocks, patch, rows, tokens - 1), arrays, names.name, part)


def _scenic_text(path: str, arrays: npz.Arrays) -> Tower:
    names = FlaxNames("", BLOCK, _SCENIC_TEXT, "transformer/")
    blocks = names.blocks(path, arrays, "relu")
    form = _text_form(blocks, npz.shape(path, arrays, names.name("tokens"), "V D")[0])
    return npz.tower(path, form, arrays, names.name, lambda ours, array: names.part(blocks, ours, array))


# The array that a kind of file is known by, its tower, and who reads it.
_READERS: tuple[tuple[str, str, Callable[[str, npz.Arrays], Tower]], ...] = (
    ("cls_token", "image", _torch_image),
    ("token_embedding.weight", "text", _torch_text),
    ("encoder/ToTokenSequence_0/cls", "image", _scenic_image),
    ("token_emb/emb_var", "text", _scenic_text),
)
