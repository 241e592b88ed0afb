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
    found = found_ids[:, :k]
    right = (exact_ids >= 0) & (exact_scores >= exact_scores[:, k - 1 : k])
    # Side by side in the order of ids, a found row stands behind the exact one with its id, if there is one. Padding
    # comes first, so that each has one before it.
    wanted = np.pad(np.where(right, exact_ids, -1), ((0, 0), (1, 0)), constant_values=-1)
    ids = np.concatenate([wanted, found], axis=1)
    order = np.argsort(ids, axis=1, kind="stable")
    ids, is_found = np.take_along_axis(ids, order, 1), order >= wanted.shape[1]
    before = np.maximum.accumulate(np.where(is_found, 0, np.arange(ids.shape[1])), axis=1)
    hits = is_found & (ids >= 0) & (np.take_along_axis(ids, before, 1) == ids)
    sought = np.minimum((exact_ids >= 0).sum(axis=1), k)
    return np.where(sought > 0, np.minimum(hits.sum(axis=1), sought) / np.maximum(sought, 1), 1.0)
