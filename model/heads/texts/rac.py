"""Retrieval augmented classification: the linear classifier plus one that reads the retrieved texts."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from configs.base import Train
from model.data.batch import Batch, Output, masked_softmax, standardize, unit
from model.heads.base import Head
from model.heads.linear import Linear, dropout, learned, thin

# First value of the learned factor on logits of unit length.
_SCALE = 1 / 0.07


class Rac(nn.Module):
    """Logits `W_B LN(z) + W_R LN(g)` with the pooled texts g (Long et al., CVPR 2022, section 3; g is inferred).

    Their retrieval branch is a text encoder over the concatenated texts; this one pools frozen embeddings of each text.

    Attributes:
        num_classes: C.
        pooling: `mean` of the texts, or weighted by softmax(scale * cosine): `similarity`.
        similarity_scale: that scale, which is not learned.
        normalize: whether each branch's logits are scaled to unit length times a learned factor.
        neighbor_dropout: share of the neighbours that is left out of each list in training.
        random_k: whether lists are cut to a random length in training.
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
        # With zeros the head starts at the linear classifier; logits of unit length need a direction.
        kernel = nn.initializers.lecun_normal() if self.normalize else nn.initializers.zeros
        retrieved = nn.Dense(self.num_classes, kernel_init=kernel, name="retrieval")(texts)
        if not self.normalize:
            return base._replace(logits=base.logits + retrieved, weights=weights)
        scales = learned(self, "scale", _SCALE, (2,))
        return base._replace(logits=scales[0] * unit(base.logits) + scales[1] * unit(retrieved), weights=weights)


def build(train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head."""
    return Rac(
        num_classes=num_classes,
        pooling=train.rac_pooling,
        similarity_scale=train.similarity_scale,
        normalize=train.rac_normalize,
        neighbor_dropout=train.neighbor_dropout,
        random_k=train.random_k,
    )


HEAD = Head(
    "rac",
    build,
    needs_neighbors=True,
    needs_text=True,
    about="a linear classifier of the image's vector beside one of its neighbours' captions",
)
