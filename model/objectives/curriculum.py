"""How clean the images of each class are, by their density in feature space."""

import numpy as np

_SUBSETS = 3


def _spread(places: np.ndarray) -> np.ndarray:
    """Returns the group of each place on a line, int `[n]`, by k-means that starts at the sextiles 1, 3 and 5."""
    centres = np.quantile(places, (np.arange(_SUBSETS) + 0.5) / _SUBSETS)
    while True:
        groups = np.searchsorted((centres[1:] + centres[:-1]) / 2, places)
        moved = [places[groups == g].mean() if (groups == g).any() else centres[g] for g in range(_SUBSETS)]
        if np.array_equal(moved, centres):
            return groups
        centres = np.array(moved)


def _of_class(features: np.ndarray, density: float) -> np.ndarray:
    count = len(features)
    if count < _SUBSETS:
        return np.zeros(count, np.int8)
    squared = np.square(features).sum(1)
    distances = np.maximum(squared[:, None] + squared - 2 * features @ features.T, 0)
    np.fill_diagonal(distances, 0)
    place = min(int(density * count * count), count * count - 1)
    densities = (distances < np.partition(distances, place, axis=None)[place]).sum(1)
    # The centre has the largest delta: the distance to the nearest denser image, or if there is none to the farthest.
    # No delta is larger than that of a densest image, to which every other image is at most that far.
    densest = np.flatnonzero(densities == densities.max())
    centre = densest[np.argmax(distances[densest].max(1))]
    groups = _spread(distances[centre].astype(np.float64))
    found = sorted(np.unique(groups), key=lambda group: (-densities[groups == group].mean(), group))
    ranks = np.zeros(_SUBSETS, np.int8)
    ranks[found] = np.arange(len(found))
    return ranks[groups]


def subsets(features: np.ndarray, labels: np.ndarray, density: float) -> np.ndarray:
    """Returns 0 for clean, 1 for noisy, 2 for highly noisy images, int8 `[N]` (Guo et al., ECCV 2018, section 3.2).

    For each class: D_ij = |f_i - f_j|^2; rho_i counts the images nearer than the radius below which the share `density`
    of all D lies; the centre c is where delta is largest; k-means cuts D_cj into three, of which the densest is clean.
    A class of fewer than three images is clean. Holds the distances of one class, `[n, n]`, at a time.

    Args:
        features: float32 `[N, D]`.
        labels: int `[N]`.
        density: share of distances, .6 in the paper.
    """
    found = np.zeros(len(labels), np.int8)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        found[rows] = _of_class(features[rows], density)
    return found
