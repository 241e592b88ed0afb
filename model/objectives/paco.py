"""Parametric contrastive learning: images are contrasted with each other and with the centres of classes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from model.data.batch import Output, unit
from model.heads.linear import dropout
from model.objectives import losses
from model.objectives.base import Facts, Forward, Objective, Step, branches

# Keys of a step that forward passes do not use.
_VIEWS = (100, 101)
_SECOND = 102


def _project(own: Any, features: jax.Array) -> jax.Array:
    """Returns projected features of unit length, `[B, P]`, to compare images by."""
    hidden = nn.relu(features @ own["hidden"]["kernel"] + own["hidden"]["bias"])
    projected = hidden @ own["out"]["kernel"] + own["out"]["bias"]
    return unit(projected, losses.EPSILON)


class Paco(Objective):
    """Supervised contrastive loss with class centres and a queue (Cui et al., ICCV 2021).

    The centres are the head's classifier, whose logits get the log prior in training and none in prediction. In the
    paper the two views are two crops of an image; with frozen embeddings they are two draws of dropout on the query and
    in the head. As in the paper, a momentum copy of head and projection makes the second view, which the queue keeps.
    """

    def __init__(self, train: Any, facts: Facts) -> None:
        """See `Objective`."""
        super().__init__(train, facts)
        self._log_prior = losses.log_prior(facts.class_counts)

    def init(self, rng: jax.Array, head: Any, output: Output) -> tuple[Any, Any]:
        """See `Objective.init`."""
        settings, width = self.train.paco, output.features.shape[-1]
        draw = nn.initializers.lecun_normal()
        hidden, out = jax.random.split(rng)
        own = {
            "hidden": {"kernel": draw(hidden, (width, width)), "bias": jnp.zeros(width)},
            "out": {"kernel": draw(out, (width, settings.dim)), "bias": jnp.zeros(settings.dim)},
        }
        state = {
            # Copied, since the buffers of parameters and state are donated separately.
            "copy": jax.tree.map(jnp.copy, {"head": head, "own": own}),
            "queue": jnp.zeros((settings.queue, settings.dim)),
            # Negative while an entry is empty.
            "labels": jnp.full(settings.queue, -1, jnp.int32),
        }
        return own, state

    def loss(self, forward: Forward, step: Step) -> tuple[jax.Array, Any]:
        """See `Objective.loss`."""
        settings, state, size = self.train.paco, step.state, len(step.labels)
        views = [
            step.batch._replace(
                queries=dropout(step.batch.queries, settings.view_dropout, jax.random.fold_in(step.rng, key))
            )
            for key in _VIEWS
        ]
        copy = jax.tree.map(
            lambda old, new: settings.momentum * old + (1 - settings.momentum) * jax.lax.stop_gradient(new),
            state["copy"],
            {"head": step.head, "own": step.own},
        )
        output = forward(step.head, views[0], step.rng)
        first = _project(step.own, output.features)
        second_output = forward(copy["head"], views[1], jax.random.fold_in(step.rng, _SECOND))
        second = jax.lax.stop_gradient(_project(copy["own"], second_output.features))

        similarities = first @ jnp.concatenate([first, second, state["queue"]]).T / settings.temperature
        contrasted = jnp.concatenate([step.labels, step.labels, state["labels"]])
        itself = jnp.eye(size, len(contrasted), dtype=bool)
        contrasted = jnp.where(itself, -1, contrasted)
        weights = (settings.alpha, settings.beta, settings.gamma)
        each = [
            losses.parametric_contrastive(logits + self._log_prior, step.labels, similarities, contrasted, weights)
            for logits in branches(output)
        ]
        # The oldest entries of the queue are replaced.
        places = (step.number * size + jnp.arange(size)) % settings.queue
        queue = state["queue"].at[places].set(second)
        labels = state["labels"].at[places].set(step.labels)
        return sum(each, jnp.zeros(())), {"copy": copy, "queue": queue, "labels": labels}
