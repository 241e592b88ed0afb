"""Trains a linear layer behind each of two frozen encoders, so that an image and its text have a high cosine.

The loss is the symmetric InfoNCE of CLIP (Radford et al., 2021): of all texts of a batch an image must find its own,
and of all images a text. Equal captions are no negatives of each other. The step is chosen by recall on val.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs.base import Align
from model.aligning import retrieval
from model.aligning.pairs import Pairs, Parts
from pipelines.errors import UserError

_SHORTEST = 1e-12
_K = 10


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear layer, `x @ matrix + bias`, with float32 `[width, dim]` and `[dim]`."""

    matrix: np.ndarray
    bias: np.ndarray

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Returns vectors `[n, width]` in the shared space, float32 `[n, dim]` of unit length."""
        found = vectors @ self.matrix + self.bias
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.float32(_SHORTEST))


@dataclasses.dataclass(frozen=True)
class Space:
    """Two layers into one space, and the step at which they were best on val.

    Attributes:
        image: behind the image encoder.
        text: behind the text encoder.
        step: that was chosen.
        temperature: that was learned by then.
        val_recall: recall@10 on val there, the mean of both directions.
    """

    image: Layer
    text: Layer
    step: int
    temperature: float
    val_recall: float


def loss(images: jax.Array, texts: jax.Array, captions: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns the symmetric InfoNCE of a batch.

    Args:
        images: float32 `[B, D]` of unit length.
        texts: of the same pairs, the same.
        captions: numbers `[B]`; pairs with equal numbers are no negatives of each other.
        scale: factor of the cosines, the inverse temperature.
    """
    logits = scale * images @ texts.T
    same = (captions[:, None] == captions[None, :]) & ~jnp.eye(len(captions), dtype=bool)
    logits, own = jnp.where(same, -jnp.inf, logits), jnp.diag(logits)
    return sum((jax.nn.logsumexp(logits, axis) - own).mean() for axis in (0, 1)) / 2


def train(parts: Parts, align: Align, seed: int, on_step: Callable[[int], None] = lambda _: None) -> Space:
    """Trains the two layers; same pairs, settings and seed, same bytes.

    Args:
        parts: the pairs; `held_out` is not looked at.
        align: settings.
        seed: of the first weights, the batches and the dropout.
        on_step: told how many steps are done.

    Raises:
        UserError: if the training diverges.
    """
    # Two matrices: the processor does, and an accelerator is TensorFlow's in this process.
    jax.config.update("jax_platforms", "cpu")
    shifts = _standard(parts.train.images), _standard(parts.train.texts)
    inputs = tuple(
        jnp.asarray((x - mean) / std)
        for x, (mean, std) in zip((parts.train.images, parts.train.texts), shifts, strict=True)
    )
    params = _first(inputs[0].shape[1], inputs[1].shape[1], align, seed)
    optimizer = optax.adamw(
        optax.cosine_decay_schedule(align.learning_rate, align.steps),
        weight_decay=align.weight_decay,
        mask={"image": True, "text": True, "log_scale": False},
    )
    state, captions = optimizer.init(params), jnp.asarray(parts.train.captions)
    step = jax.jit(partial(_step, optimizer, align.dropout))
    batches, best = _Batches(len(parts.train), align.batch_size, seed), None
    for number in range(align.steps):
        rows = batches.next()
        rng = jax.random.fold_in(jax.random.PRNGKey(seed), number)
        params, state = step(params, state, inputs[0][rows], inputs[1][rows], captions[rows], rng)
        if (number + 1) % align.val_every == 0 or number + 1 == align.steps:
            space = _space(params, shifts, number + 1, parts.val)
            if not np.isfinite(space.image.matrix).all() or not np.isfinite(space.text.matrix).all():
                raise UserError(
                    f"--config.align.learning_rate={align.learning_rate}: the weights are not finite after "
                    f"{number + 1} steps; lower it"
                )
            best = space if best is None or space.val_recall > best.val_recall else best
            on_step(number + 1)
    assert best is not None
    return best


class _Batches:
    """Rows of each step: every pair once before any comes again, the rest of an epoch left out."""

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self._rows, self._size = rows, min(batch_size, rows)
        self._rng, self._left = np.random.default_rng(seed), np.empty(0, np.int64)

    def next(self) -> np.ndarray:
        if len(self._left) < self._size:
            self._left = self._rng.permutation(self._rows)
        rows, self._left = self._left[: self._size], self._left[self._size :]
        return rows


def _standard(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each entry; an entry that never changes is not scaled."""
    std = vectors.std(0, dtype=np.float64)
    return vectors.mean(0, dtype=np.float64).astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def _first(image_width: int, text_width: int, align: Align, seed: int) -> dict[str, jax.Array]:
    image, text = jax.random.split(jax.random.PRNGKey(seed))
    return {
        "image": jax.random.normal(image, (image_width, align.dim)) / np.sqrt(image_width),
        "text": jax.random.normal(text, (text_width, align.dim)) / np.sqrt(text_width),
        "log_scale": jnp.log(1 / align.temperature),
    }


def _step(
    optimizer: Any, dropout: float, params: Any, state: Any, images: Any, texts: Any, captions: Any, rng: Any
) -> Any:
    def batch_loss(params: Any) -> jax.Array:
        for_image, for_text = jax.random.split(rng)
        one = _unit(_drop(images, dropout, for_image) @ params["image"])
        other = _unit(_drop(texts, dropout, for_text) @ params["text"])
        return loss(one, other, captions, jnp.exp(params["log_scale"]))

    updates, state = optimizer.update(jax.grad(batch_loss)(params), state, params)
    return optax.apply_updates(params, updates), state


def _drop(vectors: jax.Array, share: float, rng: jax.Array) -> jax.Array:
    return vectors * jax.random.bernoulli(rng, 1 - share, vectors.shape) / (1 - share)


def _unit(vectors: jax.Array) -> jax.Array:
    """Returns vectors at unit length; zero, as dropout may leave it, stays zero and has a gradient."""
    squares = (vectors * vectors).sum(-1, keepdims=True)
    return vectors / jnp.sqrt(jnp.where(squares > 0, squares, 1))


def _space(params: Any, shifts: Any, step: int, val: Pairs) -> Space:
    """Returns layers that take the frozen vectors as they are, measured on val."""
    image, text = (_layer(np.asarray(params[name]), *by) for name, by in zip(("image", "text"), shifts, strict=True))
    images, texts = image(val.images), text(val.texts)
    recall = np.mean([retrieval.recall(*way, _K) for way in ((images, texts), (texts, images))])
    return Space(image, text, step, float(np.exp(-params["log_scale"])), float(recall))


def _layer(weights: np.ndarray, mean: np.ndarray, std: np.ndarray) -> Layer:
    matrix = weights / std[:, None]
    return Layer(matrix, -mean @ matrix)
