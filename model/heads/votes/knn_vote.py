"""The neighbours vote for the classes that their captions name: the visual memory of Geirhos et al., 2024.

No step trains it; training learns one factor of the logits, which makes them probabilities and changes no prediction.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Names, Train, Vote
from model.data.batch import Batch, Output, standardize
from model.data.datasets import Task
from model.data.vectors import chunks
from model.heads.base import Head, temper
from model.heads.linear import thin
from model.prepare.name_prior import cosines, posterior
from pipelines.errors import UserError

_FIRST_RANK = 2.0
# Soft pruning, as published: min(1, 1.75 / (1 + wrong votes)).
_SOFT = 1.75


class Voters(NamedTuple):
    """What the rows of the memory vote for, and how often that is wrong.

    Attributes:
        names: embedded class names, unit length, float32 `[C, V]`.
        wrong: training images in whose list a row votes for another class than theirs, int32 `[M]`.
    """

    names: np.ndarray
    wrong: np.ndarray


def shares(texts: jax.Array, names: jax.Array, settings: Names, one_class: bool) -> jax.Array:
    """Returns how much rows vote for each class, `[.., C]`, at most 1 in all.

    Args:
        texts: standardized text values, `[.., V]`.
        names: `[C, V]`.
        settings: `temperature` and `threshold` of what a caption names.
        one_class: whether a row votes for its likeliest class alone; a row that likelier names none has no vote.
    """
    named = posterior(cosines(texts, standardize(names)), settings.temperature, settings.threshold)
    if not one_class:
        return named
    names_one = named.max(-1, keepdims=True) > 1 - named.sum(-1, keepdims=True)
    return names_one * jax.nn.one_hot(named.argmax(-1), named.shape[-1])


class KnnVote(nn.Module):
    """Logits `f log(sum_j w_j q_jc / sum_j w_j + e)`: neighbour j has weight w_j and votes q_jc for class c.

    Attributes:
        vote: how neighbours are weighed and pruned.
        names: `temperature`, `threshold` and `smoothing`, e, of what a caption names.
        neighbor_dropout: share of the neighbours that is left out of each list in training.
        random_k: whether lists are cut to a random length in training.
    """

    vote: Vote
    names: Names
    neighbor_dropout: float
    random_k: bool

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits, and as weights those of the votes."""
        batch = thin(batch, self.neighbor_dropout, self.random_k, rng)
        known: Voters = batch.prepared
        weights = self._weights(batch, known)
        weights /= jnp.maximum(weights.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
        each = shares(batch.values["text"], known.names, self.names, self.vote.one_class)
        votes = jnp.einsum("bk,bkc->bc", weights, each)
        logits = temper(self, jnp.log(votes + self.names.smoothing))
        return Output(logits, standardize(batch.queries), weights)

    def _weights(self, batch: Batch, known: Voters) -> jax.Array:
        """Returns weights `[B, K]`, relative to each other."""
        kept, soft = batch.mask, jnp.ones(())
        if self.vote.pruning != "none":
            if batch.memory_rows is None:
                raise ValueError("pruning needs to know which rows of the memory the neighbours are")
            # A row that no training image had in its list has not been wrong.
            wrong = jnp.where(batch.memory_rows < 0, 0, known.wrong[batch.memory_rows])
            soft = jnp.minimum(1.0, _SOFT / (1 + wrong)) if self.vote.pruning == "soft" else soft
            sound = kept & (wrong < self.vote.most_wrong) if self.vote.pruning == "hard" else kept
            # A list without any sound row votes as a whole.
            kept = jnp.where(sound.any(-1, keepdims=True), sound, kept)
        match self.vote.weights:
            case "rank":
                # A row that is left out has no rank.
                each = 1 / (jnp.cumsum(kept, -1) - 1 + _FIRST_RANK)
            case "softmax":
                each = jax.nn.softmax(jnp.where(kept, batch.scores / self.vote.temperature, -1e9), -1)
            case _:
                each = jnp.ones(kept.shape)
        return jnp.where(kept, each * soft, 0.0)


def build(train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head."""
    return KnnVote(train.vote, train.names, train.neighbor_dropout, train.random_k)


@jax.jit
def _said(texts: jax.Array, names: jax.Array, temperature: float, threshold: float) -> jax.Array:
    """Returns the class that each caption names, int32 `[n]`; -1 for none."""
    found = shares(standardize(texts), names, Names(temperature=temperature, threshold=threshold), True)
    return jnp.where(found.any(-1), found.argmax(-1), -1)


def prepare(task: Task, train: Train) -> Voters:
    """Counts the wrong votes over all neighbours of the training images."""
    names, settings, split = task.name_vectors["text"], train.names, task.splits["train"]
    parts = [_said(chunk, names, settings.temperature, settings.threshold) for _, chunk in chunks(task.values["text"])]
    votes = np.concatenate([np.asarray(part) for part in parts])[split.neighbors]
    is_wrong = split.mask & (votes >= 0) & (votes != split.labels[:, None])
    return Voters(names, np.bincount(split.neighbors[is_wrong], minlength=len(task.memory_ids)).astype(np.int32))


def check(task: Task, train: Train) -> None:
    """Raises a `UserError` if the rows of the memory have no classes."""
    if "text" not in task.name_vectors:
        raise UserError(
            "--config.train.heads: knn_vote needs the classes of memory rows, which it finds by comparing captions "
            "with the names of the classes, and none are embedded; set --config.class_names and run web-memory embed "
            "again with a text encoder"
        )


HEAD = Head(
    "knn_vote",
    build,
    needs_neighbors=True,
    needs_text=True,
    prepare=prepare,
    prepared=Voters,
    of_labels=True,
    of_rows=True,
    check=check,
    trained=False,
    space={
        "k": (8, 32, 0),
        "similarity": ("cosine", "whitened"),
        "vote.weights": ("rank", "plurality", "softmax"),
        "vote.temperature": (0.02, 0.07, 0.2),
        "vote.pruning": ("none", "hard", "soft"),
        "vote.most_wrong": (8, 32, 128),
        "vote.one_class": (True, False),
    },
    about="the classes that the neighbours' captions name, by vote; learns nothing but which rows to trust",
)
