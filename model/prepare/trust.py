"""How far a memory is to be believed, measured with labels: row by row, class by class, and as a whole.

A caption is believed as far as it fits its own image, in the eyes of a classifier that has seen labelled images alone
(`believed`); a class as far as its rows follow its labelled images (`class_means`); the whole if it makes the labels of
val likelier, beyond chance. Ours, not the paper's (docs/method.md).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Names, Train
from model.data.batch import masked_softmax, standardize
from model.data.datasets import Split, Task, similarities
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
_SCALES = (5.0, 10.0, 20.0, 40.0, 80.0)
_WEIGHTS = np.arange(1, 11) * 0.15
# Standard errors by which what the memory adds must be better on val.
_MARGIN = 2.0
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
        scale: factor of the scores before the softmax over the neighbours, float32 `[]`.
    """

    names: np.ndarray
    classifier: np.ndarray
    judge: np.ndarray
    doubt: np.ndarray
    vote: np.ndarray
    scale: np.ndarray


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


def votes(shares: jax.Array, scores: jax.Array, mask: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns what lists vote for, `[B, C]`, and the weights of the votes `[B, K]`: the softmax of scaled scores.

    Args:
        shares: of the classes by each neighbour, `[B, K, C]`.
        scores: of the neighbours, `[B, K]`.
        mask: false where a list is padded, `[B, K]`; an empty list has no votes.
        scale: `[]`.
    """
    weights = masked_softmax(scale * scores, mask)
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
    means = [_judged(factor * scores, labels)[0].mean() for factor in _FACTORS]
    return (_FACTORS[int(np.argmax(means))] * classifier).astype(np.float32)


def _scores(rows: np.ndarray, classifier: np.ndarray) -> np.ndarray:
    return rows @ classifier[:-1].astype(np.float64) + classifier[-1]


def _judged(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log-likelihood of each label, and whether it is predicted, both `[n]`."""
    shifted = scores - scores.max(1, keepdims=True)
    likelihoods = shifted[np.arange(len(labels)), labels] - np.log(np.exp(shifted).sum(1))
    return likelihoods, scores.argmax(1) == labels


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

    def votes(self, split: Split, train: Train, doubt: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tries each scale and weight of the votes.

        Args:
            split: its lists vote.
            train: `k`, `similarity` and `names.smoothing`.
            doubt: as in `Trust`.
            scores: of the classes without votes, `[N, C]`.

        Returns:
            Log-likelihoods of the labels, and whether the prediction is right, both `[_SCALES, _WEIGHTS, N]`.
        """
        near, mask, similar = (
            array[:, : train.k or None]
            for array in (split.neighbors, split.mask, similarities(split, train.similarity))
        )
        found = np.empty((2, len(_SCALES), len(_WEIGHTS), len(near)))
        for begin in range(0, len(near), _BLOCK_QUERIES):
            part = slice(begin, begin + _BLOCK_QUERIES)
            rows, back = np.unique(near[part], return_inverse=True)
            _, named, seen = self.said(rows)
            shares = (named * np.asarray(believed(seen, doubt)))[back.reshape(near[part].shape)]
            for i, scale in enumerate(_SCALES):
                logs = np.log(np.asarray(votes(shares, similar[part], mask[part], scale)[0]) + train.names.smoothing)
                for j, weight in enumerate(_WEIGHTS):
                    found[:, i, j, part] = _judged(scores[part] + weight * logs, split.labels[part])
        return found[0], found[1] > 0


_said = jax.jit(said, static_argnums=4)


class _Choice(NamedTuple):
    """What is believed; the log-likelihoods of the labels of val then, and whether they are predicted, both `[N]`."""

    trust: Trust
    likelihoods: np.ndarray
    right: np.ndarray


def _is_higher(ours: np.ndarray, others: np.ndarray) -> bool:
    """Whether the mean of the first figures is higher, beyond chance; both `[N]`, of the same images."""
    gain = ours.astype(np.float64) - others
    return bool(gain.mean() > _MARGIN * gain.std() / np.sqrt(len(gain)))


def make(task: Task, train: Train) -> Trust:
    """Measures how far the memory of a task is to be believed.

    Labels of train make the classifiers. Those of val choose four numbers, the factors of both classifiers and scale
    and weight of the votes, and whether the memory's means and its votes are used at all: only if they make these
    labels likelier, beyond chance. Test is not read.

    Args:
        task: with text values and embedded class names, and with whitened scores if these are to be read.
        train: `k`, `similarity`, and `temperature`, `threshold`, `smoothing` and `ridge` of `names`.
    """
    images, val, names = task.splits["train"], task.splits["val"], task.name_vectors["text"]
    seen = standardize_rows(val.queries)
    labels = class_means.add(_labelled(images, len(names)))
    judge = _calibrated(class_means.classifier(labels, None, _RIDGE), seen, val.labels)
    doubt, nothing = np.ones(len(names), np.float32), np.zeros((), np.float32)
    alone = Trust(names, judge, judge, doubt, vote=nothing, scale=nothing)
    if not len(images.retrieved):
        return alone
    memory = _Memory(task, judge, train.names)
    doubt = memory.doubts()
    both = _calibrated(class_means.classifier(labels, memory.sums(doubt), train.names.ridge), seen, val.labels)
    one, other = (
        _Choice(trust, *_judged(_scores(seen, trust.classifier), val.labels))
        for trust in (alone, alone._replace(classifier=both, doubt=doubt))
    )
    means = other if _is_higher(other.likelihoods, one.likelihoods) else one
    votes = _with_votes(means.trust._replace(doubt=doubt), memory, val, seen, train)
    # A few rows near one image can sway its votes, so that these must be right more often, too.
    better = _is_higher(votes.likelihoods, means.likelihoods) and _is_higher(votes.right, means.right)
    # Neighbours without a vote are shown in the same order.
    return votes.trust if better else means.trust._replace(scale=votes.trust.scale)


def _with_votes(known: Trust, memory: _Memory, val: Split, seen: np.ndarray, train: Train) -> _Choice:
    """Adds the neighbours' votes, with the scale and weight that make the labels likeliest."""
    likelihoods, right = memory.votes(val, train, known.doubt, _scores(seen, known.classifier))
    best = np.unravel_index(likelihoods.mean(-1).argmax(), likelihoods.shape[:-1])
    scale, vote = (np.array(number, np.float32) for number in (_SCALES[best[0]], _WEIGHTS[best[1]]))
    return _Choice(known._replace(vote=vote, scale=scale), likelihoods[best], right[best])
