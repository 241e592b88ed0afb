"""The recognition head of VL-LTR: an MLP of the query, and attention over a bank of sentences of each class.

The bank is made by `class_bank`. Their first stage, which tunes image and text encoder, is left out: ours are frozen.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from model.data.batch import Batch, Output, standardize
from model.heads.linear import dropout
from model.heads.memory_attention import masked_softmax

_LOG_SCALE = math.log(1 / 0.07)
_EPSILON = 1e-6


def _identity(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    return jnp.eye(*shape, dtype=dtype)


class VlLtr(nn.Module):
    """Two branches that are each trained by the loss (Tian et al., ECCV 2022, eq. 5 to 7).

    With q' = P LN(q), which brings the query to the width V of the sentences t (theirs share a space):

        a_cs = softmax_s((W_Q LN(q')) . (W_K LN(t_cs)) / sqrt(V));  v_c = sum_s a_cs t_cs
        logits 1 = W_2 relu(W_1 LN(q) + b_1) + b_2;  logits 2 = cos(q', v_c) exp(s)

    No v_c is made: q'.v_c = sum_s a_cs q'.t_cs, and |v_c|^2 = a_c^T (T_c T_c^T) a_c, which is `O(B C S^2)` instead of
    `O(B C S V)`, and needs `[B, C, S]` instead of `[B, C, V]` of memory.

    Attributes:
        num_classes: C.
        hidden: width of the MLP.
    """

    num_classes: int
    hidden: int

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns the sum of both branches' log-probabilities as logits, and the branches."""
        bank, mask = batch.classes["bank_text"], batch.classes["bank_mask"]
        features, width = standardize(batch.queries), bank.shape[-1]
        query = dropout(features, rate, rng)
        visual = nn.relu(nn.Dense(self.hidden, name="visual_hidden")(query))
        visual = nn.Dense(self.num_classes, name="visual")(visual)

        query = nn.Dense(width, use_bias=False, name="project")(query)
        attended = standardize(query) @ self.param("query", _identity, (width, width))
        # W_K is absorbed by the query, as in `memory_attention`.
        attended = attended @ self.param("key", _identity, (width, width)).T / math.sqrt(width)
        weights = masked_softmax(jnp.einsum("bv,csv->bcs", attended, bank), mask)
        product = (weights * jnp.einsum("bv,csv->bcs", query, bank)).sum(-1)
        gram = jnp.einsum("csv,ctv->cst", bank, bank)
        squared = (jnp.einsum("bcs,cst->bct", weights, gram) * weights).sum(-1)
        length = jnp.sqrt(jnp.square(query).sum(-1, keepdims=True) * squared + _EPSILON)
        # Relative to its first value, so that a step of the optimiser changes it by a fair share.
        scale = jnp.exp(_LOG_SCALE * self.param("log_scale", nn.initializers.ones, ()))
        linguistic = product / length * scale

        logits = jax.nn.log_softmax(visual) + jax.nn.log_softmax(linguistic)
        return Output(logits, features, jnp.zeros((len(features), 0)), (visual, linguistic))
