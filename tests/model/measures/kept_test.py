"""The rule by which neighbours are kept or filtered out."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.measures.kept import SHARE, kept


@pytest.mark.parametrize(
    ("weights", "right"),
    [
        ([0.5, 0.3, 0.15, 0.05], [1, 1, 1, 0]),
        ([0.05, 0.15, 0.3, 0.5], [0, 1, 1, 1]),
        ([1.0, 0.0, 0.0], [1, 0, 0]),
        ([0.95, 0.05, 0.0], [1, 0, 0]),
        # A null slot took the rest: what counts is the share of the neighbours' own weight.
        ([0.0095, 0.0005, 0.0], [1, 0, 0]),
        # Of equal weights the nearer neighbour comes first.
        ([0.25, 0.25, 0.25, 0.25], [1, 1, 1, 1]),
        ([1 / 16] * 16, [1] * 15 + [0]),
        ([0.0, 0.0], [0, 0]),
        ([], []),
    ],
)
def test_the_fewest_neighbours_that_hold_nine_tenths_are_kept(weights, right):
    assert kept(np.array([weights], np.float64)).tolist() == [[bool(one) for one in right]]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=7))
def test_no_smaller_set_would_do(counts):
    weights = np.array([counts], np.float64) / 64
    chosen = kept(weights, 0.75)[0]
    total = weights.sum()
    enough = (
        size
        for size in range(len(counts) + 1)
        if any(sum(some) >= 0.75 * total for some in itertools.combinations(weights[0], size))
    )
    assert chosen.sum() == next(enough)
    assert weights[0][chosen].sum() >= 0.75 * total and (weights[0][chosen] > 0).all()
    assert not chosen.any() or weights[0][chosen].min() >= weights[0][~chosen].max(initial=0)


def test_a_kept_weight_is_never_zero():
    logits = np.random.default_rng(0).normal(size=(500, 40)) * 30
    weights = np.exp(logits - logits.max(1, keepdims=True)).astype(np.float32)
    weights /= weights.sum(1, keepdims=True)
    assert (weights == 0).any()
    lowest = np.where(kept(weights), weights, 1).min(1)
    assert (lowest > (1 - SHARE) / 40 * weights.sum(1) * 0.999).all()
