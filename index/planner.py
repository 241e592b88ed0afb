"""Plans a shard before it is built, and finds the cheapest search that reaches a target recall once it is.

Costs are counted, not timed, so that the same data gives the same parameters on any machine. Recall is measured
by the caller, on queries that it does not report on; what a plan means to ScaNN is left to `scann_searcher`.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

# Below this many rows scanning all keys is as fast as a tree tuned to recall@32 .95, and exact: with 1280-d image
# embeddings 10.7k queries a CPU second against 8.1k at 2,048 rows, 5.0k against 8.3k at 3,610.
MIN_TREE_ROWS = 3000
# Fewest rows that an explicit number of leaves is honoured for: the quantizer trains 16 centres a block.
_MIN_QUANTIZER_ROWS = 64
_MIN_PARTITION_ROWS = 100_000
_PARTITION_ROWS_PER_LEAF = 64
# 256 rows for each of the 16 centres of a block; all 10,000 rows of a shard took twice as long, for .001 of recall.
_QUANTIZER_ROWS = 4096
# Measured on 100k x 256 and 20k x 1280: reordering one row costs as much as scanning 3 to 5 quantized ones.
_REORDER_COST = 4.0
_REORDER_FACTORS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_LEAVES_RATIO = 1.2
_STANDARD_ERRORS = 2.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a shard is partitioned and quantized.

    Attributes:
        leaves: partitions; 0 for none, all keys are scanned unquantized.
        partition_rows: sample that the partitions are trained on.
        quantizer_rows: sample that the quantizer is trained on.
        dims_per_block: dimensions that share one 4-bit code.
    """

    leaves: int
    partition_rows: int
    quantizer_rows: int
    dims_per_block: int


NO_TREE = Plan(leaves=0, partition_rows=0, quantizer_rows=0, dims_per_block=0)


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Search-time parameters; without effect where a plan has no leaves.

    Attributes:
        leaves_to_search: partitions scanned a query.
        pre_reorder_num_neighbors: candidates of the quantized scan that are scored anew in float32.
        k: list length they were tuned for; longer lists reorder more in proportion.
    """

    leaves_to_search: int
    pre_reorder_num_neighbors: int
    k: int


def plan_shard(rows: int, dim: int, leaves: int = 0) -> Plan:
    """Returns the plan for `rows` keys of width `dim`.

    Args:
        rows: keys of the shard.
        dim: width of a key.
        leaves: partitions; 0 takes the square root of the rows, and none below `MIN_TREE_ROWS`.
    """
    if rows < (_MIN_QUANTIZER_ROWS if leaves else MIN_TREE_ROWS):
        return NO_TREE
    leaves = min(leaves or math.isqrt(rows), rows)
    partition_rows = min(rows, max(_MIN_PARTITION_ROWS, _PARTITION_ROWS_PER_LEAF * leaves))
    return Plan(leaves, partition_rows, min(rows, _QUANTIZER_ROWS), dims_per_block=min(2, dim))


def full_search(plan: Plan, rows: int, k: int) -> Parameters:
    """Returns the parameters that scan every leaf and score every row anew, which finds everything."""
    return Parameters(plan.leaves, rows, k)


def cost(parameters: Parameters, plan: Plan, rows: int) -> float:
    """Returns the cost of one query, in quantized rows scanned."""
    if not plan.leaves:
        return 8.0 * rows
    return rows * parameters.leaves_to_search / plan.leaves + _REORDER_COST * parameters.pre_reorder_num_neighbors


def reaches(recalls: np.ndarray, target: float) -> bool:
    """Tells whether the mean of recalls `[Q]` is at `target` even if it is two standard errors too good."""
    margin = _STANDARD_ERRORS * recalls.std() / math.sqrt(len(recalls))
    return bool(recalls.mean() - margin >= target)


def tune(measure: Callable[[Parameters], np.ndarray], plan: Plan, rows: int, k: int, target: float) -> Parameters:
    """Finds the cheapest parameters that reach a target recall.

    Recall grows with both parameters, so the settings that just reach the target lie on a staircase. It is walked
    from all leaves and a short reordering towards few leaves and a long one, one step a measurement; settings that
    cost more than one that reached the target are not measured.

    Args:
        measure: gives the recall of each tuning query `[Q]` with some parameters.
        plan: of the shard.
        rows: of the shard.
        k: the k of the recall.
        target: mean recall to reach, with a margin for the sampling error.

    Returns:
        The cheapest parameters seen to reach the target; full search if none does.
    """
    leaves_steps, reorder_steps = _leaves_steps(plan.leaves), _reorder_steps(rows, k)
    best = full_search(plan, rows, k)
    i, j = len(leaves_steps) - 1, 0
    while i >= 0 and j < len(reorder_steps):
        parameters = Parameters(leaves_steps[i], reorder_steps[j], k)
        cheaper = cost(parameters, plan, rows) < cost(best, plan, rows)
        if cheaper and not reaches(measure(parameters), target):
            j += 1
            continue
        best = parameters if cheaper else best
        i -= 1
    return best


def _leaves_steps(leaves: int) -> list[int]:
    steps = [1]
    while steps[-1] < leaves:
        steps.append(min(leaves, math.ceil(steps[-1] * _LEAVES_RATIO)))
    return steps


def _reorder_steps(rows: int, k: int) -> list[int]:
    return sorted({min(rows, math.ceil(k * factor)) for factor in _REORDER_FACTORS})


LEVELS = (0.8, 0.9, 0.95, 0.98, 0.99)


def frontier(measure, plan, rows, k, levels):
    return {level: tune(measure, plan, rows, k, level) for level in levels}
