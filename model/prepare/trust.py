"""How far a memory is to be believed, measured with labels: row by row, class by class, and as a whole.

A caption is believed as far as it fits its own image, in the eyes of a classifier that has seen labelled images alone
(`believed`); a class as far as its rows follow its labelled images (`class_means`); the whole if it is right more often
on val, beyond chance. Ours, not the paper's (docs/method.md).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Names
from model.data.batch import standardize
from model.data.datasets import Split, Task
from model.data.tables import standardize_rows
from model.prepare import class_means
from model.prepare.class_means import Sums
from model.prepare.name_prior import cosines, posterior

BLOCK_ROWS = 1 << 12
_BLOCK_QUERIES = 64
# Added to the covariance of labelled images alone, as a share of the mean variance; they are few.
_RIDGE = 1.0
_ROUNDS = 50
# Rows of each class that are wrong as often as those of all classes.
_ROWS_LIKE_ALL = 10.0
_FACTORS = np.geomspace(0.01, 10, 61)
_VOTES = tuple(0.15 * step for step in range(8))
# Standard errors by which a memory must be better on val, and its votes, which a few rows near one image can sway.
_MARGIN, _VOTE_MARGIN = 1.0, 2.0
_SMALLEST = float(np.finfo(np.float32).tiny)


class Trust(NamedTuple):
    """What a head reads of the labels and the memory.

    Attributes:
        names: embedded class names, unit length, float32 `[C, V]`.
        classifier: of standardized queries that end in a 1, by labels and memory, float32 `[D + 1, C]`.
        judge: the same, by labels alone.
        doubt: share of the captions naming each class that do not show it, float32 `[C]`; 1 where the memory is left
            aside.
        vote: weight of the neighbours' votes, float32 `[]`; 0 where they add nothing.
    """

    names: np.ndarray
    classifier: np.ndarray
    judge: np.ndarray
    doubt: np.ndarray
    vote: np.ndarray


def believed(plausible: jax.Array, doubt: jax.Array) -> jax.Array:
    """Returns the probability that a caption naming each class is right, `[.., C]`.

    Captions that are right name the class that the image shows; the others name any class, whatever it shows.

    Args:
        plausible: probability of each class by the image alone, `[.., C]`.
        doubt: share of the wrong ones among the captions naming a class, `[C]`.
    """
    return _right(plausible, doubt, plausible.shape[-1])


def said(
    keys: jax.Array, texts: jax.Array, names: jax.Array, judge: jax.Array, settings: Names
) -> tuple[jax.Array, jax.Array]:
    """Returns which classes captions name and which ones their images show by labels alone, both `[.., C]`.

    Args:
        keys: of memory rows, standardized, `[.., D]`.
        texts: their text values, standardized, `[.., V]`.
        names: as in `Trust`.
        judge: as in `Trust`.
        settings: `temperature` and `threshold`.
    """
    named = posterior(cosines(texts, standardize(names)), settings.temperature, settings.threshold)
    return named, jax.nn.softmax(keys @ judge[:-1] + judge[-1])


def votes(shares: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns what lists vote for, `[B, C]`, and the weights of the votes `[B, K]`: 1 / (rank + 2), scaled to sum 1.

    Args:
        shares: of the classes by each neighbour, the nearest first, `[B, K, C]`.
        mask: false where a list is padded, `[B, K]`.
    """
    weights = jnp.where(mask, 1 / (jnp.arange(mask.shape[1]) + 2.0), 0)
    weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), _SMALLEST)
    return jnp.einsum("bk,bkc->bc", weights, shares), weights


def doubts(named: np.ndarray, strength: np.ndarray, plausible: np.ndarray, classes: int) -> np.ndarray:
    """Estimates the share of wrong captions of each class, by expectation maximisation.

    Args:
        named: the class that each caption names most, `[M]`.
        strength: how strongly, 0 to 1, `[M]`.
        plausible: probability of that class by the image alone, `[M]`.
        classes: C.

    Returns:
        Float32 `[C]`; that of all captions for a class that few captions name.
    """
    doubt = np.full(classes, 0.5)
    total = max(float(strength.sum()), _SMALLEST)
    counts = np.bincount(named, strength, classes)
    for round_ in range(2 * _ROUNDS):
        right = _right(plausible, doubt[named], classes)
        wrong = strength * (1 - right)
        if round_ < _ROUNDS:
            doubt[:] = wrong.sum() / total
            continue
        overall = wrong.sum() / total
        doubt = (np.bincount(named, wrong, classes) + _ROWS_LIKE_ALL * overall) / (counts + _ROWS_LIKE_ALL)
    return doubt.astype(np.float32)


def _right(plausible: Any, doubt: Any, classes: int) -> Any:
    right = (1 - doubt) * plausible
    return right / (right + doubt / classes + _SMALLEST)


def _calibrated(classifier: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns a classifier times the factor with which its probabilities of some rows are best."""
    scores = _scores(rows, classifier)
    losses = [_loss(factor * scores, labels) for factor in _FACTORS]
    return (_FACTORS[int(np.argmin(losses))] * classifier).astype(np.float32)


def _scores(rows: np.ndarray, classifier: np.ndarray) -> np.ndarray:
    return rows @ classifier[:-1].astype(np.float64) + classifier[-1]


def _loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean negative log-likelihood."""
    scores = scores - scores.max(1, keepdims=True)
    return float((np.log(np.exp(scores).sum(1)) - scores[np.arange(len(labels)), labels]).mean())


def _labelled(split: Split, classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields blocks of queries and the classes that they are of."""
    for begin in range(0, len(split.labels), BLOCK_ROWS):
        part = slice(begin, begin + BLOCK_ROWS)
        yield standardize_rows(split.queries[part]), np.eye(classes, dtype=np.float32)[split.labels[part]]


class _Memory:
    """The rows that training images retrieved, in the eyes of a judge."""

    def __init__(self, task: Task, judge: np.ndarray, settings: Names) -> None:
        self._task, self._judge, self._settings = task, judge, settings
        self._rows = task.splits["train"].retrieved
        self._names = task.name_vectors["text"]

    def said(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns standardized keys `[n, D]` of rows `[n]`, and what `said` returns of them."""
        keys = standardize_rows(self._task.keys[rows])
        texts = standardize_rows(self._task.values["text"][rows])
        named, plausible = _said(keys, texts, self._names, self._judge, self._settings)
        return keys, np.asarray(named), np.asarray(plausible)

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for begin in range(0, len(self._rows), BLOCK_ROWS):
            yield self.said(self._rows[begin : begin + BLOCK_ROWS])

    def doubts(self) -> np.ndarray:
        """Returns the result of `doubts`; reads the rows once."""
        found = []
        for _, named, plausible in self._blocks():
            most = named.argmax(1)
            each = np.arange(len(most))
            found.append((most, named[each, most], plausible[each, most]))
        most, strength, plausible = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return doubts(most, strength, plausible, len(self._names))

    def sums(self, doubt: np.ndarray) -> Sums:
        """Returns the sums over the rows as far as they are believed; reads them once."""
        blocks = self._blocks()
        return class_means.add((keys, named * np.asarray(believed(seen, doubt))) for keys, named, seen in blocks)

    def votes(self, split: Split, k: int, doubt: np.ndarray) -> np.ndarray:
        """Returns what the lists of a split vote for, float32 `[N, C]`, by their first `k` (0: all) neighbours."""
        near, mask, found = split.neighbors[:, : k or None], split.mask[:, : k or None], []
        for begin in range(0, len(near), _BLOCK_QUERIES):
            part = slice(begin, begin + _BLOCK_QUERIES)
            rows, back = np.unique(near[part], return_inverse=True)
            _, named, seen = self.said(rows)
            shares = named * np.asarray(believed(seen, doubt))
            found.append(np.asarray(votes(shares[back.reshape(near[part].shape)], mask[part])[0]))
        return np.concatenate(found)


_said = jax.jit(said, static_argnums=4)


def make(task: Task, settings: Names, k: int = 0) -> Trust:
    """Measures how far the memory of a task is to be believed.

    Labels of train make the classifiers. Those of val choose three numbers, the factors of both classifiers and the
    weight of the votes, and whether votes and memory are used at all: only if that is right more often, beyond chance.
    Test is not read.

    Args:
        task: with text values and embedded class names.
        settings: `temperature`, `threshold`, `smoothing` and `ridge`.
        k: neighbours that vote; 0 for all.
    """
    train, val, names = task.splits["train"], task.splits["val"], task.name_vectors["text"]
    seen = standardize_rows(val.queries)
    labels = class_means.add(_labelled(train, len(names)))
    judge = _calibrated(class_means.classifier(labels, None, _RIDGE), seen, val.labels)
    alone = Trust(names, judge, judge, np.ones(len(names), np.float32), np.zeros((), np.float32))
    if not len(train.retrieved):
        return alone
    memory = _Memory(task, judge, settings)
    doubt = memory.doubts()
    both = _calibrated(class_means.classifier(labels, memory.sums(doubt), settings.ridge), seen, val.labels)
    plain, scores = _scores(seen, judge), _scores(seen, both)
    logs = np.log(memory.votes(val, k, doubt) + settings.smoothing)
    vote = min(_VOTES, key=lambda weight: _loss(scores + weight * logs, val.labels))
    if not _is_better(scores + vote * logs, scores, val.labels, _VOTE_MARGIN):
        vote = 0.0
    if not _is_better(scores + vote * logs, plain, val.labels, _MARGIN):
        return alone
    return Trust(names, both, judge, doubt, np.asarray(vote, np.float32))


def _is_better(scores: np.ndarray, others: np.ndarray, labels: np.ndarray, margin: float) -> bool:
    """Whether the first scores are right more often than the others, by more than `margin` standard errors."""
    gain = (scores.argmax(1) == labels).astype(np.float64) - (others.argmax(1) == labels)
    return bool(gain.mean() > margin * gain.std() / np.sqrt(len(gain)))
