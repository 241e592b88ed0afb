"""Search of all keys with JAX against its products alone: how far the choice of the nearest is from costing nothing.

    python -m benchmarks.index_exhaustive [--rows=100000] [--dim=512] [--queries=2048] [--reorder=float32,bfloat16]

Both take turns on one thread: `taskset -c 0` holds XLA to it. `floor_over_search` is the processor time of the products
over that of the search, a median of five. The products are of 1,024 queries and 4,096 keys, the fastest shape that was
tried. Lists are compared with NumPy's exact ones of the same queries. A line of JSON for each precision.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.index_data import K, clustered
from configs.base import Index
from index.engines import jax_searcher
from index.engines.exact import ExactSearcher
from index.engines.products import products
from index.engines.searcher import ArrayKeys

_REPEATS, _ROWS, _QUERIES = 5, 4096, 1024


def _secs(what: Callable[[], object]) -> float:
    begin = time.process_time()
    what()
    return time.process_time() - begin


def measure(keys: np.ndarray, queries: np.ndarray, reorder: str) -> dict[str, float]:
    """Returns the core-seconds of products and search, their ratio, and the share of entries of NumPy's lists."""
    plan = jax_searcher.plan(*keys.shape, Index(leaves=1, reorder=reorder))
    engine = jax_searcher.build(ArrayKeys(keys), plan)
    rows, asked = (vectors.astype(engine.tiles.keys.dtype) for vectors in (keys, queries))

    def bare() -> None:
        for first in range(0, len(rows), _ROWS):
            for begin in range(0, len(asked), _QUERIES):
                scores = products(asked[begin : begin + _QUERIES], rows[first : first + _ROWS])
            scores.block_until_ready()

    bare()
    found, _ = engine.search(queries, K)
    spent = [(_secs(bare), _secs(lambda: engine.search(queries, K))) for _ in range(_REPEATS)]
    exact, _ = ExactSearcher(keys).search(queries, K)
    return {
        "products_secs": statistics.median(floor for floor, _ in spent),
        "search_secs": statistics.median(whole for _, whole in spent),
        "floor_over_search": round(statistics.median(floor / whole for floor, whole in spent), 3),
        "same_entries": round(float((found == exact).mean()), 5),
    }


def main(argv: Sequence[str]) -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    for name, number in (("rows", 100_000), ("dim", 512), ("queries", 2048)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--reorder", default="float32,bfloat16")
    args = parser.parse_args(argv)
    keys, queries = clustered(args.rows, args.queries, args.dim)
    for reorder in args.reorder.split(","):
        print(json.dumps({"rows": args.rows, "dim": args.dim, "reorder": reorder, **measure(keys, queries, reorder)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
