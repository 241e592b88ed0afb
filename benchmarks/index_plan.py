"""What `index.plan` says of a build against what the build then takes.

    python -m benchmarks.index_plan 100000 300000 1000000 [--dim=128]

For each number of rows a memory of the mixture in `index_data` is written as embeddings, planned, built and loaded,
each in a process of its own. Seconds are those of the build, without tuning and the import of ScaNN, the rate is that
of the build's own measuring queries, and the peak is that of the whole process. The last line is one JSON object.
"""

import argparse
import concurrent.futures
import importlib
import json
import multiprocessing
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from benchmarks.index_costs import anonymous_bytes, peak_bytes
from benchmarks.index_data import K, write_clustered
from benchmarks.index_jobs import write_embeddings
from configs.base import Config
from configs.base import Index as IndexConfig
from index import Index, build, plan
from index.measure import estimate
from pipelines.manifest import Embeddings
from pipelines.runner import Runner

_QUERIES = 1000


def _config(folder: str) -> Config:
    return Config(workdir=folder, index=IndexConfig(k=K, max_queries=_QUERIES))


def _write(folder: str, rows: int, dim: int) -> None:
    keys = pathlib.Path(folder, "rows.npy")
    write_clustered(rows, 0, dim, keys)
    write_embeddings(_config(folder).places.memory, np.load(keys, mmap_mode="r"))
    keys.unlink()


def _say(folder: str) -> dict[str, float]:
    config = _config(folder)
    expected = plan.expect(Embeddings(config.places.memory), config.index, config.seed)
    return {
        "build_secs": expected.build_secs,
        "queries_per_sec": expected.queries_per_sec,
        "disk_bytes": expected.size.disk_bytes,
        "peak_bytes": expected.size.peak_bytes + estimate.PROGRAM_BYTES,
        "steady_bytes": expected.size.steady_bytes,
    }


def _build(folder: str) -> dict[str, float]:
    config = _config(folder)
    importlib.import_module("scann")
    peak = peak_bytes(lambda: build.run(config, Runner(("--runner=FnApiRunner",))))
    index = Index.open(config.places.index)
    files = [path for path in pathlib.Path(index.folder).rglob("*") if path.is_file()]
    rates = index.facts["rates"]
    return {
        "build_secs": rates["secs"][index.shards[0].path]["build"][0],
        "queries_per_sec": rates["queries_per_sec"],
        "disk_bytes": sum(path.stat().st_size for path in files),
        "peak_bytes": peak,
    }


def _load(folder: str) -> dict[str, float]:
    importlib.import_module("scann")
    index = Index.open(_config(folder).places.index)
    before = anonymous_bytes()
    shard = index.load(0)
    # Arrow gives back what it has freed a little later.
    pa.default_memory_pool().release_unused()
    steady = anonymous_bytes() - before
    del shard
    return {"steady_bytes": steady}


def main(argv: Sequence[str]) -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("rows", type=int, nargs="+", help="of the memory, one or more numbers")
    parser.add_argument("--dim", type=int, default=128, help="of the keys, 128 by default")
    arguments = parser.parse_args(argv)
    found = {}
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for rows in arguments.rows:
            with tempfile.TemporaryDirectory(prefix="web-memory-") as folder:
                pool.submit(_write, folder, rows, arguments.dim).result()
                said, built, loaded = (pool.submit(step, folder).result() for step in (_say, _build, _load))
            figures = {name: (said[name], measured) for name, measured in {**built, **loaded}.items()}
            found[rows] = {name: [round(each, 1) for each in pair] for name, pair in figures.items()}
            ratios = ", ".join(f"{name} {of / measured:.2f}" for name, (of, measured) in figures.items())
            print(f"{rows:,} x {arguments.dim}: said over measured: {ratios}", flush=True)
    print(json.dumps({"dim": arguments.dim, "said_and_measured": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
