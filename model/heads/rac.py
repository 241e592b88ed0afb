"""Retrieval augmented classification: the linear classifier plus one that reads the retrieved texts."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from model.data.batch import Batch, Output, standardize
from model.heads.linear import Linear, dropout, thin
from model.heads.memory_attention import masked_softmax

# The learned factor of logits of unit length starts at 1 / .07.
_SCALE = 1 / 0.07
_EPSILON = 1e-6


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + _EPSILON)


class Rac(nn.Module):
    """Logits `W_B LN(z) + W_R LN(g)` with the pooled texts g (Long et al., CVPR 2022, section 3; g is inferred).

    Their retrieval branch is a text encoder over the joined texts; this one pools frozen embeddings of each text.

    Attributes:
        num_classes: C.
        pooling: `mean` of the texts, or weighted by softmax(scale * cosine): `similarity`.
        similarity_scale: that scale, which is not learned.
        normalize: whether each branch's logits are brought to unit length and scaled by a learned factor of its own.
        neighbor_dropout: share of the neighbours that is left out of each list while training.
        random_k: whether lists are cut to a random length while training.
    """

    num_classes: int
    pooling: str
    similarity_scale: float
    normalize: bool
    neighbor_dropout: float
    random_k: bool

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits, the features of the base branch, and as weights those of the pooling."""
        batch = thin(batch, self.neighbor_dropout, self.random_k, rng)
        base = Linear(self.num_classes)(batch, rate, rng)
        scale = self.similarity_scale if self.pooling == "similarity" else 0.0
        weights = masked_softmax(scale * batch.scores, batch.mask)
        texts = standardize(jnp.einsum("bk,bkv->bv", weights, batch.values["text"]))
        texts = dropout(texts, rate, None if rng is None else jax.random.fold_in(rng, 3))
        # From zero the head starts at the linear classifier; a direction must be drawn if lengths are taken off.
        kernel = nn.initializers.lecun_normal() if self.normalize else nn.initializers.zeros
        retrieved = nn.Dense(self.num_classes, kernel_init=kernel, name="retrieval")(texts)
        if not self.normalize:
            return base._replace(logits=base.logits + retrieved, weights=weights)
        # Relative to its first value, so that a step of the optimiser changes it by a fair share.
        scales = _SCALE * self.param("scale", nn.initializers.ones, (2,))
        return base._replace(logits=scales[0] * _unit(base.logits) + scales[1] * _unit(retrieved), weights=weights)
