"""Checkpoints of random weights, with the names and shapes of the published ones."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Shape:
    patch: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    grid: int


TINY = Shape(patch=4, width=24, depth=3, heads=3, mlp_dim=40, grid=3)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a family of checkpoints names and stores what; `cls` says where the position of the class token is."""

    root: str = ""
    positions: str = "pos_embedding"
    norm0: str = "LayerNorm_0"
    attention: str = "MultiHeadDotProductAttention_0"
    norm1: str = "LayerNorm_1"
    mlp: str = "MlpBlock_0"
    cls: str = ""
    map_head: bool = False
    pre_logits: bool = False
    stacked: bool = False
    text_tower: bool = False
    depth: int = TINY.depth

    def of_depth(self, depth):
        return dataclasses.replace(self, depth=depth)


_AUGREG = Layout(
    positions="Transformer/posembed_input/pos_embedding",
    attention="MultiHeadDotProductAttention_1",
    norm1="LayerNorm_2",
    mlp="MlpBlock_3",
    cls="in positions",
)
LAYOUTS = {
    "augreg": _AUGREG,
    "augreg pre_logits": dataclasses.replace(_AUGREG, pre_logits=True),
    "big_vision gap": Layout(),
    "big_vision tok": Layout(root="params/", cls="apart"),
    "big_vision old": Layout(root="opt/target/", positions="Transformer/pos_embedding", cls="in positions"),
    "big_vision map, stacked": Layout(root="params/", map_head=True, stacked=True),
    "siglip": Layout(root="params/img/", map_head=True, text_tower=True),
    "siglip 2": Layout(root="params/img/", map_head=True, text_tower=True, stacked=True),
}


def arrays(layout, shape, seed=0):
    """Returns the float32 arrays of a file by name; every one of them matters for the result."""
    rng = np.random.default_rng(seed)
    width, heads = shape.width, shape.heads
    found = {}

    def uniform(name, *dims, scale=0.1, mean=0.0):
        found[layout.root + name] = (rng.random(dims, np.float32) * 2 - 1) * np.float32(scale) + np.float32(mean)

    def norm(name):
        uniform(f"{name}/scale", width, mean=1.0)
        uniform(f"{name}/bias", width)

    def dense(name, fan_in, *out):
        uniform(f"{name}/kernel", *fan_in, *out, scale=1.5 / np.sqrt(np.prod(fan_in)))
        uniform(f"{name}/bias", *out)

    def attention(name):
        for part in ("query", "key", "value"):
            dense(f"{name}/{part}", (width,), heads, width // heads)
        dense(f"{name}/out", (heads, width // heads), width)

    def mlp(name):
        dense(f"{name}/Dense_0", (width,), shape.mlp_dim)
        dense(f"{name}/Dense_1", (shape.mlp_dim,), width)

    dense("embedding", (shape.patch, shape.patch, 3), width)
    uniform(layout.positions, 1, shape.grid**2 + (layout.cls == "in positions"), width, scale=1.0)
    if layout.cls:
        uniform("cls", 1, 1, width, scale=1.0)
    for index in range(shape.depth):
        block = f"Transformer/encoderblock_{index}"
        norm(f"{block}/{layout.norm0}")
        attention(f"{block}/{layout.attention}")
        norm(f"{block}/{layout.norm1}")
        mlp(f"{block}/{layout.mlp}")
    norm("Transformer/encoder_norm")
    if layout.map_head:
        uniform("MAPHead_0/probe", 1, 1, width, scale=1.0)
        attention("MAPHead_0/MultiHeadDotProductAttention_0")
        norm("MAPHead_0/LayerNorm_0")
        mlp("MAPHead_0/MlpBlock_0")
    if layout.pre_logits:
        dense("pre_logits", (width,), width)
    if layout.text_tower:
        found |= {"params/txt/Embed_0/embedding": np.ones((5, width), np.float32), "params/t": np.ones(1, np.float32)}
    else:
        dense("head", (width,), 7)
    return stack(found, layout, shape.depth) if layout.stacked else found


def stack(found, layout, depth):
    first = f"{layout.root}Transformer/encoderblock_0/"
    kept = {name: array for name, array in found.items() if "/encoderblock_" not in name}
    for name in found:
        if name.startswith(first):
            blocks = [found[name.replace("encoderblock_0", f"encoderblock_{index}")] for index in range(depth)]
            kept[name.replace("encoderblock_0", "encoderblock")] = np.stack(blocks)
    return kept


def unstack(found):
    parts = {}
    for name, array in found.items():
        if "/encoderblock/" in name:
            for index, part in enumerate(array):
                parts[name.replace("/encoderblock/", f"/encoderblock_{index}/")] = part
        else:
            parts[name] = array
    return parts


def write(path, layout, shape, seed=0):
    """Writes the checkpoint and returns its arrays."""
    found = arrays(layout, shape, seed)
    np.savez(path, **found)
    return found
