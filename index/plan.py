"""Estimates the size and cost of an index, before any work: `web-memory plan --config=configs/demo.py`.

Builds and searches two small shards, samples of the memory, on this machine. Refuses a recall that cannot be reached,
and a build that takes more memory than `--config.index.memory_gb`. `index.build` uses the same planner.
"""

import dataclasses
import math
import sys
from collections.abc import Sequence

import numpy as np

from configs.base import Config, Index
from index.engines import searcher
from index.engines.planner import Plan
from index.measure import estimate
from index.store.keys import read_places
from pipelines import options
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.progress import counted, duration, summary


@dataclasses.dataclass(frozen=True)
class Expected:
    """What an index will take.

    Attributes:
        shards: of the index.
        rows: of a shard, at most.
        plan: of a shard.
        size: of a shard.
        build_secs: of a shard, without its tuning and measuring.
        queries_per_sec: through one shard, on all cores.
    """

    shards: int
    rows: int
    plan: Plan
    size: estimate.Size
    build_secs: float
    queries_per_sec: float


def expect(memory: Embeddings, index: Index, seed: int) -> Expected:
    """Builds and searches small shards, and says what that means for the whole.

    Raises:
        UserError: if no plan satisfies the config.
    """
    dim = memory.encoder("key").dim
    shards = estimate.choose_shards(index, memory.rows, dim)
    rows = math.ceil(memory.rows / shards)
    plan = searcher.kind(index.searcher).plan(rows, dim, index)
    if plan.leaves and shards > 1 and index.sharding == "routed":
        plan = dataclasses.replace(plan, leaves=estimate.region_leaves(index, memory.rows, dim, shards) // shards)
    keys, queries = _sample(memory, seed)
    calibration = estimate.calibrate(keys, queries, index)
    if plan.leaves and calibration.recall < index.target_recall:
        raise UserError(
            f"--config.index.target_recall={index.target_recall}: {index.reorder} keys reach {calibration.recall:.3f} "
            f"even if everything is searched; ask for {math.floor(1000 * calibration.recall) / 1000:g}"
            + (" or set --config.index.reorder=float32" if index.reorder != "float32" else "")
        )
    secs = estimate.build_secs(calibration, plan, rows, dim)
    rate = estimate.queries_per_sec(calibration, estimate.times_scanned(keys, queries, plan, rows, index))
    return Expected(shards, rows, plan, estimate.size(plan, rows, dim), secs, rate)


def run(config: Config) -> None:
    """Prints the plan.

    Raises:
        UserError: if the memory is missing, or no plan satisfies the config.
    """
    from index.building import claim

    memory, index = Embeddings(config.places.memory), config.index
    claim.check(index, memory)
    expected = expect(memory, index, config.seed)
    dim, plan, size = memory.encoder("key").dim, expected.plan, expected.size
    summary(
        f"index plan: {counted(memory.rows, 'row')}, {dim} dimensions",
        {
            "searcher": f"{index.searcher}, recall@{index.k} {index.target_recall:g}",
            "shards": f"{expected.shards}, of {counted(expected.rows, 'row')}",
            "leaves": f"{plan.leaves:,}, trained on {plan.sample_rows:,} rows"
            if plan.leaves
            else "none, every key is scanned",
            "codes": f"{plan.pca_dims or dim} dimensions, {plan.dims_per_block} a code" if plan.leaves else "none",
            "re-ranked in": f"{plan.reorder}, from {plan.reorder_on}",
            "disk": f"{_bytes(expected.shards * size.disk_bytes)} in all",
            "memory": f"{_bytes(size.peak_bytes)} to build a shard, {_bytes(size.steady_bytes)} to search it, "
            f"beside {_bytes(estimate.PROGRAM_BYTES)} of the program",
            "build": f"about {duration(expected.build_secs)} a shard",
            "search": f"about {expected.queries_per_sec:,.0f} queries/s through one shard, on all cores",
        },
    )


def _bytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def _sample(memory: Embeddings, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns keys and queries, float32 `[n, d]`, distinct rows of the memory."""
    rng = np.random.default_rng(seed)
    queries = min(estimate.CALIBRATION_QUERIES, memory.rows // 2)
    drawn = rng.permutation(memory.rows)[: queries + estimate.CALIBRATION_ROWS]
    _, keys = read_places(memory, np.sort(drawn))
    mixed = rng.permutation(len(keys))
    return keys[np.sort(mixed[queries:])], keys[mixed[:queries]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv)


if __name__ == "__main__":
    sys.exit(main())
