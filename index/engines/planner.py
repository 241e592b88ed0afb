"""Plans a shard before it is built, and finds the cheapest search that reaches a target recall once it is.

Costs are counted, not timed, so that the same data gives the same parameters on any machine. The caller measures
recall, on queries that it does not report on. See `scann_searcher` for how ScaNN uses a plan.
"""

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable

import numpy as np

# Below this many rows, scanning all keys is as fast as a tree tuned to recall@32 0.95, and exact: with 1280-d image
# embeddings 10.7k queries per CPU second against 8.1k at 2,048 rows, 5.0k against 8.3k at 3,610.
MIN_TREE_ROWS = 3000
# Fewest rows for which an explicit number of leaves is used: the quantizer trains 16 centres for each block.
_MIN_QUANTIZER_ROWS = 64
# More leaves than the square root of the rows: with 1M x 128 keys, 4,000 answered 1.2 times as many queries as 2,000 at
# recall@100 0.95. The power keeps the time to compare a query to the centres below that of the scan.
_LEAVES_POWER = 0.6
# Of a small shard a query scans a third, and with fewer leaves fewer are compared and set up: of 8,982 photographs as
# 1,280-d keys, 140 leaves answered 1.03 and 1.17 times as many queries as 236 at recall@100 0.95 and 0.99, and of
# 4,000, 62 leaves 1.06 and 1.11 times as many as 145. Of 8,000 to 20,000 rows of the mixture it was 0.81 to 0.97 times.
_MIN_ROWS_PER_LEAF = 64
_MIN_SAMPLE_ROWS = 50_000
# With 32 rows a leaf the centres fit the sample rather than the keys: of 1M x 128 keys, 15% more had to be scanned.
_SAMPLE_ROWS_PER_LEAF = 64
_ITERATIONS = 8
# Tiles are scanned in products, so that a row costs less against a centre than with codes: more leaves pay.
_TILED_LEAVES = 1.6
# A tile has as many rows as a leaf on average, up to the next of these sizes; many short leaves would waste long tiles.
_TILE_ROWS = (32, 64, 128)
# ScaNN sets up each leaf for every chunk of keys that it codes, which takes as long as coding 18 rows.
_CODED_ROWS_PER_LEAF = 32
# 256 rows for each of the 16 centres of a block. All 10,000 rows of a shard took twice as long, for 0.001 of recall.
_QUANTIZER_ROWS = 4096
# Keys are coded in their principal axes, in the first `_PCA_DIMS` of them. Below `_MIN_PCA_DIMS` dimensions they are
# coded directly. ScaNN projects each query by itself, so that an axis costs even where nothing is scanned.
_MIN_PCA_DIMS = 64
_PCA_DIMS = 192
# Measured on 1M x 128: scanning a quantized row takes 1.9 ns; fetching a candidate from memory and scoring it, 100 ns.
_REORDER_COST = 50.0
# A visit to a shard, before a row is scanned, takes 7 us.
_VISIT_COST = 2500.0
# Keys that are scored unquantized, in order: 45 ns each for 1,280 dimensions.
_EXACT_COST = 10.0
_REORDER_FACTORS = (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64)
# Lists shorter than 64 may have as many candidates as those of 64: of 20,000 Gaussian 64-d keys, 64 candidates hold the
# nearest row of 0.944 of the queries, and 4,096 that of 0.995, which is what the kept keys allow.
_MORE_FACTORS, _MOST_OF_SHORT = (128, 256, 512, 1024, 2048, 4096), 4096
_LEAVES_RATIO = 1.1
# On 300k x 128 keys in 8 shards, 3 deviations reached the recall of one index with 1.3 times as many candidates.
_SHARE_DEVIATIONS = 3.0
# Candidates over the length of the lists that an index of regions is measured with.
REGION_FACTORS = (1.25, 1.75, 2.5, 4, 8, 24)
_STANDARD_ERRORS = 2.0
# Recall levels for which the cheapest search is found.
LEVELS = (0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a shard is partitioned and quantized.

    Attributes:
        leaves: partitions; 0 for none, then all keys are scanned unquantized.
        sample_rows: rows that partitions and quantizer are trained on.
        quantizer_rows: the part of them that the quantizer is trained on.
        dims_per_block: dimensions that share one 4-bit code, without principal axes.
        pca_dims: principal axes of the sample that are partitioned and quantized; 0 for the keys themselves.
        reorder: precision of the keys that re-rank candidates, one of `configs.schema.search.PRECISIONS`.
        iterations: of the k-means that trains the partitions.
        tile_rows: rows of a tile, if all queries that visit a leaf are searched at once; else 0.
        reorder_on: where these keys are while the shard is searched, one of `configs.schema.search.REORDER_PLACES`.
    """

    leaves: int
    sample_rows: int
    quantizer_rows: int
    dims_per_block: int
    pca_dims: int = 0
    reorder: str = "float32"
    iterations: int = 0
    tile_rows: int = 0
    reorder_on: str = "memory"


NO_TREE = Plan(leaves=0, sample_rows=0, quantizer_rows=0, dims_per_block=0)


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Search-time parameters; without effect if a plan has no leaves.

    Attributes:
        leaves_to_search: partitions that a query scans.
        pre_reorder_num_neighbors: candidates of the quantized scan that are re-ranked.
        k: list length they were tuned for; longer lists re-rank more, in proportion.
    """

    leaves_to_search: int
    pre_reorder_num_neighbors: int
    k: int

    def candidates(self, k: int, rows: int) -> int:
        """Returns how many candidates a list of length `k` is chosen from, in a shard of `rows`."""
        return max(min(k, rows), min(rows, round(self.pre_reorder_num_neighbors * max(1.0, k / self.k))))

    def longer(self, k: int, leaves: int, times: int = 1) -> "Parameters":
        """Returns those of lists of length `k`: leaves in proportion, as `candidates` are, and of both `times` as many.

        Args:
            k: length of the lists; those that are not longer than the tuned ones are searched with the same parameters.
            leaves: of the shard.
            times: how many times as much is searched.
        """
        searched = min(max(leaves, 1), math.ceil(self.leaves_to_search * max(1.0, k / self.k) * times))
        return Parameters(searched, self.pre_reorder_num_neighbors * times, self.k)

    def candidates_of(self, shares: np.ndarray, k: int, rows: int) -> np.ndarray:
        """Returns how many candidates a shard of `rows` scores for queries that expect these shares there, int64 `[Q]`.

        That is the expected number and some standard deviations more.
        """
        expected = self.pre_reorder_num_neighbors * max(1.0, k / self.k) * shares.astype(np.float64)
        return np.clip(np.ceil(expected + _SHARE_DEVIATIONS * np.sqrt(expected)), 1, rows).astype(np.int64)


def plan_shard(rows: int, dim: int, leaves: int = 0, reorder: str = "bfloat16", reorder_on: str = "memory") -> Plan:
    """Returns the plan for `rows` keys of width `dim`.

    Args:
        rows: keys of the shard.
        dim: width of a key.
        leaves: partitions; 0 to choose, which gives none below `MIN_TREE_ROWS`.
        reorder: one of `configs.schema.search.PRECISIONS`.
        reorder_on: one of `configs.schema.search.REORDER_PLACES`.
    """
    if rows < (_MIN_QUANTIZER_ROWS if leaves else MIN_TREE_ROWS):
        return NO_TREE
    leaves = min(leaves or round(min(rows**_LEAVES_POWER, rows / _MIN_ROWS_PER_LEAF)), rows)
    return Plan(
        leaves=leaves,
        sample_rows=min(rows, max(_MIN_SAMPLE_ROWS, _SAMPLE_ROWS_PER_LEAF * leaves)),
        quantizer_rows=min(rows, _QUANTIZER_ROWS),
        dims_per_block=min(2, dim),
        pca_dims=min(dim, _PCA_DIMS) if dim >= _MIN_PCA_DIMS else 0,
        reorder=reorder,
        iterations=_ITERATIONS,
        reorder_on=reorder_on,
    )


def plan_tiles(rows: int, dim: int, leaves: int = 0, reorder: str = "bfloat16") -> Plan:
    """Returns the plan for `rows` keys of width `dim` in tiles, which are mapped; arguments as of `plan_shard`."""
    leaves = min(leaves or max(1, round(_TILED_LEAVES * rows**_LEAVES_POWER)), rows)
    return Plan(
        leaves=leaves,
        sample_rows=min(rows, max(_MIN_SAMPLE_ROWS, _SAMPLE_ROWS_PER_LEAF * leaves)),
        quantizer_rows=0,
        dims_per_block=0,
        reorder=reorder,
        iterations=_ITERATIONS,
        reorder_on="disk",
        tile_rows=next((size for size in _TILE_ROWS if size * leaves >= rows), _TILE_ROWS[-1]),
    )


def coded_rows(plan: Plan) -> int:
    """Returns how many rows are coded at a time: half of those that the leaves were trained on, or a whole chunk."""
    return _CODED_ROWS_PER_LEAF * plan.leaves


def blocks(plan: Plan, dim: int) -> list[tuple[int, int]]:
    """Returns pairs of a number of 4-bit codes and the dimensions of each, in the order of the coded dimensions.

    The variance falls from axis to axis. So the first eighth of the axes have a code each, the last three eighths share
    one code by four, and the others by two: fewer codes, and a smaller error, than two axes for each code.

    Args:
        plan: of a shard with leaves.
        dim: width of its keys.
    """
    if not plan.pca_dims:
        full, rest = divmod(dim, plan.dims_per_block)
        return [(full, plan.dims_per_block)] + [(1, rest)] * bool(rest)
    fours = 3 * plan.pca_dims // 32
    ones = plan.pca_dims // 8
    ones += (plan.pca_dims - ones) % 2
    twos = (plan.pca_dims - ones - 4 * fours) // 2
    return [(number, width) for number, width in ((ones, 1), (twos, 2), (fours, 4)) if number]


def full_search(plan: Plan, rows: int, k: int) -> Parameters:
    """Returns the parameters that scan every leaf and re-rank every row, which finds everything."""
    return Parameters(plan.leaves, rows, k)


def cost(parameters: Parameters, plan: Plan, rows: int) -> float:
    """Returns the cost of one query, in quantized rows scanned."""
    if not plan.leaves:
        return _EXACT_COST * rows
    scanned = rows * parameters.leaves_to_search / plan.leaves
    return scanned if plan.tile_rows else scanned + _REORDER_COST * parameters.pre_reorder_num_neighbors


def cost_of(leaves: np.ndarray, candidates: np.ndarray, plan: Plan, rows: int) -> float:
    """Returns the mean cost of queries that scan some leaves of a shard, int `[Q]`, and re-rank some candidates."""
    visits = leaves > 0
    if not plan.leaves:
        return _EXACT_COST * rows * float(visits.mean())
    return float((rows * leaves / plan.leaves + visits * (_VISIT_COST + _REORDER_COST * candidates)).mean())


def reaches(recalls: np.ndarray, target: float) -> bool:
    """Tells whether the mean of recalls `[Q]` less two standard errors reaches `target`."""
    margin = _STANDARD_ERRORS * recalls.std() / math.sqrt(len(recalls))
    return bool(recalls.mean() - margin >= target)


def frontier(
    measure: Callable[[Parameters], np.ndarray], plan: Plan, rows: int, k: int, levels: Iterable[float] = LEVELS
) -> dict[float, Parameters]:
    """Finds the cheapest parameters that reach each level of recall.

    Recall grows with both parameters, so the settings that just reach a level form a staircase, from all leaves and a
    short re-ranking to few leaves and a long one. It is walked by bisection. Settings are not measured if they cost
    more than one that reached the level, or if the measurements so far already decide them.

    Args:
        measure: returns the recall of each tuning query `[Q]` with some parameters.
        plan: of the shard.
        rows: of the shard.
        k: the k of the recall.
        levels: mean recalls to reach, with a margin for the sampling error.

    Returns:
        The cheapest parameters of the grid that reach each level; the most expensive ones if none does.
    """
    leaves_grid, reorder_grid = leaves_steps(plan.leaves), [k] if plan.tile_rows else reorder_steps(rows, k)
    seen: dict[tuple[int, int], np.ndarray] = {}

    def reached(leaves: int, reorder: int, level: float) -> bool:
        for (other_leaves, other_reorder), recalls in seen.items():
            if other_leaves <= leaves and other_reorder <= reorder and reaches(recalls, level):
                return True
            if other_leaves >= leaves and other_reorder >= reorder and not reaches(recalls, level):
                return False
        seen[leaves, reorder] = measure(Parameters(leaves, reorder, k))
        return reaches(seen[leaves, reorder], level)

    def cheapest(level: float) -> Parameters:
        best = Parameters(leaves_grid[-1], reorder_grid[-1], k)
        for reorder in reorder_grid:
            cheaper = [n for n in leaves_grid if cost(Parameters(n, reorder, k), plan, rows) < cost(best, plan, rows)]
            if cheaper and reached(cheaper[-1], reorder, level):
                reaching = functools.partial(reached, reorder=reorder, level=level)
                best = Parameters(cheaper[bisect.bisect_left(cheaper, True, key=reaching)], reorder, k)
        return best

    return {level: cheapest(level) for level in sorted(levels)}


def leaves_steps(leaves: int) -> list[int]:
    """Returns the numbers of leaves to search that are tried, ascending; the last is all of them."""
    steps = [1]
    while steps[-1] < leaves:
        steps.append(min(leaves, math.ceil(steps[-1] * _LEAVES_RATIO)))
    return steps


def reorder_steps(rows: int, k: int) -> list[int]:
    """Returns the numbers of re-ranked candidates that are tried, ascending, up to 64 `k`, or 4,096 if that is more."""
    factors = (*_REORDER_FACTORS, *(factor for factor in _MORE_FACTORS if factor * k <= _MOST_OF_SHORT))
    return sorted({min(rows, math.ceil(k * factor)) for factor in factors})
