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
    # delta is the distance to the nearest denser image, or, if there is none, to the farthest image. The largest delta
    # is that of a densest image, since every other image has one of them at most that far away.
    densest = np.flatnonzero(densities == densities.max())
    centre = densest[np.argmax(distances[densest].max(1))]
    groups = _spread(distances[centre].astype(np.float64))
    found = sorted(np.unique(groups), key=lambda group: (-densities[groups == group].mean(), group))
    ranks = np.zeros(_SUBSETS, np.int8)
    ranks[found] = np.arange(len(found))
    return ranks[groups]


def subsets(features: np.ndarray, labels: np.ndarray, density: float) -> np.ndarray:
    """Returns 0 for clean, 1 for noisy, 2 for highly noisy images, int8 `[N]` (Guo et al., ECCV 2018, section 3.2).

    For each class: D_ij = |f_i - f_j|^2; rho_i counts the images within the radius that is the quantile `density` of
    all D; the centre c has the largest delta; k-means splits D_cj into three groups, of which the densest is clean. A
    class with fewer than three images is clean. The distances of one class, `[n, n]`, are in memory at a time.

    Args:
        features: float32 `[N, D]`.
        labels: int `[N]`.
        density: share of distances, 0.6 in the paper.
    """
    found = np.zeros(len(labels), np.int8)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        found[rows] = _of_class(features[rows], density)
    return found
