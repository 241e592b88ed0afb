"""How often the right partner is among the nearest: recall@k of images by texts, and of texts by images."""

import numpy as np

from model.measures import bootstrap


def hits(queries: np.ndarray, candidates: np.ndarray, k: int) -> np.ndarray:
    """Returns which queries `[n, D]` have the candidate `[n, D]` of their own row among the k nearest, bool `[n]`.

    A candidate that is as near as the right one counts as nearer.
    """
    scores = queries @ candidates.T
    return (scores >= np.diag(scores)[:, None]).sum(1) <= k


def recall(queries: np.ndarray, candidates: np.ndarray, k: int) -> float:
    """Returns the share of `hits`."""
    return float(hits(queries, candidates, k).mean())


def interval(right: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of the share of hits `[n]`, over the choice of queries."""
    # Resampling n zeros and ones draws from the binomial distribution.
    draws = np.random.default_rng(0).binomial(len(right), right.mean(), bootstrap.RESAMPLES)
    return bootstrap.interval(draws / len(right))


def measured(images: np.ndarray, texts: np.ndarray, k: int) -> dict[str, dict[str, float]]:
    """Measures both directions.

    Args:
        images: of the pairs, float32 `[n, D]`, unit length.
        texts: of the same pairs.
        k: how many of the nearest count.

    Returns:
        `image_by_text` and `text_by_image`, each with `recall`, `low` and `high` of its interval, and `chance`.
    """
    found = {}
    for name, way in (("image_by_text", (texts, images)), ("text_by_image", (images, texts))):
        right = hits(*way, k)
        low, high = interval(right)
        found[name] = {"recall": float(right.mean()), "low": low, "high": high, "chance": min(k / len(right), 1.0)}
    return found
