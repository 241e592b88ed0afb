"""Estimates the cost of a planned shard: bytes from its plan, seconds from a small build on this machine.

A calibration builds and searches two samples of the memory with the same planner. Build time is scaled by counted work.
A part of the time of a query grows with the rows that it scans, a part does not; the two samples tell how large both
are. How many rows it scans in the whole is counted on the sample, since how neighbours crowd together differs from data
to data.
Bytes are counted from the formats of `scann_coder` and `tiles`, and do not depend on the machine.
"""

import dataclasses
import math
import time
from typing import NamedTuple

import numpy as np

from configs.base import Index
from index.engines import partitions, planner, searcher
from index.engines.exact import ExactSearcher
from index.engines.planner import Parameters, Plan
from index.engines.searcher import ArrayKeys, Searcher
from index.measure.recall import recall_at_k
from index.store import routing
from pipelines import nearest_neighbors
from pipelines.errors import UserError

# Of the larger sample, and how many times as large it is as the other.
CALIBRATION_ROWS, _TIMES = 60_000, 4
CALIBRATION_QUERIES = 1000
# Searches of each sample, which tell how the time grows.
_TURNS = 12
# The sample is divided into as many leaves as the whole will have, or into those of so many rows on average.
_MIN_LEAF_ROWS = 3
# What the program takes beside the shard that it builds, measured with builds of 30k to 1M rows (docs/measurements).
PROGRAM_BYTES = 700_000_000
_KEPT_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
# Id and content key of a row.
_ROW_BYTES = 8 + 32
# The sample, its points ordered by leaf, and their sums.
_SAMPLE_COPIES = 2.5
# In comparisons of one dimension to a centre: ScaNN's coding of a dimension, its projection to one axis, and the set-up
# of a leaf, which ScaNN repeats for each chunk of keys.
_CODING_WORK, _PCA_WORK, _SET_UP_WORK = 12e3, 3.0, 6e6
# Writing a dimension of a key into its tile.
_TILING_WORK = 100.0


@dataclasses.dataclass(frozen=True)
class Size:
    """Bytes of a shard.

    Attributes:
        disk_bytes: of its files, without the lists of its measuring queries.
        peak_bytes: peak anonymous memory while it is built and loaded, beside `PROGRAM_BYTES`.
        steady_bytes: memory of the loaded shard.
    """

    disk_bytes: int
    peak_bytes: int
    steady_bytes: int


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The costs of a small shard on this machine.

    Attributes:
        build_secs: for one unit of work.
        query_secs: of a query, on all cores.
        growing: share of that which grows with the rows that it scans; the rest does not.
        recall: recall of the tuned search, or of full search if nothing reached the target.
    """

    build_secs: float
    query_secs: float
    growing: float
    recall: float


def size(plan: Plan, rows: int, dim: int) -> Size:
    """Returns the bytes of a shard of `rows` keys of width `dim`."""
    if not plan.leaves:
        raw, named = 4 * rows * dim, _ROW_BYTES * rows
        return Size(raw + named, 2 * raw, raw + named)
    if plan.tile_rows:
        return _tiled_size(plan, rows, dim)
    coded = plan.pca_dims or dim
    codes = rows * sum(number for number, _ in planner.blocks(plan, dim))
    # The leaf of each row, and the row at each place; in memory also the place of each row.
    tokens, places = 4 * rows, 4 * rows
    trained = 8 * plan.leaves * coded + 4 * 16 * coded + 4 * plan.pca_dims * dim
    kept = _KEPT_BYTES[plan.reorder] * rows * dim
    # In memory two codes share a byte.
    held = kept if plan.reorder_on == "memory" else 0
    steady = held + codes // 2 + tokens + 2 * places + trained + _ROW_BYTES * rows
    training = round(_SAMPLE_COPIES * 4 * plan.sample_rows * dim)
    disk = kept + codes + tokens + places + trained + _ROW_BYTES * rows
    return Size(disk, max(training, steady + codes + 2 * tokens), steady)


def _tiled_size(plan: Plan, rows: int, dim: int) -> Size:
    """Returns the bytes of a shard of tiles, whose keys are mapped."""
    # A leaf has at least one tile, and the last of several is half full, as a rule.
    places = max(rows + plan.leaves * plan.tile_rows // 2, plan.leaves * plan.tile_rows)
    trained = 4 * plan.leaves * dim + 8 * plan.leaves
    steady = 4 * places + trained + _ROW_BYTES * rows
    training = round(_SAMPLE_COPIES * 4 * plan.sample_rows * dim)
    return Size(_KEPT_BYTES[plan.reorder] * places * dim + steady, max(training, steady + 12 * rows), steady)


def choose_shards(config: Index, rows: int, dim: int) -> int:
    """Returns the number of shards of an index: that of the config, or the fewest that fit into its memory.

    Args:
        config: of the index.
        rows: of the memory.
        dim: width of a key.

    Raises:
        UserError: if building one of them takes more than `memory_gb`; it names the fewest shards that do not.
    """
    engine, most = searcher.kind(config.searcher), config.memory_gb * 1e9

    def peak(shards: int) -> int:
        in_shard = math.ceil(rows / shards)
        return size(engine.plan(in_shard, dim, config), in_shard, dim).peak_bytes

    wanted = config.shards or 1
    if not most or peak(wanted) <= most:
        return wanted
    shards = wanted
    while peak(shards) > most and shards < rows:
        shards = min(rows, math.ceil(1.1 * shards + 0.5))
    if not config.shards and peak(shards) <= most:
        return shards
    instead = f"--config.index.shards={shards} takes {_gb(peak(shards))}" if peak(shards) <= most else "nothing fits"
    raise UserError(
        f"--config.index.memory_gb={config.memory_gb:g}: a shard of {math.ceil(rows / wanted):,} rows takes "
        f"{_gb(peak(wanted))} to build; {instead}"
    )


def region_leaves(config: Index, rows: int, dim: int, shards: int) -> int:
    """Returns the leaves of all regions together: those of one index of all rows, or those asked for each shard."""
    whole = searcher.kind(config.searcher).plan(rows, dim, dataclasses.replace(config, leaves=0))
    return max(config.leaves * shards or whole.leaves, routing.MIN_LEAVES_PER_SHARD * shards)


def _gb(number: float) -> str:
    return f"{number / 1e9:.2f} GB"


def work(plan: Plan, rows: int, dim: int) -> float:
    """Returns the work of building a shard, in multiply-adds of comparing keys to leaves."""
    if not plan.leaves:
        return float(rows * dim)
    coded = plan.pca_dims or dim
    pairs = partitions.compared(plan.sample_rows, plan.leaves, plan.iterations)
    pairs += (plan.sample_rows + rows) * partitions.centres_compared(plan.leaves)
    if plan.tile_rows:
        return pairs * dim + _TILING_WORK * rows * dim
    projected = (rows + plan.sample_rows) * dim * plan.pca_dims
    set_up = math.ceil(rows / max(searcher.CHUNK_ROWS, planner.coded_rows(plan))) * plan.leaves
    return pairs * coded + _CODING_WORK * rows * coded + _PCA_WORK * projected + _SET_UP_WORK * set_up


def calibrate(keys: np.ndarray, queries: np.ndarray, config: Index) -> Calibration:
    """Builds and searches two small shards.

    Args:
        keys: sample of the memory, float32 `[n, d]`, in any order.
        queries: others, float32 `[Q, d]`.
        config: of the index.

    Raises:
        UserError: if the searcher cannot run on this machine.
    """
    engine = searcher.kind(config.searcher)
    # The first build of a process loads libraries, which takes seconds; that is not part of the shard's cost.
    engine.build(ArrayKeys(keys[:1]), engine.plan(1, keys.shape[1], config))
    samples = [_small_shard(sample, queries, config) for sample in (keys[::_TIMES], keys)]
    smaller, larger = samples
    query_secs, shorter = _search_secs(larger.searcher, smaller.searcher, queries, min(config.k, len(keys)))
    growing = 1.0
    if engine.plan(len(keys), keys.shape[1], config).leaves and smaller.scanned < larger.scanned:
        growing = min(1.0, max(0.0, (1 - shorter) / (1 - smaller.scanned / larger.scanned)))
    return Calibration(larger.build_secs, query_secs, growing, larger.recall)


class _Small(NamedTuple):
    """A small shard, the seconds of a unit of work of its build, `Calibration.recall`, and rows that a query scans."""

    searcher: Searcher
    build_secs: float
    recall: float
    scanned: float


def _small_shard(keys: np.ndarray, queries: np.ndarray, config: Index) -> _Small:
    (rows, dim), k = keys.shape, min(config.k, len(keys))
    engine = searcher.kind(config.searcher)
    plan = engine.plan(rows, dim, config)
    begin = time.perf_counter()
    built = engine.build(ArrayKeys(keys), plan)
    build_secs = time.perf_counter() - begin
    exact = ExactSearcher(keys).search(queries, 2 * k)

    def measure(parameters: Parameters) -> np.ndarray:
        return recall_at_k(built.with_parameters(parameters).search(queries, k)[0], *exact, k=k)

    tuned = planner.full_search(plan, rows, k)
    if plan.leaves:
        tuned = planner.frontier(measure, plan, rows, k, [config.target_recall])[config.target_recall]
    recall = float(measure(tuned).mean())
    if recall < config.target_recall and plan.leaves:
        # The grid of candidates ends before all rows, so this alone says what the keys allow.
        recall = max(recall, float(measure(planner.full_search(plan, rows, k)).mean()))
    scanned = rows * tuned.leaves_to_search / plan.leaves if plan.leaves else rows
    return _Small(built.with_parameters(tuned), build_secs / work(plan, rows, dim), recall, scanned)


def _search_secs(searcher: Searcher, smaller: Searcher, queries: np.ndarray, k: int) -> tuple[float, float]:
    """Returns the seconds of a query on all cores, and the time in a smaller shard over that in the first.

    That ratio is of processor time of one thread, in turns. By the clock, on two cores that others share, it moved from
    0.5 to 0.9 between runs of the same shards; this one moves by 0.06.
    """
    one_thread = [each.with_threads(1) for each in (smaller, searcher)]
    wall, ratios = [], []
    for _ in range(_TURNS):
        begin = time.perf_counter()
        searcher.search(queries, k)
        wall.append(time.perf_counter() - begin)
        marks = [time.process_time()]
        for each in one_thread:
            each.search(queries, k)
            marks.append(time.process_time())
        ratios.append((marks[1] - marks[0]) / max(marks[2] - marks[1], 1e-9))
    # The first searches are slowed by page faults.
    return float(np.median(wall[1:])) / len(queries), float(np.median(ratios[1:]))


def build_secs(calibration: Calibration, plan: Plan, rows: int, dim: int) -> float:
    """Returns the expected seconds of building a shard."""
    return calibration.build_secs * work(plan, rows, dim)


def queries_per_sec(calibration: Calibration, times: float) -> float:
    """Returns the expected queries/s of one shard at the target recall, on all cores.

    Args:
        calibration: of a small shard.
        times: `times_scanned` of the shard.
    """
    return 1 / (calibration.query_secs * (1 + calibration.growing * (times - 1)))


def times_scanned(keys: np.ndarray, queries: np.ndarray, plan: Plan, rows: int, config: Index) -> float:
    """Returns how many times as many rows a query scans in a planned shard as in the small one that `keys` are.

    Args:
        keys: sample of the shard, float32 `[n, d]`.
        queries: others, float32 `[Q, d]`.
        plan: of the shard.
        rows: of the shard.
        config: of the index.
    """
    small = searcher.kind(config.searcher).plan(len(keys), keys.shape[1], config)
    if not plan.leaves or not small.leaves or rows <= len(keys):
        return rows / len(keys)
    k = min(config.k, len(keys))
    nearest, _ = nearest_neighbors.search(queries, keys, k)
    if plan.pca_dims:
        axes = partitions.principal_axes(keys, plan.pca_dims)
        keys, queries = keys @ axes.T, queries @ axes.T
    # Of the neighbours of a query the sample has as many as its share of the rows.
    in_sample = nearest[:, : max(1, round(k * len(keys) / rows))]
    whole = rows * _visited(keys, queries, in_sample, plan, config.target_recall)
    return whole / (len(keys) * _visited(keys, queries, nearest, small, config.target_recall))


def _visited(keys: np.ndarray, queries: np.ndarray, nearest: np.ndarray, plan: Plan, recall: float) -> float:
    """Returns the share of the leaves of a planned shard that queries visit to find some of their neighbours.

    Args:
        keys: sample of the shard that is divided into as many leaves, float32 `[n, d]`.
        queries: float32 `[Q, d]`.
        nearest: rows of the sample that are their neighbours, int64 `[Q, k]`.
        plan: of the shard.
        recall: share of the neighbours that are found.
    """
    leaves = max(1, min(plan.leaves, len(keys) // _MIN_LEAF_ROWS))
    centres = partitions.fit(keys, leaves, plan.iterations)
    order = np.argsort(-(queries @ centres.T), axis=1)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(leaves)[None], axis=1)
    visited = np.take_along_axis(rank, partitions.nearest(keys, centres)[nearest], axis=1) + 1
    return float(np.quantile(visited, recall)) / leaves
