"""An index larger than memory: built from a mapped file, and searched with the keys that re-rank on disk or in memory.

    python -m benchmarks.index_disk --rows=10000000 --folder=/tmp/disk --rows-file=/tmp/rows.npy

The rows are the mixture of `index_data`, written in blocks, so that they never are in memory at once; a file that is
there is used again, with the queries beside it. Each step is a process of its own: `build` (seconds, processor seconds,
peak of anonymous memory), `truth` (exact lists), `tune` (the settings at a target recall), and `search`, once for each
place of the keys: anonymous memory, recall, and queries/s in batches. The index with its keys in memory is the same
one: only ScaNN's list of files and its config differ.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np

from benchmarks import index_data
from benchmarks.index_costs import anonymous_bytes, peak_bytes
from benchmarks.index_data import K
from configs.base import Index as IndexConfig
from index.engines import planner, scann_coder, scann_searcher
from index.engines.exact import ExactSearcher
from index.engines.planner import Parameters
from index.engines.searcher import ArrayKeys
from index.measure.recall import recall_at_k
from pipelines import storage
from pipelines.nearest_neighbors import BestLists

_PLACES = ("disk", "memory")
_QUERIES = 40_000
_MEASURED = 500
_TRUTH_ROWS = 1 << 20
_BATCHES = (16_384, 1000)
_ROUNDS = 3


def rows_of(arguments: argparse.Namespace) -> np.ndarray:
    """Returns the mapped rows float32 `[n, d]`, after writing them and their queries where they are missing."""
    if not arguments.rows_file.exists():
        index_data.write_clustered(arguments.rows, _QUERIES, arguments.dim, arguments.rows_file)
    return np.load(arguments.rows_file, mmap_mode="r")[: arguments.rows]


def queries_of(arguments: argparse.Namespace) -> np.ndarray:
    """Returns queries float32 `[Q, d]`; the first `2 * _MEASURED` are those with exact lists."""
    return np.load(index_data.queries_file(arguments.rows_file))


def build(arguments: argparse.Namespace) -> dict[str, float]:
    """Builds the index with its keys on disk, and links it to one with its keys in memory."""
    rows, folder = rows_of(arguments), arguments.folder / "disk"
    plan = scann_searcher.plan(*rows.shape, IndexConfig(k=K, reorder_on="disk"))
    scann_coder.library()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before, begin, spent = anonymous_bytes(), time.perf_counter(), time.process_time()
    peak = peak_bytes(lambda: scann_coder.write(ArrayKeys(rows), plan, str(folder)))
    figures = {"secs": time.perf_counter() - begin, "core_secs": time.process_time() - spent}
    _hold_in_memory(folder, arguments.folder / "memory")
    size = sum(path.stat().st_size for path in folder.iterdir())
    return figures | {"peak_gib": peak / 2**30, "before_gib": before / 2**30, "disk_gib": size / 2**30}


def _hold_in_memory(folder: pathlib.Path, held: pathlib.Path) -> None:
    """Makes an index that ScaNN re-ranks itself, of links to the files of one that it does not."""
    from scann.proto.scann_pb2 import ScannConfig

    shutil.copytree(folder, held, copy_function=os.link)
    config = ScannConfig.FromString((folder / "scann_config.pb").read_bytes())
    config.exact_reordering.approx_num_neighbors = K
    config.exact_reordering.bfloat16.enabled = True
    assets = (folder / scann_coder.ASSETS_FILE).read_text()
    assets += scann_coder.assets_text({"BF16_DATASET_NPY": "bfloat16_dataset.npy"})
    for name, data in (("scann_config.pb", config.SerializeToString()), (scann_coder.ASSETS_FILE, assets.encode())):
        (held / name).unlink()
        (held / name).write_bytes(data)


def truth(arguments: argparse.Namespace) -> dict[str, float]:
    """Writes the exact lists of the measured queries."""
    rows, queries = rows_of(arguments), queries_of(arguments)[: 2 * _MEASURED]
    best, begin = BestLists(len(queries), 2 * K), time.perf_counter()
    for first in range(0, len(rows), _TRUTH_ROWS):
        found, scores = ExactSearcher(rows[first : first + _TRUTH_ROWS]).search(queries, 2 * K)
        best.add(found + first, scores)
    np.savez(arguments.folder / "truth.npz", ids=best.ids, scores=best.scores)
    return {"secs": time.perf_counter() - begin}


def _load(arguments: argparse.Namespace, place: str) -> scann_searcher.ScannSearcher:
    plan = scann_searcher.plan(arguments.rows, arguments.dim, IndexConfig(k=K, reorder_on=place))
    return scann_searcher.load(str(arguments.folder / place), plan)


def _recalls(searcher: scann_searcher.ScannSearcher, arguments: argparse.Namespace, some: slice) -> np.ndarray:
    with np.load(arguments.folder / "truth.npz") as exact:
        right = exact["ids"][some], exact["scores"][some]
    return recall_at_k(searcher.search(queries_of(arguments)[some], K)[0], *right, k=K)


def tune(arguments: argparse.Namespace) -> dict[str, int]:
    """Returns the cheapest parameters that reach the target on half of the measured queries."""
    searcher, plan = _load(arguments, "memory"), scann_searcher.plan(arguments.rows, arguments.dim, IndexConfig(k=K))

    def measure(parameters: Parameters) -> np.ndarray:
        return _recalls(searcher.with_parameters(parameters), arguments, slice(0, _MEASURED))

    found = planner.frontier(measure, plan, arguments.rows, K, [arguments.recall])[arguments.recall]
    return {"leaves": found.leaves_to_search, "candidates": found.pre_reorder_num_neighbors}


def search(arguments: argparse.Namespace, place: str, leaves: int, candidates: int) -> dict[str, float]:
    """Returns memory, recall and rates of the index with its keys in one place."""
    before = anonymous_bytes()
    searcher = _load(arguments, place).with_parameters(Parameters(leaves, candidates, K))
    figures = {"loaded_gib": (anonymous_bytes() - before) / 2**30, "before_gib": before / 2**30}
    figures["recall"] = float(_recalls(searcher, arguments, slice(_MEASURED, 2 * _MEASURED)).mean())
    queries, peak = queries_of(arguments)[2 * _MEASURED :], 0
    for batch in _BATCHES:
        rates = []
        for number in range(_ROUNDS):
            part = queries[number * batch % (len(queries) - batch) :][:batch]
            begin, spent = time.perf_counter(), time.process_time()
            peak = max(peak, peak_bytes(lambda part=part: searcher.search(part, K)))  # type: ignore[misc]
            rates.append((batch / (time.perf_counter() - begin), batch / (time.process_time() - spent)))
        # The first round warms up.
        figures[f"per_sec_{batch}"], figures[f"per_core_sec_{batch}"] = np.max(rates[1:], axis=0).tolist()
    return figures | {"peak_gib": peak / 2**30}


_STEPS = {"build": build, "truth": truth, "tune": tune, "search": search}


def main() -> None:
    """Runs the steps, or one of them in this process, and prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("out/bench/disk"))
    parser.add_argument("--rows-file", type=pathlib.Path, default=pathlib.Path("out/bench/disk.npy"))
    parser.add_argument("--step", help="with its arguments as JSON, in this process; else all")
    arguments = parser.parse_args()
    if arguments.step:
        name, *rest = json.loads(arguments.step)
        print(json.dumps(_STEPS[name](arguments, *rest)))
        return
    rows_of(arguments)

    def run(*step: object) -> dict[str, float]:
        command = [sys.executable, "-m", "benchmarks.index_disk", *sys.argv[1:], f"--step={json.dumps(step)}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        print(*step, json.dumps({key: round(value, 4) for key, value in figures.items()}), flush=True)
        return figures

    figures: dict[str, object] = {name: run(name) for name in ("build", "truth", "tune")}
    tuned = list(figures["tune"].values())  # type: ignore[attr-defined]
    figures |= {place: run("search", place, *tuned) for place in _PLACES}
    storage.write_json(str(arguments.folder / "figures.json"), figures, sealed=False)


if __name__ == "__main__":
    main()
