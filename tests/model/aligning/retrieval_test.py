import numpy as np

from model.aligning import retrieval


def test_hits_are_those_of_a_sorted_list():
    rng = np.random.default_rng(0)
    queries, candidates = rng.normal(size=(2, 50, 4))
    nearest = [[j for _, j in sorted((-(q @ c), j) for j, c in enumerate(candidates))][:3] for q in queries]
    assert retrieval.hits(queries, candidates, 3).tolist() == [i in row for i, row in enumerate(nearest)]


def test_equal_candidates_cannot_be_told_apart():
    same = np.ones((20, 2))
    assert retrieval.recall(same, same, 10) == 0
    assert retrieval.recall(same, same, 20) == 1


def test_the_interval_holds_the_share_and_shrinks_with_the_queries():
    few, many = (retrieval.interval(np.arange(n) % 4 == 0) for n in (100, 10_000))
    assert few[0] < many[0] < 0.25 < many[1] < few[1]
    np.testing.assert_allclose(many, 0.25 + 1.96 * np.array([-1, 1]) * np.sqrt(0.25 * 0.75 / 10_000), atol=1e-3)


def test_chance_stands_beside_both_directions():
    identity = np.eye(40, dtype=np.float32)
    found = retrieval.measured(identity, identity, 10)
    assert found["image_by_text"] == found["text_by_image"] == {"recall": 1.0, "low": 1.0, "high": 1.0, "chance": 0.25}
