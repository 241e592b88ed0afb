import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.engines import planner
from index.engines.planner import Parameters, Plan, plan_shard


def test_leaves_grow_with_the_rows_and_none_where_a_tree_makes_no_sense():
    assert plan_shard(1_000_000, 768).leaves == 3981
    assert plan_shard(20_000, 768).leaves == 312
    assert plan_shard(planner.MIN_TREE_ROWS, 768).leaves == 47
    assert plan_shard(planner.MIN_TREE_ROWS - 1, 768).leaves == 0
    assert plan_shard(500, 768, leaves=20).leaves == 20
    assert plan_shard(80, 768, leaves=1000).leaves == 80
    assert plan_shard(40, 768, leaves=20).leaves == 0


def test_samples_are_bounded_by_rows_and_cover_the_leaves():
    assert plan_shard(5000, 8).sample_rows == 5000
    plan = plan_shard(10_000_000, 8)
    assert plan.sample_rows == 64 * plan.leaves == 64 * 15849
    assert plan.quantizer_rows == 4096
    assert plan_shard(5000, 1).dims_per_block == 1


def test_wide_keys_are_coded_in_fewer_dimensions():
    assert plan_shard(5000, 63).pca_dims == 0
    assert plan_shard(5000, 128).pca_dims == 128
    assert plan_shard(5000, 256).pca_dims == plan_shard(5000, 1280).pca_dims == 192


@given(st.integers(1, 2000), st.booleans())
def test_every_dimension_has_one_code_and_the_first_axes_the_narrowest(dims, axes):
    plan = Plan(10, 100, 100, 2, pca_dims=dims if axes else 0)
    widths = [width for number, width in planner.blocks(plan, 5 if axes else dims) for _ in range(number)]
    assert sum(widths) == dims
    if axes:
        assert widths == sorted(widths) and len(widths) <= dims / 2 + 1.5
    else:
        assert widths == [2] * (dims // 2) + [1] * (dims % 2)


def test_codes_of_128_axes():
    assert planner.blocks(plan_shard(5000, 128), 128) == [(16, 1), (32, 2), (12, 4)]


@pytest.mark.parametrize(("k", "candidates"), [(5, 30), (10, 30), (20, 60), (50, 90), (200, 90)])
def test_longer_lists_are_chosen_from_more_candidates_of_which_there_are_no_more_than_rows(k, candidates):
    assert Parameters(1, 30, 10).candidates(k, rows=90) == candidates


def test_short_lists_may_have_as_many_candidates_as_long_ones():
    grids = {k: planner.reorder_steps(10_000, k) for k in (1, 10, 64, 100)}
    assert {k: grid[-1] for k, grid in grids.items()} == {1: 4096, 10: 2560, 64: 4096, 100: 6400}
    assert all(grid[0] == k and grid == sorted(set(grid)) for k, grid in grids.items())
    assert planner.reorder_steps(500, 10)[-3:] == [320, 480, 500]


@pytest.mark.parametrize(
    ("k", "times", "right"),
    [(5, 1, (3, 30)), (10, 1, (3, 30)), (25, 1, (8, 30)), (25, 4, (30, 120)), (50, 4, (40, 120))],
)
def test_longer_lists_are_searched_for_in_more_leaves_of_which_there_are_no_more_than_all(k, times, right):
    assert Parameters(3, 30, 10).longer(k, 40, times) == Parameters(*right, 10)


def test_candidates_fill_the_list():
    assert Parameters(1, 5, 5).candidates(3, rows=90) == 5
    assert Parameters(1, 2, 10).candidates(9, rows=90) == 9


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


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 3000))
@pytest.mark.slow
def test_each_level_gets_the_cheapest_of_the_whole_grid(leaves, reorder):
    rows, k, plan, levels = 10_000, 10, Plan(100, 10_000, 4096, 2), (0.5, 0.8, 0.95, 1.0)
    measured = Measured(leaves, reorder)
    found = planner.frontier(measured, plan, rows, k, levels)
    grid = [
        Parameters(leaves_to_search, pre_reorder, k)
        for leaves_to_search in planner.leaves_steps(plan.leaves)
        for pre_reorder in planner.reorder_steps(rows, k)
    ]
    assert len(measured.asked) == len(set(measured.asked)) < len(grid) / 3
    assert list(found) == list(levels)
    for level, best in found.items():
        reaching = [planner.cost(p, plan, rows) for p in grid if planner.reaches(measured(p), level)]
        if reaching:
            assert planner.reaches(measured(best), level)
            assert planner.cost(best, plan, rows) == min(reaching)
        else:
            assert best == Parameters(100, 2560, k)
