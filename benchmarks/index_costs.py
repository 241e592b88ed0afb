"""The cost of building and keeping an index, and how close exact search is to the limits of the machine.

Memory is that of a process that does nothing else. The rows are in a mapped file, so that only memory of the build or
of the loaded index is anonymous. It is sampled from `/proc/self/status`, less the memory with all libraries imported.
`index_tuning` measures rates.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.index_data import K, clustered
from configs.base import Index as IndexConfig
from index.engines import scann_searcher
from index.engines.exact import ExactSearcher
from index.engines.searcher import ArrayKeys
from pipelines.nearest_neighbors import KEY_BLOCK, QUERY_BLOCK

_SAMPLE_SECS = 0.002
_REPEATS = 5
_PROJECT = pathlib.Path(__file__).parents[1]


def anonymous_bytes() -> int:
    """Returns the resident bytes of this process that are not backed by a file."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["RssAnon"].split()[0]) * 1024


def peak_bytes(work: Callable[[], object]) -> int:
    """Returns the most anonymous bytes of this process while some work is done."""
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(_SAMPLE_SECS):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak


def _in_a_process(step: str, rows_file: pathlib.Path, folder: pathlib.Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.index_costs", step, str(rows_file), str(folder)]
    done = subprocess.run(command, cwd=_PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory(rows: np.ndarray, folder: pathlib.Path) -> dict[str, float]:
    """Returns peak memory of a build and steady memory of the index, over the raw bytes of rows `[n, d]`."""
    rows_file, index = folder / "rows.npy", folder / "index"
    np.save(rows_file, rows)
    built = _in_a_process("build", rows_file, index)
    loaded = _in_a_process("load", rows_file, index)
    return {
        "peak_build_over_raw": round((built["peak"] - built["before"]) / rows.nbytes, 3),
        "peak_build_process_over_raw": round(built["peak"] / rows.nbytes, 3),
        "steady_over_raw_bf16": round((loaded["after"] - loaded["before"]) / rows.nbytes, 3),
        "disk_over_raw_bf16": round(sum(p.stat().st_size for p in index.rglob("*") if p.is_file()) / rows.nbytes, 3),
    }


def growth(largest: int, dim: int) -> dict[str, float]:
    """Returns seconds of builds of an eighth, a quarter, a half and all of `largest` rows, and how they grow.

    The exponent is the slope of the logarithms, by least squares.
    """
    secs = {}
    for rows in (largest // 8, largest // 4, largest // 2, largest):
        keys = ArrayKeys(clustered(rows, 0, dim)[0])
        begin = time.perf_counter()
        scann_searcher.build(keys, scann_searcher.plan(rows, dim, IndexConfig(k=K)))
        secs[rows] = time.perf_counter() - begin
        print(f"d{dim}: {rows:,} rows built in {secs[rows]:.1f} s", flush=True)
    exponent = np.polyfit([math.log(r) for r in secs], [math.log(s) for s in secs.values()], 1)[0]
    return {
        "build_growth_exponent": round(float(exponent), 3),
        **{f"build_secs_{rows}": round(value, 1) for rows, value in secs.items()},
    }


def exact_over_limit(rows: np.ndarray, queries: np.ndarray) -> dict[str, float]:
    """Returns the rate of exact search over that of bare matrix products, and over that of reading memory.

    The products are those that the search cannot avoid, cut into the same blocks, on all cores.
    """
    exact = ExactSearcher(rows)
    product = np.empty((QUERY_BLOCK, KEY_BLOCK), np.float32)

    def products() -> None:
        for begin in range(0, len(queries), QUERY_BLOCK):
            block = queries[begin : begin + QUERY_BLOCK]
            for low in range(0, len(rows), KEY_BLOCK):
                keys = rows[low : low + KEY_BLOCK]
                np.matmul(block, keys.T, out=product[: len(block), : len(keys)])

    secs: dict[str, list[float]] = {"bare": [], "exact": [], "read": []}
    works: dict[str, Callable[[], object]] = {
        "bare": products,
        "exact": lambda: exact.search(queries, K),
        "read": lambda: rows.max(),
    }
    for _ in range(_REPEATS):
        for name, work in works.items():
            begin = time.perf_counter()
            work()
            secs[name].append(time.perf_counter() - begin)
    median = {name: statistics.median(values) for name, values in secs.items()}
    blocks = math.ceil(len(queries) / QUERY_BLOCK)
    return {
        "exact_over_products": round(median["bare"] / median["exact"], 3),
        "exact_over_memory_read": round(blocks * median["read"] / median["exact"], 3),
        "exact_gflops": round(2 * rows.size * len(queries) / median["exact"] / 1e9, 1),
        "products_gflops": round(2 * rows.size * len(queries) / median["bare"] / 1e9, 1),
        "read_gigabytes_per_sec": round(rows.nbytes / median["read"] / 1e9, 1),
    }


def _step(step: str, rows_file: str, folder: str) -> dict[str, float]:
    from index.engines import scann_coder

    rows = np.load(rows_file, mmap_mode="r")
    plan = scann_searcher.plan(*rows.shape, IndexConfig(k=K))
    scann_coder.library()
    before = anonymous_bytes()
    if step == "build":

        def build() -> None:
            os.makedirs(folder)
            scann_searcher.build(_Mapped(rows), plan).save(folder)

        return {"before": before, "peak": peak_bytes(build)}
    searcher = scann_searcher.load(folder, plan)
    searcher.search(np.array(rows[:1]), K)
    return {"before": before, "after": anonymous_bytes()}


class _Mapped(ArrayKeys):
    """Keys in a mapped file, copied chunk by chunk as those of Parquet files are."""

    def chunks(self) -> Iterator[np.ndarray]:
        for chunk in super().chunks():
            yield np.array(chunk)


def main() -> None:
    """Measures one step in this process; `memory` runs it."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("step", choices=["build", "load"], help="what to measure")
    parser.add_argument("rows_file", help="`.npy` of the rows, float32 [n, d]")
    parser.add_argument("folder", help="of the index, which `build` makes")
    print(json.dumps(_step(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
