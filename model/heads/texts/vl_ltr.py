"""The recognition head of VL-LTR: an MLP of the query, and attention over a bank of sentences of each class.

`class_bank` makes the bank. Their first stage, which tunes the image and text encoders, is omitted: ours are frozen.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from configs.base import Train
from model.data.batch import EPSILON, Batch, Output, masked_softmax, standardize
from model.data.datasets import Task
from model.heads.base import Head
from model.heads.linear import dropout, learned
from model.prepare import class_bank
from model.prepare.class_bank import Bank

_LOG_SCALE = math.log(1 / 0.07)


def _identity(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    return jnp.eye(*shape, dtype=dtype)


class VlLtr(nn.Module):
    """Two branches that are each trained by the loss (Tian et al., ECCV 2022, eq. 5 to 7).

    With q' = P LN(q), which has the width V of the sentences t (theirs share a space):

        a_cs = softmax_s((W_Q LN(q')) . (W_K LN(t_cs)) / sqrt(V));  v_c = sum_s a_cs t_cs
        logits 1 = W_2 relu(W_1 LN(q) + b_1) + b_2;  logits 2 = cos(q', v_c) exp(s)

    v_c is never computed: q'.v_c = sum_s a_cs q'.t_cs, and |v_c|^2 = a_c^T (T_c T_c^T) a_c, which takes `O(B C S^2)`
    operations instead of `O(B C S V)`, and `[B, C, S]` of memory instead of `[B, C, V]`.

    Attributes:
        num_classes: C.
        hidden: width of the MLP.
    """

    num_classes: int
    hidden: int

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns the sum of both branches' log-probabilities as logits, and the branches."""
        prepared: Bank = batch.prepared
        bank, mask = prepared
        features, width = standardize(batch.queries), bank.shape[-1]
        query = dropout(features, rate, rng)
        visual = nn.relu(nn.Dense(self.hidden, name="visual_hidden")(query))
        visual = nn.Dense(self.num_classes, name="visual")(visual)

        query = nn.Dense(width, use_bias=False, name="project")(query)
        attended = standardize(query) @ self.param("query", _identity, (width, width))
        # W_K is absorbed into the query, as in `memory_attention`.
        attended = attended @ self.param("key", _identity, (width, width)).T / math.sqrt(width)
        weights = masked_softmax(jnp.einsum("bv,csv->bcs", attended, bank), mask)
        product = (weights * jnp.einsum("bv,csv->bcs", query, bank)).sum(-1)
        gram = jnp.einsum("csv,ctv->cst", bank, bank)
        squared = (jnp.einsum("bcs,cst->bct", weights, gram) * weights).sum(-1)
        length = jnp.sqrt(jnp.square(query).sum(-1, keepdims=True) * squared + EPSILON)
        scale = jnp.exp(learned(self, "log_scale", _LOG_SCALE))
        linguistic = product / length * scale

        logits = jax.nn.log_softmax(visual) + jax.nn.log_softmax(linguistic)
        return Output(logits, features, jnp.zeros((len(features), 0)), (visual, linguistic))


def build(train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head; its hidden width is a multiple of the query's."""
    return VlLtr(num_classes, hidden=max(1, round(train.vl_ltr_width * batch.queries.shape[-1])))


def prepare(task: Task, train: Train) -> Bank:
    """Returns the bank of sentences."""
    return class_bank.make(task, train.bank_sentences)


HEAD = Head(
    "vl_ltr",
    build,
    needs_neighbors=False,
    needs_text=True,
    prepare=prepare,
    prepared=Bank,
    of_labels=True,
    about="attention over a bank of captions for each class",
)
