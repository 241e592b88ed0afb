"""InfoNCE and its mask against NumPy in float64, and a space that is learnt on pairs of known origin."""

import dataclasses

import numpy as np
import pytest

from configs.base import Align
from model.aligning import contrastive, retrieval
from model.aligning.pairs import Pairs, Parts
from pipelines.errors import UserError


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _info_nce(images, texts, captions, scale):
    """As the paper words it, pair by pair and direction by direction."""
    n, total = len(images), 0.0
    for one, other in ((images, texts), (texts, images)):
        for i in range(n):
            rivals = [j for j in range(n) if j == i or captions[j] != captions[i]]
            odds = np.exp([scale * one[i] @ other[j] for j in rivals])
            total -= np.log(np.exp(scale * one[i] @ other[i]) / odds.sum())
    return total / (2 * n)


@pytest.mark.parametrize("captions", [[0, 1, 2, 3, 4], [0, 1, 0, 2, 0], [7, 7, 7, 7, 7]])
def test_equal_captions_are_no_negatives(captions):
    rng = np.random.default_rng(0)
    images, texts = (_unit(rng.normal(size=(5, 3))) for _ in range(2))
    found = contrastive.loss(images.astype(np.float32), texts.astype(np.float32), np.array(captions), 7.0)
    np.testing.assert_allclose(found, _info_nce(images, texts, captions, 7.0), rtol=1e-5, atol=1e-6)


def _pairs(rows, seed):
    """Image and text are two random maps of the same 6 hidden numbers, with noise and an offset."""
    maps, rng = np.random.default_rng(99), np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, 6))
    made = (
        hidden @ maps.normal(size=(6, width)) + maps.normal(size=width) + 0.1 * rng.normal(size=(rows, width))
        for width in (20, 10)
    )
    images, texts = (x.astype(np.float32) for x in made)
    return Pairs(np.array([b"%d" % i for i in range(rows)], "S32"), images, texts, np.arange(rows))


PARTS = Parts(train=_pairs(800, 1), val=_pairs(100, 2), held_out=_pairs(200, 3))
ALIGN = Align(dim=8, steps=150, batch_size=128, learning_rate=1e-2, dropout=0.1, val_every=50)


def test_a_space_is_learnt_in_which_unseen_pairs_meet():
    space = contrastive.train(PARTS, ALIGN, 0)
    images, texts = space.image(PARTS.held_out.images), space.text(PARTS.held_out.texts)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-5)
    assert retrieval.recall(texts, images, 10) > 0.9 and retrieval.recall(images, texts, 10) > 0.9
    assert space.step in (50, 100, 150) and space.val_recall > 0.9


def test_same_seed_same_bytes():
    one, same, other = (contrastive.train(PARTS, ALIGN, seed) for seed in (0, 0, 1))
    assert one.image.matrix.tobytes() == same.image.matrix.tobytes()
    assert one.text.bias.tobytes() == same.text.bias.tobytes()
    assert one.image.matrix.tobytes() != other.image.matrix.tobytes()


@pytest.mark.slow
def test_an_entry_that_never_changes_and_a_batch_larger_than_the_pairs_do_no_harm():
    train = PARTS.train.take(slice(0, 50))
    train.images[:, 0] = 3
    space = contrastive.train(Parts(train, PARTS.val, PARTS.held_out), ALIGN, 0)
    assert np.isfinite(space.image.matrix).all() and np.isfinite(space.text.bias).all()


@pytest.mark.slow
def test_a_vector_that_dropout_empties_does_no_harm():
    parts = Parts(
        *(dataclasses.replace(part, texts=part.texts[:, :2]) for part in (PARTS.train, PARTS.val, PARTS.held_out))
    )
    space = contrastive.train(parts, dataclasses.replace(ALIGN, dropout=0.8), 0)
    assert np.isfinite(space.text.matrix).all() and np.isfinite(space.temperature)


def test_a_training_that_diverges_is_refused():
    with pytest.raises(UserError, match=r"learning_rate=1e\+30: the weights are not finite after 50 steps; lower it"):
        contrastive.train(PARTS, dataclasses.replace(ALIGN, learning_rate=1e30), 0)
