"""Heads compiled as a whole: operation by operation they would take several times as long."""

import functools
from typing import Any

import flax.linen as nn
import jax

from model.data.batch import Batch, Output
from model.heads import registry


@functools.partial(jax.jit, static_argnums=0)
def apply(head: nn.Module, params: Any, batch: Batch, rng: jax.Array | None = None) -> Output:
    """Returns the output of a head without dropout; with a key, that of a training step."""
    return head.apply({"params": params}, batch, 0.0, rng)


@functools.partial(jax.jit, static_argnums=0)
def first(head: nn.Module, batch: Batch) -> Any:
    """Returns the first parameters of a head."""
    return registry.init(head, batch, 0)
