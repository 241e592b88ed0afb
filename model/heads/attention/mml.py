"""Memory-modular learning (Kang et al., TMLR 2025): attention to image and text neighbours, then class prototypes.

The classifier holds no weights of classes: a class is the mean of its images and that of its texts, so that the memory
can be changed without training.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Train
from model.data import class_names
from model.data.batch import Batch, Output, Rows, directions, standardize, unit
from model.data.datasets import Task
from model.heads.attention.memory_attention import MemoryAttention
from model.heads.base import Head
from model.heads.linear import dropout, thin
from model.prepare import name_start, named_rows
from pipelines.errors import UserError

# Captions of a class, and those that they are chosen from.
_TEXTS, _CANDIDATES = 16, 1000
_EXPANSION = 4


class Prototypes(NamedTuple):
    """One vector of each class in the space of the keys, of unit length.

    Attributes:
        images: mean of the training images, float32 `[C, D]`.
        texts: mean of captions that name the class, float32 `[C, D]`; its name where there is none.
    """

    images: np.ndarray
    texts: np.ndarray


class MemoryModular(nn.Module):
    """Logits `s cos(z + block_t(z), text_c) + s cos(z + block_i(z), image_c)`.

    A block is a layer of `MemoryAttention` with one attention head as wide as the keys, a random start and a residual
    network. Its keys are its values: the keys of the neighbours, or their texts.

    Attributes:
        scale: the factor s.
        neighbor_dropout: share of the neighbours that is left out of each list in training.
        random_k: whether lists are cut to a random length in training.
    """

    scale: float
    neighbor_dropout: float
    random_k: bool

    @nn.compact
    def __call__(self, batch: Batch, rate: jax.Array, rng: jax.Array | None) -> Output:
        """Returns logits, and as weights the mean attention of both blocks."""
        batch = thin(batch, self.neighbor_dropout, self.random_k, rng)
        known: Prototypes = batch.prepared
        keys = batch.keys if batch.key_rows is None else batch.key_rows
        texts = batch.values["text"] if batch.value_rows is None else batch.value_rows["text"]
        image, by_image = self._branch("image", batch, keys, known.images, (rate, rng))
        text, by_text = self._branch("text", batch, texts, known.texts, (rate, rng))
        return Output(image + text, standardize(batch.queries), (by_image + by_text) / 2)

    def _branch(
        self, name: str, batch: Batch, rows: jax.Array | Rows, prototypes: jax.Array, noise: tuple
    ) -> tuple[jax.Array, jax.Array]:
        width = batch.queries.shape[-1]
        # As long as standardized keys are.
        z = directions(batch) * jnp.sqrt(width)
        block = MemoryAttention(width, width, 1, "random", 0.0, feed_forward=_EXPANSION * width, name=name)
        refined, weights = block(z, rows, {name: rows}, batch.scores, batch.mask)
        return self.scale * unit(dropout(z + refined, *noise)) @ prototypes.T, weights[:, 0]


def build(train: Train, num_classes: int, batch: Batch) -> nn.Module:
    """Returns the head."""
    return MemoryModular(train.mml.scale, train.neighbor_dropout, train.random_k)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.finfo(np.float32).tiny)


def prepare(task: Task, train: Train) -> Prototypes:
    """Returns the prototypes: of the captions of a class, those nearest to the mean of its images in all."""
    split, names = task.splits["train"], task.name_vectors[class_names.KEYS]
    images = np.zeros(names.shape, np.float32)
    np.add.at(images, split.labels, _unit(split.queries))
    images = _unit(images)
    named = named_rows.find(task, _CANDIDATES, train.names)
    found = _unit(task.values["text"][named.rows])
    similar = (found * images[named.labels]).sum(-1)
    order = np.lexsort((-similar, named.labels))
    labels = named.labels[order]
    order = order[np.arange(len(order)) - np.searchsorted(labels, labels) < _TEXTS]
    texts = np.zeros(names.shape, np.float32)
    np.add.at(texts, named.labels[order], found[order])
    return Prototypes(images, np.where(texts.any(-1, keepdims=True), _unit(texts), names).astype(np.float32))


def check(task: Task, train: Train) -> None:
    """Raises a `UserError` if images and texts do not share a space."""
    name_start.check(task, "--config.train.heads: mml")
    if task.values["text"].shape[1] != task.keys.shape[1]:
        raise UserError(
            "--config.train.heads: mml adds texts to images, and the text values of the memory are not in the space of "
            "its keys; name the text tower that shares it as --config.encoders.value_text and run web-memory embed "
            "again"
        )
    named_rows.check(task, "mml")


HEAD = Head(
    "mml",
    build,
    needs_neighbors=True,
    needs_text=True,
    attends=True,
    prepare=prepare,
    prepared=Prototypes,
    of_labels=True,
    check=check,
    space={"k": (16, 32, 0), "mml.scale": (8.0, 16.0, 32.0)},
    about="attention to the neighbours' images and to their captions, then the nearest mean image and caption",
)
