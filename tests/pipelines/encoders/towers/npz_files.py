"""Checkpoints of random weights with the names and shapes of the published ones, and their towers in float64 NumPy.

`fill` makes an array of a shape; `Random` for values, `empty` for shapes alone.
"""

import dataclasses
import io
import math
import zipfile

import numpy as np
import tensorflow as tf

from pipelines.encoders.towers import graph


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of one tower; `patch` is 0 for texts, `grid` is their length then."""

    width: int
    depth: int
    heads: int
    hidden: int
    grid: int
    patch: int = 0
    tokens: int = 0
    out: int = 0
    gated: bool = False


class Random:
    def __init__(self, seed=0):
        self._rng = np.random.default_rng(seed)

    def __call__(self, name, *dims):
        if name.endswith(("scale", "norm.weight", "norm1.weight", "norm2.weight", "gamma", "ln_1.weight")):
            return self._rng.uniform(0.8, 1.2, dims).astype(np.float32)
        wide = len(dims) == 1 or name.endswith(("bias", "cls", "token", "tokens", "probe")) or "pos" in name
        return self._rng.normal(0, 0.3 if wide else 1.2 / math.sqrt(dims[-2]), dims).astype(np.float32)


def empty(name, *dims):
    return np.broadcast_to(np.float32(0), dims)


def flax_block(fill, root, width, heads, hidden, gated=False, parts="norm0 attention norm1 mlp"):
    found = {}

    def add(name, *dims):
        found[f"{root}{name}"] = fill(f"{root}{name}", *dims)

    for name in (f"LayerNorm_{part[-1]}" for part in parts.split() if part.startswith("norm")):
        add(f"{name}/scale", width)
        add(f"{name}/bias", width)
    for part in ("query", "key", "value"):
        add(f"MultiHeadDotProductAttention_0/{part}/kernel", width, heads, width // heads)
        add(f"MultiHeadDotProductAttention_0/{part}/bias", heads, width // heads)
    add("MultiHeadDotProductAttention_0/out/kernel", heads, width // heads, width)
    add("MultiHeadDotProductAttention_0/out/bias", width)
    layers = [("Dense_0", width, hidden), ("Dense_1", hidden, width)]
    if gated:
        layers = [("Dense_0", width, hidden), ("Dense_1", width, hidden), ("Dense_2", hidden, width)]
    for name, inputs, outputs in layers:
        add(f"{'FFNSwiGluFused_0' if gated else 'MlpBlock_0'}/{name}/kernel", inputs, outputs)
        add(f"{'FFNSwiGluFused_0' if gated else 'MlpBlock_0'}/{name}/bias", outputs)
    return found


def flax_blocks(fill, root, shape):
    found = {}
    for block in range(shape.depth):
        found |= flax_block(fill, f"{root}encoderblock_{block}/", shape.width, shape.heads, shape.hidden, shape.gated)
    return found


def siglip(fill, image, text, root="params/"):
    """Both towers of SigLIP."""
    found = {f"{root}t": fill("t", 1), f"{root}b": fill("b", 1)}
    img, txt = f"{root}img/", f"{root}txt/"
    for name, dims in (
        (f"{img}embedding/kernel", (image.patch, image.patch, 3, image.width)),
        (f"{img}embedding/bias", (image.width,)),
        (f"{img}pos_embedding", (1, image.grid**2, image.width)),
        (f"{img}Transformer/encoder_norm/scale", (image.width,)),
        (f"{img}Transformer/encoder_norm/bias", (image.width,)),
        (f"{img}MAPHead_0/probe", (1, 1, image.width)),
        (f"{txt}Embed_0/embedding", (text.tokens, text.width)),
        (f"{txt}pos_embedding", (1, text.grid, text.width)),
        (f"{txt}Encoder_0/encoder_norm/scale", (text.width,)),
        (f"{txt}Encoder_0/encoder_norm/bias", (text.width,)),
        (f"{txt}head/kernel", (text.width, text.out)),
        (f"{txt}head/bias", (text.out,)),
    ):
        found[name] = fill(name, *dims)
    head = flax_block(fill, f"{img}MAPHead_0/", image.width, image.heads, image.hidden, parts="attention norm0 mlp")
    return found | head | flax_blocks(fill, f"{img}Transformer/", image) | flax_blocks(fill, f"{txt}Encoder_0/", text)


def stacked(arrays):
    """Joins the arrays of all blocks along a leading axis, as `nn.scan` does."""
    found = {}
    for name, array in arrays.items():
        head, mark, rest = name.partition("/encoderblock_")
        if not mark:
            found[name] = array
        elif rest.startswith("0/"):
            count = sum(other.startswith(f"{head}{mark}") and other.endswith(rest[1:]) for other in arrays)
            rows = [arrays[f"{head}{mark}{number}{rest[1:]}"] for number in range(count)]
            found[f"{head}/encoderblock{rest[1:]}"] = np.stack(rows)
    return found


def norm(x, arrays, place, epsilon, names=("scale", "bias"), joint="/"):
    scale, bias = (arrays[f"{place}{joint}{name}"].astype(np.float64) for name in names)
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + epsilon) * scale + bias


def gelu_tanh(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


gelu = np.vectorize(lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))), otypes=[np.float64])


def silu(x):
    return x / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def attention(queries, keys, kernels, biases, heads, seen=None):
    """Attention of one example, `[Q, C]` to `[K, C]`, one head after the other; `seen` says which keys are."""
    q, k, v = (
        x @ kernel.astype(np.float64) + bias
        for x, kernel, bias in zip((queries, keys, keys), kernels[:3], biases[:3], strict=True)
    )
    width = q.shape[1] // heads
    parts = []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        scores = q[:, own] @ k[:, own].T / math.sqrt(width)
        if seen is not None:
            scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        parts.append(weights / weights.sum(1, keepdims=True) @ v[:, own])
    return np.concatenate(parts, 1) @ kernels[3].astype(np.float64) + biases[3]


def flax_attention(queries, keys, arrays, place, seen=None):
    heads = arrays[f"{place}/query/kernel"].shape[1]
    width = queries.shape[1]
    kernels = [arrays[f"{place}/{part}/kernel"].reshape(width, -1) for part in ("query", "key", "value")]
    kernels.append(arrays[f"{place}/out/kernel"].reshape(-1, width))
    biases = [arrays[f"{place}/{part}/bias"].reshape(-1) for part in ("query", "key", "value", "out")]
    return attention(queries, keys, kernels, biases, heads, seen)


def flax_mlp(x, arrays, place, activate):
    def dense(x, number):
        return x @ arrays[f"{place}/Dense_{number}/kernel"].astype(np.float64) + arrays[f"{place}/Dense_{number}/bias"]

    if f"{place}/Dense_2/kernel" in arrays:
        return dense(silu(dense(x, 0)) * dense(x, 1), 2)
    return dense(activate(dense(x, 0)), 1)


def flax_encoder(x, arrays, place, depth, activate, seen=None):
    for block in range(depth):
        at = f"{place}encoderblock_{block}/"
        y = norm(x, arrays, f"{at}LayerNorm_0", 1e-6)
        x = x + flax_attention(y, y, arrays, f"{at}MultiHeadDotProductAttention_0", seen)
        mlp = "FFNSwiGluFused_0" if f"{at}FFNSwiGluFused_0/Dense_0/kernel" in arrays else "MlpBlock_0"
        x = x + flax_mlp(norm(x, arrays, f"{at}LayerNorm_1", 1e-6), arrays, at + mlp, activate)
    return x


def patches(pixels, kernel):
    """Pixels `[S, S, 3]` and a kernel `[P, P, 3, C]` to `[N, C]`; what is beyond the last patch is left out."""
    side = len(kernel)
    grid = len(pixels) // side
    cut = pixels[: grid * side, : grid * side].reshape(grid, side, grid, side, 3).swapaxes(1, 2)
    return cut.reshape(grid * grid, -1) @ kernel.reshape(-1, kernel.shape[3]).astype(np.float64)


def siglip_image(arrays, image, depth, root="params/img/"):
    x = patches((image.astype(np.float64) - 127.5) / 127.5, arrays[f"{root}embedding/kernel"])
    x = x + arrays[f"{root}embedding/bias"] + arrays[f"{root}pos_embedding"][0]
    x = flax_encoder(x, arrays, f"{root}Transformer/", depth, gelu_tanh)
    x = norm(x, arrays, f"{root}Transformer/encoder_norm", 1e-6)
    probe = arrays[f"{root}MAPHead_0/probe"][0].astype(np.float64)
    x = flax_attention(probe, x, arrays, f"{root}MAPHead_0/MultiHeadDotProductAttention_0")
    y = norm(x, arrays, f"{root}MAPHead_0/LayerNorm_0", 1e-6)
    return (x + flax_mlp(y, arrays, f"{root}MAPHead_0/MlpBlock_0", gelu_tanh))[0]


def siglip_text(arrays, ids, depth, root="params/txt/"):
    x = arrays[f"{root}Embed_0/embedding"][ids].astype(np.float64) + arrays[f"{root}pos_embedding"][0]
    if f"{root}Encoder_0/pos_embedding" in arrays:
        x = x + arrays[f"{root}Encoder_0/pos_embedding"][0]
    x = flax_encoder(x, arrays, f"{root}Encoder_0/", depth, gelu_tanh)
    x = norm(x, arrays, f"{root}Encoder_0/encoder_norm", 1e-6)[-1]
    return x @ arrays[f"{root}head/kernel"].astype(np.float64) + arrays[f"{root}head/bias"]


def add_member(path, name, data, shape):
    """Adds an array to a file, whose header states any shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{name}.npy", stream.getvalue() + data)


def exported(tower, folder):
    """Saves a tower, loads it again and returns it as a function of NumPy arrays."""
    tf.saved_model.save(graph.module(tower), str(folder))
    loaded = tf.saved_model.load(str(folder))
    return lambda *inputs: loaded(*map(tf.constant, inputs)).numpy()


def called(tower):
    """Returns a tower as a function of NumPy arrays, without saving it."""
    module = graph.module(tower)
    return lambda *inputs: module(*map(tf.constant, inputs)).numpy()


def agrees(vectors, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-4)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((vectors * expected).sum(1) / lengths).min() > 0.99999
    assert expected.std(0).mean() > 1e-2


def pixels(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
