"""The memory attention module: one layer that reads a query's neighbours and keeps what matters.

Linear projections are absorbed: `(W_Q z).(W_K m) = (W_K^T W_Q z).m` and `sum_j a_j W_V v_j = W_V (sum_j a_j v_j)`,
so no neighbour is ever projected and a step costs `O(B D A + B K D)` instead of `O(B K D A)`. What remains is bound by
memory bandwidth: `model.heads.attention.pooling` reads the neighbours.
"""

from collections.abc import Mapping
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from model.data.batch import Rows, standardize
from model.heads.attention.pooling import attend, product

_SMALL_INIT = 1e-2
# The logarithm of the scale learns so many times as fast as other parameters, so that where it ends hardly depends on
# where it starts: it is one number that all images teach.
_SCALE_GAIN = 30.0


def _fitted(wanted: jax.Array, project: jax.Array) -> tuple[Initializer, Initializer]:
    """Returns initializers of W_O and its bias whose output is `[v, 1] wanted`, as closely as W_V's width allows.

    Args:
        wanted: `[V + 1, D]`.
        project: W_V, `[H, V, value_dim / H]`.
    """

    def kernel(*_: object) -> jax.Array:
        joined = jnp.swapaxes(project, 0, 1).reshape(project.shape[1], -1)
        return jnp.linalg.pinv(joined) @ wanted[:-1]

    return kernel, lambda *_: wanted[-1]


class MemoryAttention(nn.Module):
    """One layer `z + W_O sum_j a_j W_V LN(v_j)` (method.md; Iscen et al., CVPR 2023; the details are inferred).

    Products have the dtype of the keys and values, which may be bfloat16; parameters, sums and softmax are float32.

    Attributes:
        attention_dim: width A of the query and key projections of one attention head; 0 for none: attention by the
            scaled cosine.
        value_dim: width of the value projections of all attention heads together.
        num_heads: attention heads H.
        start: `similarity`: attention starts at `softmax(scale * cos(z_0, m_j))`; `random`: at random projections.
        similarity_scale: first value of the learned factor on query-key cosines (inverse temperature).
        value_scale: first size of `W_O W_V v`, relative to z; 0: W_O starts at zero.
        uniform: `a_j = 1 / K` instead of attention: mean k-NN.
        null_slot: attention has an extra entry, whose value is zero and whose cosine is learned, 0 at first.
        feed_forward: hidden width of a residual network after the attention; 0 for none.
    """

    attention_dim: int
    value_dim: int
    num_heads: int
    start: str
    similarity_scale: float
    value_scale: float = 0.0
    uniform: bool = False
    null_slot: bool = False
    feed_forward: int = 0

    @nn.compact
    def __call__(
        self,
        z: jax.Array,
        keys: jax.Array | Rows,
        values: dict[str, jax.Array] | dict[str, Rows],
        scores: jax.Array,
        mask: jax.Array,
        predicted: Mapping[str, jax.Array] = MappingProxyType({}),
    ) -> tuple[jax.Array, jax.Array]:
        """Refines embeddings by their neighbours. No gradient goes to keys, values and scores.

        Args:
            z: float32 `[B, D]`.
            keys: standardized, `[B, K, D]`, or `Rows` of that shape.
            values: standardized, for each kind `[B, K, V]`, or `Rows` of that shape.
            scores: similarity of query and key, `[B, K]`.
            mask: false where a list is padded, `[B, K]`.
            predicted: for each kind of values the result of `value_start.fit`; only read to initialize parameters, and
                only with `value_scale`.

        Returns:
            The refined embeddings `[B, D]` and the attention weights `[B, H, K]`, which sum to less than 1 where the
            null slot has weight.
        """
        dim = z.shape[-1]
        absorbed, bias = None, jnp.zeros((*mask.shape, self.num_heads))
        if not self.uniform:
            absorbed, bias = self._query(z, keys.dtype, scores)
        bias = jnp.where(mask[..., None], bias, -jnp.inf)
        if self.null_slot:
            null = self.similarity_scale * self.param("null", nn.initializers.zeros, (self.num_heads,))
            bias = jnp.concatenate([bias, jnp.broadcast_to(null, (len(z), 1, self.num_heads))], 1)
        pooled, weights = attend(absorbed, bias, keys, values)
        total = jnp.zeros_like(z)
        for kind, value in values.items():
            shape = (self.num_heads, value.shape[-1], self.value_dim // self.num_heads)
            project = self.param(f"project_{kind}", nn.initializers.lecun_normal(in_axis=1, batch_axis=0), shape)
            heads = product("bhv,hvd->bhd", pooled[kind], project, value.dtype).reshape(len(z), -1)
            kernel = bias = nn.initializers.zeros
            if self.value_scale:
                kernel, bias = _fitted(self.value_scale * predicted[kind], project)
            total += self._dense(heads, dim, f"output_{kind}", kernel, value.dtype, bias)
        z = z + total
        if self.feed_forward:
            first = nn.initializers.lecun_normal()
            hidden = self._dense(standardize(z), self.feed_forward, "expand", first, keys.dtype)
            z = z + self._dense(nn.gelu(hidden), dim, "contract", nn.initializers.zeros, keys.dtype)
        return z, jnp.swapaxes(weights[:, : mask.shape[-1]], 1, 2)

    def _dense(
        self,
        x: jax.Array,
        width: int,
        name: str,
        kernel: Initializer,
        dtype: jnp.dtype,
        bias: Initializer = nn.initializers.zeros,
    ) -> jax.Array:
        def dot_general(x: jax.Array, kernel: jax.Array, *_: object, **__: object) -> jax.Array:
            return product("bi,io->bo", x, kernel, dtype)

        return nn.Dense(width, kernel_init=kernel, bias_init=bias, name=name, dot_general=dot_general)(x)

    def _query(self, z: jax.Array, dtype: jnp.dtype, scores: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the vectors that keys are multiplied by `[B, H, D]`, and the bias of these products `[B, K, H]`."""
        dim, similar = z.shape[-1], self.start == "similarity"
        absorbed = None
        if self.attention_dim:
            fan_in = nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
            init = nn.initializers.normal(_SMALL_INIT) if similar else fan_in
            shape = (dim, self.num_heads, self.attention_dim)
            query = self.param("query", init, shape)
            key = self.param("key", fan_in, shape)
            projected = product("bd,dha->bha", standardize(z), query, dtype)
            absorbed = product("bha,dha->bhd", projected, key, dtype) / jnp.sqrt(self.attention_dim)
        scale = self.param("scale", nn.initializers.zeros, (self.num_heads,))
        # A random start has no part of the cosine.
        relative = jnp.exp(_SCALE_GAIN * scale) if similar else scale
        return absorbed, self.similarity_scale * relative * scores[..., None]
