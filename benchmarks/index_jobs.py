"""The rate of the neighbours job against that of the bare searcher, on the same queries.

    python -m benchmarks.index_jobs [ROWS] [DIM] [QUERIES]

A memory and one split of queries, of the mixture in `index_data`, are written as embeddings and indexed; lists have
100 entries. Then, in one process and in turn, the searcher alone, the opened index and the whole job (read, search,
merge, write, gather the named memory rows) look up the same queries. The start-up time, that of the same job over a few
queries, is subtracted: it loads the same shards and starts the same pipeline. Ratios are medians of the repeats. The
last line is one JSON object.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from benchmarks.index_data import K, clustered
from configs.base import Config, Index, Neighbors, Source
from index import Index as OpenIndex
from index import build, neighbors
from pipelines import manifest, schemas, storage
from pipelines.manifest import Marker
from pipelines.runner import Runner
from pipelines.schemas import EncoderInfo

_REPEATS = 3
SHARD_ROWS = 10_000
_FEW = 64
_BEAM = ("--runner=FnApiRunner",)


def write_embeddings(folder: str, keys: np.ndarray) -> None:
    """Writes a finished folder of embeddings with keys alone."""
    rows, dim = keys.shape
    info = EncoderInfo("benchmark", dim, True, "float32")
    config_hash = manifest.claim(
        folder, "pipelines.embed", {"source": folder, "encoders": {"key": dataclasses.asdict(info)}}
    )
    schema, markers = schemas.embeddings({"key": dim}), []
    for number, begin in enumerate(range(0, rows, SHARD_ROWS)):
        part = keys[begin : begin + SHARD_ROWS]
        n, name = len(part), f"{number:05d}"
        images = np.random.default_rng([begin, rows]).bytes(32 * n)
        arrays = {
            "id": schemas.make_id(number, np.arange(n)),
            "content_key": pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), n, [None, pa.py_buffer(images)]),
            "source_shard": pa.array([name] * n),
            "member": pa.array([f"{row}.jpg" for row in range(n)]),
            "label": pa.array(np.arange(n) % 100, pa.int32()),
            "key": schemas.fixed_list(part, schema.field("key")),
        }
        columns = [arrays.get(field.name, pa.nulls(n, field.type)) for field in schema]
        path = storage.join(folder, f"{name}.parquet")
        schemas.write(
            path, pa.Table.from_arrays([pa.array(c) for c in columns], schema=schema), {"config_hash": config_hash}
        )
        digest = storage.sha256(path)
        markers.append(Marker(number, name, "in", 1, "1", n, n, 0, digest, config_hash, "run", 0.0))
        markers[-1].write(folder)
    manifest.complete(folder, markers, config_hash)


def _secs(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def neighbors_over_searcher(
    rows: int = 1_000_000, dim: int = 128, queries: int = 200_000, shards: int = 1, k: int = K
) -> dict[str, float]:
    """Measures the job against the bare searcher.

    Args:
        rows: of the memory.
        dim: of its keys.
        queries: that are looked up.
        shards: of the index.
        k: neighbours a query.

    Returns:
        Queries/s of `searcher`, `index` and `job`, seconds of `startup`, and what the job is over each of the others.
    """
    with tempfile.TemporaryDirectory(prefix="web-memory-") as folder:
        keys, asked = clustered(rows, queries, dim)
        write_embeddings(f"{folder}/memory", keys)
        index = Index(shards=shards, k=k, max_queries=1000)
        configs = []
        for name, of in (("whole", asked), ("few", asked[:_FEW])):
            workdir = pathlib.Path(folder, name)
            write_embeddings(f"{workdir}/queries/train", of)
            (workdir / "memory").symlink_to(f"{folder}/memory")
            configs.append(
                Config(workdir=str(workdir), index=index, neighbors=Neighbors(k=k), train_set=Source(path="queries"))
            )
        whole, few = configs
        build.run(whole, Runner(_BEAM))
        shutil.copytree(whole.places.index, few.places.index)
        opened = OpenIndex.open(whole.places.index)
        loaded = [opened.load(number) for number in range(shards)]
        images = np.random.default_rng(3).bytes(32 * queries)
        own = np.frombuffer(images, "S32")
        opened.search(asked[:_FEW], k, own[:_FEW])
        timed: dict[str, list[float]] = {name: [] for name in ("searcher", "index", "job", "startup")}
        for _ in range(_REPEATS):
            timed["searcher"].append(_secs(lambda: _visit(opened, loaded, asked, k)))
            timed["index"].append(_secs(lambda: opened.search(asked, k, own)))
            for name, config in (("startup", few), ("job", whole)):
                shutil.rmtree(config.places.neighbors, ignore_errors=True)
                timed[name].append(_secs(lambda config=config: neighbors.run(config, Runner(_BEAM))))
        startup = statistics.median(timed["startup"])
        rate = {name: [queries / secs for secs in timed[name]] for name in ("searcher", "index")}
        rate["job"] = [queries / (secs - startup) for secs in timed["job"]]
        ratios = {
            f"job_over_{name}": round(
                statistics.median(job / bare for job, bare in zip(rate["job"], rate[name], strict=True)), 3
            )
            for name in ("searcher", "index")
        }
        rates = {f"{name}_queries_per_sec": round(statistics.median(of), 1) for name, of in rate.items()}
        return {**rates, "startup_secs": round(startup, 2), **ratios}


def _visit(opened: OpenIndex, loaded: Sequence[object], queries: np.ndarray, k: int) -> None:
    """Searches each shard for the queries that visit it, and drops the results."""
    visits = opened.visits(queries)
    for number, shard in enumerate(loaded):
        places = np.flatnonzero(visits.leaves[:, number])
        leaves, shares = visits.part(places, number) if opened.shards[number].is_region else (None, None)
        shard.searcher.search(queries[places], k, leaves=leaves, shares=shares)  # type: ignore[attr-defined]


def main(argv: Sequence[str]) -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    for name, default in (("rows", 1_000_000), ("dim", 128), ("queries", 200_000)):
        parser.add_argument(name, type=int, nargs="?", default=default, help=f"{default:,} by default")
    print(json.dumps(neighbors_over_searcher(**vars(parser.parse_args(argv)))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
