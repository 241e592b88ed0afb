"""The speed of the index against other libraries, and its cost.

    python benchmarks/index.py --cache=out/bench                           # hours the first time, to build graphs
    python benchmarks/index.py --rows=20000 --dim=128 --parts=speed,limit  # a minute
    python benchmarks/index.py --embeddings=out/demo/memory --parts=speed

Parts: `speed` (the rivals of `index_rivals.grid`, tuned as in `index_tuning` and compared on other queries, k 100),
`autofaiss` (with as much memory as our index takes), `limit` (exact search against the products and the memory traffic
that it cannot avoid), `memory` and `growth` (of builds, see `index_costs`). Data: 1M x 128 and 200k x 768 vectors of
the mixture in `index_data`, or one shape of it, or embeddings. See docs/running.md for what to install. Use an idle
machine. The last line is one JSON object.
"""

import argparse
import hashlib
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

# A script's own folder comes first, and there this file would be the package `index`.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import index_costs, index_data, index_tuning
from benchmarks.index_data import Data, K
from benchmarks.index_tuning import Measured, Tuned
from configs.base import Index as IndexConfig
from index.engines import planner, scann_searcher
from index.engines.planner import Parameters
from index.engines.scann_searcher import ScannSearcher
from index.engines.searcher import ArrayKeys
from index.measure.recall import recall_at_k

_PARTS = ("speed", "autofaiss", "limit", "memory", "growth")
_LIBRARIES = ("faiss_flat", "faiss_ivf", "faiss_hnsw", "hnswlib", "usearch")
_SHAPES = ((1_000_000, 128), (200_000, 768))
_TARGETS = (0.95, 0.99)
_OURS = "scann"
_Built = tuple[ScannSearcher, dict[float, Parameters]]


def _cache(folder: pathlib.Path, data: Data) -> pathlib.Path:
    digest = hashlib.sha256(data.rows[:: max(1, len(data.rows) // 1000)].tobytes()).hexdigest()[:12]
    path = folder / f"{data.name}-{'x'.join(map(str, data.rows.shape))}-{digest}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _build_ours(data: Data) -> _Built:
    """Builds, and tunes on the tuning queries for each target."""
    keys, config = ArrayKeys(data.rows), IndexConfig(k=K)
    plan = scann_searcher.plan(keys.rows, keys.dim, config)
    begin = time.perf_counter()
    built = scann_searcher.build(keys, plan)
    secs = time.perf_counter() - begin

    def measure(tried: Parameters) -> Any:
        rows, _ = built.with_parameters(tried).search(data.tuning, K)
        return recall_at_k(rows, *data.tuning_truth, K)

    tuned = planner.frontier(measure, plan, keys.rows, K, _TARGETS)
    print(f"{data.name} ours: built in {secs:.0f} s as {plan}, searched with {tuned}", flush=True)
    return built, tuned


def _ours(data: Data, built: ScannSearcher, parameters: dict[float, Parameters], target: float) -> Tuned:
    def search(queries: Any, threads: int) -> Any:
        return built.with_parameters(parameters[target]).with_threads(1 if threads == 1 else 0).search(queries, K)[0]

    rate = len(data.tuning) / index_tuning.timed(search, data.tuning, 1)[1]
    return Tuned(_OURS, _OURS, parameters[target], rate, search)


def _speed(data: Data, ours: _Built, libraries: Sequence[str], cache: pathlib.Path) -> dict[str, float]:
    from benchmarks import index_rivals

    rivals = index_rivals.grid(*data.rows.shape, list(libraries))
    threads, result = len(os.sched_getaffinity(0)), {}
    best = index_tuning.tune_rivals(rivals, data, _TARGETS, _cache(cache, data), threads)
    for target in _TARGETS:
        tuned = {**best[target], _OURS: _ours(data, *ours, target)}
        suffix = f"{data.name}_r{round(target * 100)}"
        measured = index_tuning.compare(tuned, data, 1)
        _show(suffix, tuned, measured)
        result |= {f"{name}_queries_per_sec_{suffix}": round(m.rate, 1) for name, m in measured.items()}
        result |= {f"{name}_recall_{suffix}": round(m.recall, 4) for name, m in measured.items()}
        against = {name: m for name, m in measured.items() if name not in (_OURS, "faiss_flat")}
        if against:
            strongest = max(against, key=lambda name: against[name].rate)
            result[f"scann_over_best_rival_{suffix}"] = index_tuning.over(measured[_OURS], measured[strongest])
        if "faiss_flat" in measured:
            over_flat = index_tuning.over(measured[_OURS], measured["faiss_flat"])
            result[f"scann_over_faiss_flat_{suffix}"] = over_flat
        both = index_tuning.compare(tuned, data, threads) if threads > 1 else {}
        if both:
            _show(f"{suffix}, {threads} threads", tuned, both)
            result |= {
                f"{name}_two_threads_over_one_{suffix}": round(m.rate / measured[name].rate, 3)
                for name, m in both.items()
            }
    return result


def _show(title: str, tuned: dict[str, Tuned], measured: dict[str, Measured]) -> None:
    for name, values in sorted(measured.items(), key=lambda item: -item[1].rate):
        print(f"{title}: {tuned[name].name} {values.rate:,.0f} queries/s, recall {values.recall:.4f}", flush=True)


def _autofaiss(data: Data, built: _Built) -> dict[str, float]:
    """Returns recall and rate of the index that autofaiss chooses, given our memory and our time per query."""
    import autofaiss
    import faiss

    ours = _ours(data, *built, _TARGETS[0])
    budget = 0.65 * data.rows.nbytes
    index, facts = autofaiss.build_index(
        data.rows,
        save_on_disk=False,
        max_index_memory_usage=f"{budget / 1e6:.0f}MB",
        max_index_query_time_ms=1000 / ours.rate,
        min_nearest_neighbors_to_retrieve=K,
        metric_type="ip",
        verbose=50,
    )

    def search(queries: Any, threads: int) -> Any:
        faiss.omp_set_num_threads(threads)
        return index.search(queries, K)[1]

    theirs = Tuned(f"autofaiss {facts['index_key']} {facts['index_param']}", "autofaiss", None, 0.0, search)
    tuned = {"autofaiss": theirs, _OURS: ours}
    measured = index_tuning.compare(tuned, data, 1)
    _show(f"{data.name}, {budget / 1e6:.0f} MB", tuned, measured)
    return {
        f"scann_over_autofaiss_{data.name}": index_tuning.over(measured[_OURS], measured["autofaiss"]),
        f"autofaiss_recall_{data.name}": round(measured["autofaiss"].recall, 4),
        f"scann_recall_{data.name}": round(measured[_OURS].recall, 4),
    }


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Measures the parts that are asked for."""
    result: dict[str, float] = {}
    for data in _data(arguments):
        result |= _measure(data, arguments)
    if "growth" in arguments.parts:
        result |= index_costs.growth(2 * (arguments.rows or _SHAPES[0][0]), arguments.dim or _SHAPES[0][1])
    return result


def _data(arguments: argparse.Namespace) -> Iterator[Data]:
    """Yields the data one after another, since both may not fit in memory."""
    if arguments.embeddings:
        yield index_data.embedded(arguments.embeddings, arguments.queries)
        return
    for rows, dim in _SHAPES:
        if arguments.dim in (0, dim):
            yield index_data.generated(arguments.rows or rows, dim, arguments.queries)


def _measure(data: Data, arguments: argparse.Namespace) -> dict[str, float]:
    result, of_data = {}, {}
    if {"speed", "autofaiss"} & set(arguments.parts):
        ours = _build_ours(data)
    if "speed" in arguments.parts:
        result |= _speed(data, ours, arguments.libraries, pathlib.Path(arguments.cache))
    if "autofaiss" in arguments.parts:
        result |= _autofaiss(data, ours)
    if "limit" in arguments.parts:
        of_data |= index_costs.exact_over_limit(data.rows, data.reported)
    if "memory" in arguments.parts:
        with tempfile.TemporaryDirectory(dir=arguments.cache) as folder:
            of_data |= index_costs.memory(data.rows, pathlib.Path(folder))
    return result | {f"{name}_{data.name}": value for name, value in of_data.items()}


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])

    def names(known: Sequence[str]) -> Any:
        def parse(text: str) -> list[str]:
            unknown = set(text.split(",")) - set(known)
            if unknown:
                raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose of {', '.join(known)}")
            return text.split(",")

        return parse

    parser.add_argument("--parts", type=names(_PARTS), default=list(_PARTS), help="parts, separated by commas (all)")
    parser.add_argument(
        "--libraries", type=names(_LIBRARIES), default=list(_LIBRARIES), help="rivals, separated by commas (all)"
    )
    parser.add_argument("--rows", type=int, default=0, help="rows of the mixture; 1M of 128, 200k of 768 dimensions")
    parser.add_argument("--dim", type=int, default=0, choices=[0, *(dim for _, dim in _SHAPES)], help="one shape only")
    parser.add_argument("--queries", type=int, default=2000, help="tuning queries, and as many reported ones (2000)")
    parser.add_argument("--embeddings", default="", help="folder that pipelines.embed wrote, instead of the mixture")
    parser.add_argument("--cache", default="out/bench", help="folder that keeps what the rivals built")
    arguments = parser.parse_args()
    os.makedirs(arguments.cache, exist_ok=True)
    print(json.dumps(run(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
