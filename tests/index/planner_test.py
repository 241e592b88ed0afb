import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from index import planner
from index.planner import Parameters, Plan, plan_shard


def test_leaves_are_the_square_root_and_none_where_a_tree_makes_no_sense():
    assert plan_shard(1_000_000, 768).leaves == 1000
    assert plan_shard(planner.MIN_TREE_ROWS, 768).leaves == 54
    assert plan_shard(planner.MIN_TREE_ROWS - 1, 768).leaves == 0
    assert plan_shard(500, 768, leaves=20).leaves == 20
    assert plan_shard(80, 768, leaves=1000).leaves == 80
    assert plan_shard(40, 768, leaves=20).leaves == 0


def test_samples_are_bounded_by_rows_and_cover_the_leaves():
    assert plan_shard(5000, 8).partition_rows == 5000
    assert plan_shard(10_000_000, 8).partition_rows == 64 * 3162
    assert plan_shard(10_000_000, 8).quantizer_rows == 4096
    assert plan_shard(5000, 1).dims_per_block == 1


def test_recall_must_stand_two_standard_errors_above_the_target():
    assert planner.reaches(np.ones(10), 1.0)
    assert planner.reaches(np.full(10, 0.95), 0.9)
    noisy = np.array([1.0, 0.9] * 50)
    assert noisy.mean() > 0.945 and not planner.reaches(noisy, 0.945)
    assert planner.reaches(noisy, 0.93)


class Measured:
    """Recall that grows with both parameters, and a note of what was asked."""

    def __init__(self, leaves: float, reorder: float) -> None:
        self._leaves, self._reorder = leaves, reorder
        self.asked: list[Parameters] = []

    def __call__(self, p: Parameters) -> np.ndarray:
        self.asked.append(p)
        share = min(1.0, (p.leaves_to_search / self._leaves) ** 0.3)
        return np.full(4, share * min(1.0, (p.pre_reorder_num_neighbors / self._reorder) ** 0.3))


@given(st.integers(1, 200), st.integers(1, 3000), st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_tuning_finds_the_cheapest_of_the_whole_grid(leaves, reorder, target):
    rows, k, plan = 10_000, 10, Plan(100, 10_000, 4096, 2)
    measured = Measured(leaves, reorder)
    best = planner.tune(measured, plan, rows, k, target)
    grid = [
        Parameters(leaves_to_search, pre_reorder, k)
        for leaves_to_search in planner._leaves_steps(plan.leaves)
        for pre_reorder in planner._reorder_steps(rows, k)
    ]
    assert len(measured.asked) == len(set(measured.asked)) < len(grid) / 4
    reaching = [planner.cost(p, plan, rows) for p in grid if planner.reaches(measured(p), target)]
    if reaching:
        assert planner.reaches(measured(best), target)
        assert planner.cost(best, plan, rows) == min(reaching)
    else:
        assert best == planner.full_search(plan, rows, k) == Parameters(100, rows, k)
