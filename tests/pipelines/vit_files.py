"""Checkpoints of random weights, with the names and shapes of the published ones, and a forward pass in NumPy.

The forward pass was written independently from the papers.
"""

import dataclasses
import math

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


def _layer_norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale + bias


def _mlp(x, arrays, name):
    hidden = x @ arrays[f"{name}/Dense_0/kernel"] + arrays[f"{name}/Dense_0/bias"]
    hidden = hidden / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden * hidden * hidden)))
    return hidden @ arrays[f"{name}/Dense_1/kernel"] + arrays[f"{name}/Dense_1/bias"]


def _attend(queries, keys, arrays, name):
    """Attention of one image, [Q, D] and [K, D] to [Q, D], one head after the other."""
    q, k, v = (
        np.tensordot(x, arrays[f"{name}/{part}/kernel"], 1) + arrays[f"{name}/{part}/bias"]
        for x, part in ((queries, "query"), (keys, "key"), (keys, "value"))
    )
    seen = np.empty_like(q)
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[:, head].T / math.sqrt(q.shape[2])
        weights = np.exp(scores - scores.max(1, keepdims=True))
        seen[:, head] = weights / weights.sum(1, keepdims=True) @ v[:, head]
    return np.tensordot(seen, arrays[f"{name}/out/kernel"], 2) + arrays[f"{name}/out/bias"]


def reference(file, layout, images, dtype=np.float64):
    """Embeds uint8 [B, S, S, 3] with the arrays of a file, under the names they have there."""
    arrays = {name.removeprefix(layout.root): array.astype(dtype, copy=False) for name, array in unstack(file).items()}
    kernel = arrays["embedding/kernel"]
    patch, width = kernel.shape[0], kernel.shape[3]
    embedded = []
    for image in images:
        grid = len(image) // patch
        pixels = (image[: grid * patch, : grid * patch].astype(dtype) - 127.5) / 127.5
        patches = pixels.reshape(grid, patch, grid, patch, 3).swapaxes(1, 2).reshape(grid * grid, -1)
        x = patches @ kernel.reshape(-1, width) + arrays["embedding/bias"]
        positions = arrays[layout.positions][0]
        if layout.cls == "in positions":
            x = np.concatenate([arrays["cls"][0], x]) + positions
        elif layout.cls == "apart":
            x = np.concatenate([arrays["cls"][0], x + positions])
        else:
            x = x + positions
        for index in range(layout.depth):
            block = f"Transformer/encoderblock_{index}"
            norms = [
                [arrays[f"{block}/{name}/{part}"] for part in ("scale", "bias")]
                for name in (layout.norm0, layout.norm1)
            ]
            y = _layer_norm(x, *norms[0])
            x = x + _attend(y, y, arrays, f"{block}/{layout.attention}")
            x = x + _mlp(_layer_norm(x, *norms[1]), arrays, f"{block}/{layout.mlp}")
        x = _layer_norm(x, arrays["Transformer/encoder_norm/scale"], arrays["Transformer/encoder_norm/bias"])
        if layout.map_head:
            x = _attend(arrays["MAPHead_0/probe"][0], x, arrays, "MAPHead_0/MultiHeadDotProductAttention_0")
            y = _layer_norm(x, arrays["MAPHead_0/LayerNorm_0/scale"], arrays["MAPHead_0/LayerNorm_0/bias"])
            x = (x + _mlp(y, arrays, "MAPHead_0/MlpBlock_0"))[0]
        else:
            x = x[0] if layout.cls else x.mean(0)
        if layout.pre_logits:
            x = np.tanh(x @ arrays["pre_logits/kernel"] + arrays["pre_logits/bias"])
        embedded.append(x)
    return np.stack(embedded)
