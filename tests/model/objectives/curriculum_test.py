import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.objectives import curriculum


def _brute_force(features: np.ndarray, density: float) -> np.ndarray:
    """The paper's construction image by image: rho, delta, the centre, k-means of the distance to it."""
    n = len(features)
    distances = np.array([[((a - b) ** 2).sum() for b in features] for a in features])
    radius = np.sort(distances.ravel())[min(int(density * n * n), n * n - 1)]
    rho = np.array([sum(d < radius for d in row) for row in distances])
    delta = np.zeros(n)
    for i in range(n):
        denser = [distances[i, j] for j in range(n) if rho[j] > rho[i]]
        delta[i] = min(denser) if denser else distances[i].max()
    centre = max(range(n), key=lambda i: (delta[i], rho[i], -i))
    places = distances[centre]
    centres = np.quantile(places, [1 / 6, 1 / 2, 5 / 6])
    for _ in range(100):
        groups = np.abs(places[:, None] - centres).argmin(1)
        centres = np.array([places[groups == g].mean() if (groups == g).any() else centres[g] for g in range(3)])
    order = sorted(set(groups.tolist()), key=lambda g: (-rho[groups == g].mean(), g))
    return np.array([order.index(g) for g in groups.tolist()])


@given(st.integers(0, 10_000), st.integers(3, 30), st.sampled_from([0.2, 0.6, 0.9]))
@settings(deadline=None, max_examples=50)
def test_it_is_the_papers_construction(seed, images, density):
    features = np.random.default_rng(seed).normal(size=(images, 3)).astype(np.float32)
    found = curriculum.subsets(features, np.full(images, 4), density)
    np.testing.assert_array_equal(found, _brute_force(features.astype(np.float64), density))


def test_wrong_labels_are_found_to_be_noisy_in_each_class():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    centres = np.eye(2, 8) * 6
    features = centres[labels] + rng.normal(size=(120, 8)) * 0.3
    # The last of each class are scattered around, ever farther.
    wrong = np.arange(120) % 60 >= 40
    far = np.arange(120) % 60 >= 50
    features[wrong] = rng.normal(size=(wrong.sum(), 8)) * np.where(far[wrong], 9, 3)[:, None]
    found = curriculum.subsets(features.astype(np.float32), labels, 0.6)
    assert (found[~wrong] == 0).all()
    assert (found[far] > 0).mean() > 0.8
    np.testing.assert_array_equal(np.unique(found), [0, 1, 2])


def test_small_and_uniform_classes_are_clean():
    features = np.array([[0, 1], [5, 0], [2, 2], [2, 2], [2, 2], [2, 2]], np.float32)
    np.testing.assert_array_equal(curriculum.subsets(features, np.array([0, 0, 1, 1, 1, 1]), 0.6), 0)
