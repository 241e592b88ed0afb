"""The cost of shards: an index of eight, in regions or by hash, against one shard of the same rows, at the same recall.

    python -m benchmarks.index_sharding [--rows=1000000] [--dim=128] [--queries=2000] [--asked=16384] [--shards=8]
        [--folder=DIR]

Each index is built by `index.build` and tuned by its own curve on `--queries` of its own. All of them then search
`--asked` others in turn, as many at once as the neighbours job does by default, on one thread, at the points of the
curve around recall@100 0.95. Queries/s at exactly that recall are interpolated between two points, by logarithm against
recall. Ratios are medians of the repeats. A folder that is named is kept, and a later run resumes in it. The last line
is one JSON object.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

# Products of matrices count as what one thread does.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

from benchmarks.index_data import K, clustered
from benchmarks.index_jobs import SHARD_ROWS, write_embeddings
from configs.base import Config
from configs.base import Index as IndexConfig
from index import Index, build
from index.engines.exact import ExactSearcher
from index.measure.recall import recall_at_k
from index.store import records
from index.store.lookup import Lookup
from index.store.records import Point
from pipelines import manifest, schemas, storage
from pipelines.runner import Runner

RECALL = 0.95
_ROW_MASK = (1 << schemas.ROW_BITS) - 1
_REPEATS = 5
_SHARDINGS = ("one", "routed", "hash")


@dataclasses.dataclass(frozen=True)
class _Point:
    """An index, opened at a point of its curve and on one thread, and its recall on these queries."""

    index: Index
    recall: float


def build_all(
    folder: str, rows: int, dim: int, queries: int, asked: int, shards: int
) -> tuple[dict[str, str], np.ndarray, np.ndarray]:
    """Builds what is missing; returns the folder of each index, the keys, and queries that none was tuned on."""
    keys, drawn = clustered(rows, queries + asked, dim)
    for path, vectors in (("memory", keys), ("val", drawn[:queries])):
        if not storage.exists(f"{folder}/{path}/{manifest.COMPLETE_FILE}"):
            write_embeddings(f"{folder}/{path}", vectors)
    folders = {}
    for name in _SHARDINGS:
        workdir = pathlib.Path(folder, name)
        (workdir / "queries").mkdir(parents=True, exist_ok=True)
        for link, path in (("memory", "memory"), ("queries/val", "val")):
            if not (workdir / link).exists():
                (workdir / link).symlink_to(pathlib.Path(folder, path).resolve())
        index = IndexConfig(
            k=K,
            target_recall=RECALL,
            max_queries=queries,
            shards=1 if name == "one" else shards,
            sharding="hash" if name == "hash" else "routed",
        )
        config = Config(workdir=str(workdir), index=index)
        build.run(config, Runner(["--runner=FnApiRunner"]))
        folders[name] = config.places.index
    return folders, keys, drawn[queries:]


def points(folder: str, queries: np.ndarray, exact: tuple[np.ndarray, np.ndarray]) -> list[_Point]:
    """Opens an index at the last point of its curve below `RECALL`, and the first above, for these queries.

    Args:
        folder: of the index.
        queries: float32 `[Q, d]`.
        exact: their nearest rows as places in the order of the keys, and scores, `[Q, >= k]`.
    """
    opened = Index.open(folder)
    shards = [opened.load(number) for number in range(len(opened.shards))]
    kept: list[_Point] = []
    for point in sorted(opened.facts["curve"], key=lambda point: point["cost"]):
        index = Index(folder, opened.facts, Point(**point))
        for number, (record, shard) in enumerate(zip(opened.shards, shards, strict=True)):
            setting = record.settings[records.setting_of(record.settings, record.is_region, index.point)]
            engine: Any = shard.searcher.with_parameters(setting.parameters)
            index.loaded[number] = Lookup(dataclasses.replace(shard, searcher=engine.with_threads(1)))
        found = index.search(queries, K).ids
        places = np.where(found < 0, -1, (found >> schemas.ROW_BITS) * SHARD_ROWS + (found & _ROW_MASK))
        now = _Point(index, float(recall_at_k(places, *exact, k=K).mean()))
        kept = [*kept[-1:], now] if not kept or now.recall > kept[-1].recall else kept
        if len(kept) == 2 and now.recall >= RECALL:
            break
    return kept


def rate(around: Sequence[_Point], secs: Sequence[float], queries: int) -> float:
    """Returns the queries/s at `RECALL`, from the seconds at the points around it."""
    recalls, logs = [point.recall for point in around], [math.log(queries / spent) for spent in secs]
    return math.exp(float(np.interp(RECALL, recalls, logs)))


def measure(folders: dict[str, str], keys: np.ndarray, queries: np.ndarray) -> dict[str, Any]:
    """Returns queries/s of each index at `RECALL`, the points around it, and the ratio of each to one shard."""
    exact = ExactSearcher(keys).search(queries, 2 * K)
    around = {name: points(folder, queries, exact) for name, folder in folders.items()}
    rates: dict[str, list[float]] = {name: [] for name in folders}
    for _ in range(_REPEATS):
        for name, between in around.items():
            secs = []
            for point in between:
                begin = time.process_time()
                point.index.search(queries, K)
                secs.append(time.process_time() - begin)
            rates[name].append(rate(between, secs, len(queries)))
    figures: dict[str, Any] = {}
    for name, of in rates.items():
        figures[f"{name}_queries_per_sec"] = round(statistics.median(of), 1)
        figures |= {f"{name}_{figure}": value for figure, value in _described(around[name], queries).items()}
        if name != "one":
            ratios = [mine / ones for mine, ones in zip(of, rates["one"], strict=True)]
            figures[f"{name}_over_one"] = round(statistics.median(ratios), 3)
    return figures


def _described(around: Sequence[_Point], queries: np.ndarray) -> dict[str, Any]:
    visits = [float((point.index.visits(queries).leaves > 0).sum(1).mean()) for point in around]
    return {
        "recalls": [round(point.recall, 4) for point in around],
        "points": [[point.index.point.leaves, point.index.point.candidates] for point in around],
        "visits": [round(mean, 2) for mean in visits],
    }


def main(argv: Sequence[str]) -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    for name, number in (("rows", 1_000_000), ("dim", 128), ("queries", 2000), ("asked", 16_384), ("shards", 8)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--folder", default="")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="web-memory-") as temporary:
        built = build_all(args.folder or temporary, args.rows, args.dim, args.queries, args.asked, args.shards)
        print(json.dumps({"rows": args.rows, "shards": args.shards, **measure(*built)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
