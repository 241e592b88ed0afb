"""Which neighbours attention keeps: the fewest that together have nine tenths of the weight of a list."""

import numpy as np

SHARE = 0.9


def kept(weights: np.ndarray, share: float = SHARE) -> np.ndarray:
    """Returns which neighbours are kept, bool `[N, K]`; the others are filtered out.

    Those are the fewest whose weights sum to `share` of all weights of their list; of equal weights the nearer
    neighbour comes first. A kept neighbour has more than `(1 - share) / K` of the sum, so its weight is never 0, and
    the others share less than `1 - share` of it. A list without any weight keeps nothing.

    Args:
        weights: not negative, 0 for padding, `[N, K]`.
        share: more than 0, at most 1.
    """
    exact = weights.astype(np.float64)
    order = np.argsort(-exact, axis=1, kind="stable")
    falling = np.take_along_axis(exact, order, 1)
    before = np.cumsum(falling, axis=1) - falling
    chosen = (before < share * falling.sum(axis=1, keepdims=True)) & (falling > 0)
    result = np.zeros(weights.shape, bool)
    np.put_along_axis(result, order, chosen, 1)
    return result
