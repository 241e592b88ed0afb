"""The memory attention module: one layer that reads a query's neighbours and keeps what matters.

Linear projections are absorbed: `(W_Q z).(W_K m) = (W_K^T W_Q z).m` and `sum_j a_j W_V v_j = W_V (sum_j a_j v_j)`,
so no neighbour is ever projected and a step costs `O(B D A + B K D)` instead of `O(B K D A)`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

_SMALL_INIT = 1e-2
_EPSILON = 1e-6


def standardize(x: jax.Array) -> jax.Array:
    """Layer norm of the last axis without scale and bias, which the projection that follows would absorb."""
    centered = x - x.mean(-1, keepdims=True)
    return centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + _EPSILON)


def masked_softmax(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax over the last axis of `logits`, zero where `mask` is false; all zero where nothing is left."""
    largest = jnp.max(jnp.where(mask, logits, -jnp.inf), axis=-1, keepdims=True)
    exponents = jnp.where(mask, jnp.exp(logits - jnp.where(jnp.isfinite(largest), largest, 0)), 0)
    return exponents / jnp.maximum(exponents.sum(-1, keepdims=True), _EPSILON)


class MemoryAttention(nn.Module):
    """One layer `z + W_O sum_j a_j W_V LN(v_j)` (method.md; Iscen et al., CVPR 2023; the details are inferred).

    Attributes:
        attention_dim: width A of the query and key projections of one head.
        value_dim: width of the value projections of all heads together.
        num_heads: heads H.
        start: `similarity`: attention starts at `softmax(scale * cos(z_0, m_j))`; `random`: from random projections.
        similarity_scale: first value of the learned scale.
        uniform: `a_j = 1 / K` instead of attention: mean k-NN.
    """

    attention_dim: int
    value_dim: int
    num_heads: int
    start: str
    similarity_scale: float
    uniform: bool = False

    @nn.compact
    def __call__(
        self, z: jax.Array, keys: jax.Array, values: dict[str, jax.Array], scores: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Refines embeddings by their neighbours.

        Args:
            z: `[B, D]`.
            keys: standardized, `[B, K, D]`.
            values: standardized, for each kind `[B, K, V]`.
            scores: cosine of query and key, `[B, K]`.
            mask: false where a list is padded, `[B, K]`.

        Returns:
            The refined embeddings `[B, D]` and the attention weights `[B, H, K]`.
        """
        dim = z.shape[-1]
        if self.uniform:
            weights = mask / jnp.maximum(mask.sum(-1, keepdims=True), 1)
            weights = jnp.broadcast_to(weights[:, None], (z.shape[0], self.num_heads, mask.shape[-1]))
        else:
            weights = self._attend(z, keys, scores, mask)
        total = jnp.zeros_like(z)
        for kind, value in values.items():
            pooled = jnp.einsum("bhk,bkv->bhv", weights, value)
            shape = (self.num_heads, value.shape[-1], self.value_dim // self.num_heads)
            project = self.param(f"project_{kind}", nn.initializers.lecun_normal(in_axis=1, batch_axis=0), shape)
            heads = jnp.einsum("bhv,hvd->bhd", pooled, project).reshape(z.shape[0], -1)
            total += nn.Dense(dim, kernel_init=nn.initializers.zeros, name=f"output_{kind}")(heads)
        return z + total, weights

    def _attend(self, z: jax.Array, keys: jax.Array, scores: jax.Array, mask: jax.Array) -> jax.Array:
        dim, similar = z.shape[-1], self.start == "similarity"
        fan_in = nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
        init = nn.initializers.normal(_SMALL_INIT) if similar else fan_in
        shape = (dim, self.num_heads, self.attention_dim)
        query = self.param("query", init, shape)
        key = self.param("key", fan_in, shape)
        # Relative to its first value, so that a step of the optimiser changes it by a fair share.
        relative = self.param("scale", nn.initializers.constant(1.0 if similar else 0.0), (self.num_heads,))
        scale = self.similarity_scale * relative
        projected = jnp.einsum("bd,dha->bha", standardize(z), query)
        absorbed = jnp.einsum("bha,dha->bhd", projected, key) / jnp.sqrt(self.attention_dim)
        logits = jnp.einsum("bhd,bkd->bhk", absorbed, keys) + scale[:, None] * scores[:, None]
        return masked_softmax(logits, mask[:, None])
