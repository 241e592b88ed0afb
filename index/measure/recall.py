"""Recall of found lists against exact ones."""

import numpy as np


def recall_at_k(found_ids: np.ndarray, exact_ids: np.ndarray, exact_scores: np.ndarray, k: int) -> np.ndarray:
    """Returns the share of the k nearest neighbours that was found, for each query.

    If several rows tie at the k-th place, each of them is a right answer: a found row counts if its exact score is not
    below that of the k-th exact row, up to k of them. Only ties inside the exact lists are known, so these should be
    longer than k; a tied row beyond their end counts as missed, never as found.

    Args:
        found_ids: `[Q, m]` int64, -1 pads, no id twice in a row; only the first `k` columns count.
        exact_ids: `[Q, M]` int64 of the exact search, `M >= k`, -1 pads.
        exact_scores: `[Q, M]` of the exact search, descending.
        k: length of the lists that are compared.

    Returns:
        `[Q]` float64 in 0..1; 1 if there is nothing to find.
    """
    found, (queries, width) = found_ids[:, :k], exact_ids.shape
    right = (exact_ids >= 0) & (exact_scores >= exact_scores[:, k - 1 : k])
    # Comparing the few columns of each query is simpler than sorting pairs of a query and an id.
    hits = np.zeros((queries, found.shape[1]), bool)
    for column in range(width):
        hits |= right[:, column : column + 1] & (found == exact_ids[:, column : column + 1])
    sought = np.minimum((exact_ids >= 0).sum(axis=1), k)
    return np.where(sought > 0, np.minimum(hits.sum(axis=1), sought) / np.maximum(sought, 1), 1.0)
