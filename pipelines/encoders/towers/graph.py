"""Towers as TensorFlow modules, which are saved as SavedModels; what they compute is checked there, not here alone.

Within a graph batches and lengths of texts are unknown, so every size is taken from the form or from `tf.shape`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.encoders.towers.tower import Blocks, Dense, ImageForm, TextForm, Tower

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "quick_gelu": lambda x: x * tf.sigmoid(1.702 * x),
    "gelu": lambda x: tf.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "silu": tf.nn.silu,
    "relu": tf.nn.relu,
    "tanh": tf.tanh,
    "identity": tf.identity,
}
_MASKED = -1e9


def module(tower: Tower) -> tf.Module:
    """Returns a tower as a module that can be saved.

    Returns:
        For images, a module whose `features`, which is also `__call__`, maps uint8 RGB `[B, size, size, 3]` to
        float32 `[B, vector_width]`; for texts one of token ids and attention mask, int32 `[B, T]` (1 for tokens, 0
        behind the end). `T` is `length`, if the form states one.
    """
    if isinstance(tower.form, ImageForm):
        return _ImageModule(tower.form, tower.arrays)
    return _TextModule(tower.form, tower.arrays)


class _Layers(tf.Module):
    """The arrays as variables, and the layers that use them; tokens are float32 `[B * N, C]`."""

    def __init__(self, blocks: Blocks, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self._blocks = blocks
        self._variables = {
            name: tf.Variable(array, trainable=False, dtype=tf.float32, name=name.replace(".", "_"))
            for name, array in _joined(arrays).items()
        }

    def _get(self, name: str) -> Any:
        return self._variables[name].value()

    def _linear(self, x: Any, name: str) -> Any:
        outputs = tf.matmul(x, self._get(f"{name}.kernel"))
        return tf.nn.bias_add(outputs, self._get(f"{name}.bias")) if f"{name}.bias" in self._variables else outputs

    def _norm(self, x: Any, name: str) -> Any:
        scale, epsilon = self._get(f"{name}.scale"), self._blocks.epsilon
        if self._blocks.rms_norm:
            return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + epsilon) * scale
        mean = tf.reduce_mean(x, -1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), -1, keepdims=True)
        scale = tf.math.rsqrt(variance + epsilon) * scale
        return x * scale + (self._get(f"{name}.bias") - mean * scale)

    def _heads(self, x: Any, count: int, batch: Any) -> list[Any]:
        """Returns `count` parts of `[B * N, count * heads * key_width]`, each as `[B, heads, N, key_width]`."""
        blocks = self._blocks
        x = tf.reshape(x, (batch, -1, count, blocks.heads, blocks.key_width))
        return tf.unstack(tf.transpose(x, (2, 0, 3, 1, 4)), count)

    def _attend(self, query: Any, key: Any, value: Any, name: str, bias: Any) -> Any:
        """Returns the attention of heads to heads; `bias` is added to the products."""
        blocks = self._blocks
        if blocks.is_scaled:
            query = query * blocks.key_width**-0.5
        products = tf.matmul(query, key, transpose_b=True)
        weights = tf.nn.softmax(products if bias is None else products + bias)
        mixed = tf.transpose(tf.matmul(weights, value), (0, 2, 1, 3))
        return self._linear(tf.reshape(mixed, (-1, blocks.heads * blocks.key_width)), f"{name}.out")

    def _attention(self, x: Any, name: str, batch: Any, bias: Any, rotate: Callable[[Any], Any] | None) -> Any:
        query, key, value = self._heads(self._linear(x, f"{name}.all"), 3, batch)
        if rotate:
            query, key = rotate(query), rotate(key)
        return self._attend(query, key, value, name, bias)

    def _mlp(self, x: Any, name: str) -> Any:
        activate = ACTIVATIONS[self._blocks.activation]
        if f"{name}.gate.kernel" in self._variables:
            hidden = activate(self._linear(x, f"{name}.gate")) * self._linear(x, f"{name}.in")
        else:
            hidden = activate(self._linear(x, f"{name}.in"))
        return self._linear(hidden, f"{name}.out")

    def _run_blocks(self, x: Any, batch: Any, bias: Any = None, rotate: Callable[[Any], Any] | None = None) -> Any:
        for block in range(self._blocks.depth):
            place = f"blocks.{block}"
            if self._blocks.post_norm:
                x = self._norm(x + self._attention(x, f"{place}.attention", batch, bias, rotate), f"{place}.norm1")
                x = self._norm(x + self._mlp(x, f"{place}.mlp"), f"{place}.norm2")
                continue
            y = self._attention(self._norm(x, f"{place}.norm1"), f"{place}.attention", batch, bias, rotate)
            x = x + self._scaled(y, f"{place}.scale1")
            x = x + self._scaled(self._mlp(self._norm(x, f"{place}.norm2"), f"{place}.mlp"), f"{place}.scale2")
        return x

    def _run_layers(self, x: Any, layers: tuple[Dense, ...]) -> Any:
        for number, layer in enumerate(layers):
            x = ACTIVATIONS[layer.activation](self._linear(x, f"layers.{number}"))
        return x

    def _scaled(self, x: Any, name: str) -> Any:
        return x * self._get(name) if name in self._variables else x


def _joined(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Joins queries, keys and values to one layer; where only some of them have a bias the others' is zero."""
    found = dict(arrays)
    for name in [name for name in arrays if name.endswith("attention.query.kernel") and not name.startswith("pool.")]:
        place = name.removesuffix("query.kernel")
        kernels = [found.pop(f"{place}{part}.kernel") for part in ("query", "key", "value")]
        biases = [found.pop(f"{place}{part}.bias", None) for part in ("query", "key", "value")]
        found[f"{place}all.kernel"] = np.concatenate(kernels, axis=1)
        if any(bias is not None for bias in biases):
            pairs = zip(kernels, biases, strict=True)
            filled = [np.zeros(kernel.shape[1], np.float32) if bias is None else bias for kernel, bias in pairs]
            found[f"{place}all.bias"] = np.concatenate(filled)
    return found


class _ImageModule(_Layers):
    def __init__(self, form: ImageForm, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__(form.blocks, arrays)
        self._form = form
        pixels = tf.TensorSpec((None, form.size, form.size, 3), tf.uint8, name="images")
        self.features = tf.function(self._features, input_signature=[pixels], autograph=False)

    @property
    def __call__(self) -> Any:
        return self.features

    def _features(self, images: Any) -> Any:
        form, width = self._form, self._form.blocks.width
        batch = tf.shape(images)[0]
        pixels = (tf.cast(images, tf.float32) / 255 - form.mean) / form.std
        x = tf.nn.conv2d(pixels, self._get("patch.kernel"), form.patch, "VALID")
        x = tf.reshape(x, (-1, form.grid**2, width))
        if form.patch_bias:
            x = x + self._get("patch.bias")
        x = self._with_prefix(x, batch)
        if form.first_norm:
            x = self._norm(x, "first_norm")
        rotate = _rotation(form) if form.rotary else None
        x = self._run_blocks(tf.reshape(x, (-1, width)), batch, rotate=rotate)
        pooled = self._image_pooled(x, batch)
        return self._run_layers(self._linear(pooled, "projection") if form.dim else pooled, form.layers)

    def _image_pooled(self, x: Any, batch: Any) -> Any:
        """Returns the vectors `[B, C]` of tokens `[B * N, C]`."""
        form = self._form
        if form.has_class:
            return self._class_output(x)
        if form.is_mean:
            return tf.reduce_mean(tf.reshape(self._norm(x, "last_norm"), (-1, form.grid**2, form.blocks.width)), 1)
        return self._probed(x, batch)

    def _with_prefix(self, x: Any, batch: Any) -> Any:
        """Returns patches `[B, N, C]` behind the class token and the registers, with positions."""
        form, width = self._form, self._form.blocks.width
        first = [self._get("class")[None]] if form.has_class else []
        if form.has_positions:
            positions = self._get("positions")
            x = x + positions[int(form.has_class) :]
            first = [row + positions[:1] for row in first]
        if form.registers:
            first.append(self._get("registers"))
        if not first:
            return x
        prefix = tf.broadcast_to(tf.concat(first, 0), (batch, form.prefix, width))
        return tf.concat([prefix, x], 1)

    def _class_output(self, x: Any) -> Any:
        form = self._form
        return self._norm(tf.reshape(x, (-1, form.prefix + form.grid**2, form.blocks.width))[:, 0], "last_norm")

    def _probed(self, x: Any, batch: Any) -> Any:
        """Returns what SigLIP's head pools from tokens `[B * N, C]`: attention of a learned query, then an MLP."""
        x, width = self._norm(x, "last_norm"), self._form.blocks.width
        probe = tf.broadcast_to(self._get("pool.probe"), (batch, width))
        parts = [(probe, "query"), (x, "key"), (x, "value")]
        query, key, value = (self._heads(self._linear(of, f"pool.attention.{part}"), 1, batch)[0] for of, part in parts)
        y = self._attend(query, key, value, "pool.attention", None)
        return y + self._mlp(self._norm(y, "pool.norm"), "pool.mlp")


def _rotation(form: ImageForm) -> Callable[[Any], Any]:
    """Returns DINOv3's rotary positions: a function that turns the patches of `[B, heads, N, key_width]`."""
    width = form.blocks.key_width
    centers = (np.arange(form.grid) + 0.5) / form.grid * 2 - 1
    places = np.stack(np.meshgrid(centers, centers, indexing="ij"), -1).reshape(-1, 2)
    frequencies = form.rotary ** -np.arange(0, 1, 4 / width)
    angles = np.tile((2 * np.pi * places[:, :, None] * frequencies).reshape(len(places), -1), 2)
    # The class token and the registers are not turned.
    angles = np.concatenate([np.zeros((form.prefix, width)), angles])
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def rotate(x: Any) -> Any:
        first, second = tf.split(x, 2, axis=-1)
        return x * cos + tf.concat([-second, first], -1) * sin

    return rotate


def _sinusoids(count: int, width: int) -> Any:
    """Returns positions float32 `[count, width]`: sines and cosines of wavelengths from 2 pi to 20,000 pi."""
    half = width // 2
    angles = np.arange(count)[:, None] * 10_000.0 ** -(np.arange(half) / max(half - 1, 1))
    return tf.constant(np.concatenate([np.sin(angles), np.cos(angles)], 1), tf.float32)


class _TextModule(_Layers):
    def __init__(self, form: TextForm, arrays: Mapping[str, np.ndarray]) -> None:
        super().__init__(form.blocks, arrays)
        self._form = form
        shape = (None, form.length or None)
        ids, mask = (tf.TensorSpec(shape, tf.int32, name=name) for name in ("token_ids", "attention_mask"))
        self.features = tf.function(self._features, input_signature=[ids, mask], autograph=False)

    @property
    def __call__(self) -> Any:
        return self.features

    def _features(self, token_ids: Any, attention_mask: Any) -> Any:
        form, width = self._form, self._form.blocks.width
        if form.positions and not form.length:
            # Padding to a round length may reach behind the last position.
            rows = form.positions - form.first_position
            token_ids, attention_mask = token_ids[:, :rows], attention_mask[:, :rows]
        batch, length = tf.shape(token_ids)[0], tf.shape(token_ids)[1]
        x = tf.gather(self._get("tokens"), token_ids) * form.token_scale
        if form.positions:
            rows = _sinusoids(form.positions, width) if form.sinusoids else self._get("positions")
            x = x + rows[form.first_position :][:length]
        x = tf.reshape(x, (-1, width))
        if form.first_norm:
            x = self._norm(x, "first_norm")
        x = self._run_blocks(x, batch, self._bias(attention_mask, length))
        if form.last_norm:
            x = self._norm(x, "last_norm")
        vectors = self._pooled(tf.reshape(x, (batch, length, width)), token_ids, attention_mask)
        vectors = self._run_layers(vectors, form.layers)
        return tf.math.l2_normalize(vectors, -1) if form.is_unit else vectors

    def _bias(self, mask: Any, length: Any) -> Any:
        """Returns what is added to the products of queries and keys, `[B or 1, heads or 1, T or 1, T]`; or None."""
        form, parts = self._form, []
        if form.is_masked:
            parts.append((1 - tf.cast(mask, tf.float32))[:, None, None, :] * _MASKED)
        if form.blocks.causal:
            seen = tf.linalg.band_part(tf.ones((length, length)), -1, 0)
            parts.append(((1 - seen) * _MASKED)[None, None])
        if form.buckets:
            parts.append(self._relative(length))
        return sum(parts[1:], parts[0]) if parts else None

    def _relative(self, length: Any) -> Any:
        """Returns the bias of relative positions, `[1, heads, T, T]`, as T5's buckets of distances define it."""
        half = self._form.buckets // 2
        places = tf.range(length)
        ahead = places[None, :] - places[:, None]
        distance = tf.abs(ahead)
        exact = half // 2
        # A distance of 0 is exact; its logarithm is not used.
        ratio = tf.math.log(tf.cast(tf.maximum(distance, 1), tf.float32) / exact)
        scaled = ratio / np.float32(np.log(self._form.farthest / exact)) * (half - exact)
        far = tf.minimum(exact + tf.cast(scaled, tf.int32), half - 1)
        bucket = tf.where(distance < exact, distance, far) + tf.where(ahead > 0, half, 0)
        return tf.transpose(tf.gather(self._get("relative"), bucket), (2, 0, 1))[None]

    def _pooled(self, x: Any, ids: Any, mask: Any) -> Any:
        """Returns the vectors `[B, C]` of tokens `[B, T, C]`."""
        form = self._form
        if form.pool == "last":
            return x[:, -1]
        if form.pool == "first":
            return x[:, 0]
        if form.pool == "end":
            found = ids if form.end < 0 else tf.cast(tf.equal(ids, form.end), tf.int32)
            return tf.gather(x, tf.argmax(found, -1), batch_dims=1)
        weights = tf.cast(mask, tf.float32)[:, :, None]
        if form.pool == "max":
            return tf.reduce_max(x + (1 - weights) * _MASKED, 1)
        return tf.reduce_sum(x * weights, 1) / tf.maximum(tf.reduce_sum(weights, 1), 1e-9)
