import numpy as np

from benchmarks import index_data
from index.engines import partitions
from tests.world import unit


def test_nearest_is_the_centre_at_the_least_distance(monkeypatch):
    monkeypatch.setattr(partitions, "BLOCK_ROWS", 37)
    points, centres = unit(300), 1.5 * unit(20, seed=1)
    distances = ((points[:, None].astype(np.float64) - centres) ** 2).sum(-1)
    np.testing.assert_array_equal(partitions.nearest(points, centres), distances.argmin(1))


def test_of_many_centres_it_is_nearly_always_the_nearest_and_else_nearly_as_near():
    points = index_data.clustered(40_000, 0, 32)[0]
    centres = partitions.fit(points, partitions.MIN_GROUPED, 2)
    distances = 2 - 2 * points @ centres.T
    found = partitions.nearest(points, centres)
    least, reached = distances.min(axis=1), distances[np.arange(len(points)), found]
    assert (found == distances.argmin(axis=1)).mean() > 0.97
    assert reached.mean() < 1.003 * least.mean()
    np.testing.assert_array_equal(partitions.nearest(points[:100], centres), found[:100])


def test_k_means_finds_separate_clusters_and_is_the_same_again():
    rng = np.random.default_rng(0)
    means = np.eye(4, dtype=np.float32)
    points = (means[np.arange(400) % 4] + 0.01 * rng.normal(size=(400, 4))).astype(np.float32)
    centres = partitions.fit(points, 12, 10)
    assert (np.linalg.norm(points - centres[partitions.nearest(points, centres)], axis=1) < 0.05).all()
    for leaf, centre in enumerate(centres):
        members = points[partitions.nearest(points, centres) == leaf]
        mean = members.mean(0)
        np.testing.assert_allclose(centre, mean / np.linalg.norm(mean), atol=1e-2)
    np.testing.assert_array_equal(partitions.fit(points, 12, 10), centres)


def test_centres_have_unit_length_whatever_the_points_have():
    points = unit(500) * np.linspace(0.5, 2, 500, dtype=np.float32)[:, None]
    np.testing.assert_allclose(np.linalg.norm(partitions.fit(points, 20, 4), axis=1), 1, rtol=1e-6)


def test_as_many_leaves_as_points_and_equal_points():
    points = unit(7)
    centres = partitions.fit(points, 7, 3)
    # Each is a centre, in the order of their groups.
    np.testing.assert_allclose(centres[partitions.nearest(points, centres)], points, atol=1e-7)
    assert np.isfinite(partitions.fit(np.repeat(points[:1], 9, axis=0), 4, 3)).all()


def test_principal_axes_keep_dot_products_of_points_in_a_plane():
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(200, 3)) @ rng.normal(size=(3, 10))).astype(np.float32)
    axes = partitions.principal_axes(points, 3)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose((points @ axes.T) @ (axes @ points.T), points @ points.T, rtol=1e-3, atol=1e-3)
