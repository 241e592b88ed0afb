"""How scores of classes without a label compare with those of trained ones: one number, learned on val without them.

A trained class wins over one that has only a name, since its scores have learned from its images. As in calibrated
stacking (Chao et al., *An Empirical Study and Analysis of Generalized Zero-Shot Learning*, ECCV 2016) a constant is
added to one side. Trained classes stand in for new ones here: some at a time are scored as if they had no images.
"""

import numpy as np

FOLDS = 10
MOST_LOST = 0.02
"""Accuracy that the trained classes may lose to new ones, a fraction."""
_CANDIDATES = 201


def offset(scores: np.ndarray, without: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """Returns what to add to the scores of new classes.

    It has the largest harmonic mean of the accuracies of both sides among the offsets by which the trained classes lose
    at most `MOST_LOST`.

    Args:
        scores: of the trained classes, float32 `[N, C]`.
        without: what the classes would score without their images, float32 `[N, C]`.
        labels: of the images, int32 `[N]`.
        seed: deals the classes out to folds, each of which plays the new ones once.

    Returns:
        The offset; of several the nearest to 0.
    """
    classes = scores.shape[1]
    fold_of = np.random.default_rng(seed).permutation(classes) % min(FOLDS, classes)
    gaps, new_right, old_right, is_new = [], [], [], []
    for fold in range(int(fold_of.max()) + 1):
        new = np.flatnonzero(fold_of == fold)
        old = np.flatnonzero(fold_of != fold)
        if not len(old):
            continue
        best_new, best_old = without[:, new].argmax(1), scores[:, old].argmax(1)
        rows = np.arange(len(labels))
        # An image is of a new class once the offset exceeds its gap.
        gaps.append(scores[rows, old[best_old]].astype(np.float64) - without[rows, new[best_new]])
        new_right.append(new[best_new] == labels)
        old_right.append(old[best_old] == labels)
        is_new.append(fold_of[labels] == fold)
    if not gaps:
        return 0.0
    gap, right, wrong, of_new = (np.concatenate(each) for each in (gaps, new_right, old_right, is_new))
    candidates = np.unique([0.0, *np.quantile(gap, np.linspace(0, 1, _CANDIDATES))])
    alone = wrong[~of_new].mean()
    kept = [alone - np.where(gap < c, right, wrong)[~of_new].mean() <= MOST_LOST for c in candidates]
    candidates = candidates[kept] if any(kept) else candidates[:1]
    means = [_harmonic(gap < candidate, right, wrong, of_new) for candidate in candidates]
    best = max(means)
    return float(min((abs(c), c) for c, mean in zip(candidates.tolist(), means, strict=True) if mean == best)[1])


def _harmonic(says_new: np.ndarray, new_right: np.ndarray, old_right: np.ndarray, is_new: np.ndarray) -> float:
    hits = np.where(says_new, new_right, old_right)
    of_new, of_old = (float(hits[side].mean()) if side.any() else 0.0 for side in (is_new, ~is_new))
    return harmonic_mean(of_new, of_old)


def harmonic_mean(a: float, b: float) -> float:
    """Returns the harmonic mean of two accuracies; 0 if both are."""
    return 2 * a * b / (a + b) if a + b else 0.0
