"""The speed of the index against other libraries, and its cost.

    python benchmarks/index.py --cache=out/bench --data=d128 --rows=20000 --libraries=scann,faiss_ivf,lorann  # minutes
    python benchmarks/index.py --cache=out/bench                                # many hours: all data, all libraries
    python benchmarks/index.py --cache=out/bench --embeddings=WORKDIR/memory [--queries_column=value_text]
    python -m benchmarks.index_page out/bench/results docs/measurements         # plots and tables of what was found

Parts: `speed` (all libraries of `index_rivals`, by the protocol of `index_tuning`), `limit` (exact search against the
products and the memory traffic that it cannot avoid), and `growth` (of builds with the rows). Data: mixtures of
`index_data`, with queries of the same kind or across a gap, or embeddings. docs/running.md says what to install. Use
an idle machine. What is found is kept in the cache, so that a run that is killed resumes. The last line is one JSON
object.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import sys
from collections.abc import Sequence
from typing import Any

# A script's own folder comes first, and there this file would be the package `index`.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import index_costs, index_data, index_rivals, index_steps
from benchmarks.index_data import Vectors
from index.engines import scann_coder
from pipelines import storage

_PARTS = ("speed", "limit", "growth")
_VECTORS = {"AVX-512": "avx512f", "AVX2": "avx2"}
# Rows and width of each mixture, and whether its queries lie across a gap.
_MIXTURES = {
    "d128": (1_000_000, 128, False),
    "d512": (200_000, 512, False),
    "d768": (200_000, 768, False),
    "gap512": (200_000, 512, True),
}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the parts that are asked for."""
    result: dict[str, Any] = {}
    names = ["embeddings"] if arguments.embeddings else arguments.data
    for name in names if {"speed", "limit"} & set(arguments.parts) else ():
        # One after another, since not all may fit in memory.
        vectors = _vectors(name, arguments)
        if "limit" in arguments.parts:
            limits = index_costs.exact_over_limit(vectors.rows, vectors.reported)
            result |= {f"{key}_{vectors.name}": value for key, value in limits.items()}
        if "speed" in arguments.parts:
            folder = index_data.keep(vectors, pathlib.Path(arguments.cache))
            del vectors
            result |= _speed(folder, arguments)
    if "growth" in arguments.parts:
        result |= index_costs.growth(2 * (arguments.rows or _MIXTURES["d128"][0]), _MIXTURES["d128"][1])
    return result


def _vectors(name: str, arguments: argparse.Namespace) -> Vectors:
    if arguments.embeddings:
        return index_data.embedded(
            arguments.embeddings, arguments.queries, arguments.queries_from, arguments.queries_column
        )
    rows, dim, gap = _MIXTURES[name]
    return index_data.generated(arguments.rows or rows, dim, arguments.queries, gap)


def _speed(folder: pathlib.Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the libraries one after another, and writes what is known so far after each."""
    vectors = index_data.load(folder).vectors
    rows, dim = vectors.rows.shape
    about = {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "is_shared": arguments.shared,
        "date": datetime.date.today().isoformat(),
    }
    # The others are compared with this one.
    first = index_steps.REFERENCE
    found = []
    for library in [first, *(name for name in arguments.libraries if name != first)]:
        found.append(index_steps.measure(folder, library, about))
        result = {"data": vectors.name, "rows": rows, "dim": dim, "queries": len(vectors.reported), "libraries": found}
        storage.write_json(f"{arguments.cache}/results/{folder.name}.json", result)
    return {folder.name: found}


def _processor() -> str:
    """Returns its name, and its widest vectors, by which libraries differ more than by their methods."""
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    flags = scann_coder.processor_flags() or set()
    widest = next((f" with {name}" for name, flag in _VECTORS.items() if flag in flags), "")
    return (names[0] if names else platform.processor()) + widest


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

    libraries = index_rivals.libraries()
    parser.add_argument("--parts", type=names(_PARTS), default=list(_PARTS), help="parts, separated by commas (all)")
    parser.add_argument("--libraries", type=names(libraries), default=libraries, help="separated by commas (all)")
    parser.add_argument("--data", type=names(tuple(_MIXTURES)), default=list(_MIXTURES), help="mixtures (all)")
    parser.add_argument("--rows", type=int, default=0, help="rows of the mixture; 1M of 128, else 200k")
    parser.add_argument("--queries", type=int, default=10_000, help="reported queries; 2000 others tune (10000)")
    parser.add_argument("--embeddings", default="", help="folder that pipelines.embed wrote, instead of the mixtures")
    parser.add_argument("--queries_from", default="", help="another such folder, whose vectors are the queries")
    parser.add_argument("--queries_column", default="key", help="which of its vectors, such as value_text (key)")
    parser.add_argument("--cache", default="out/bench", help="folder that keeps what was built and found")
    parser.add_argument("--shared", action="store_true", help="note that other programs ran on the machine")
    arguments = parser.parse_args()
    missing = [name for name in arguments.libraries if not index_rivals.is_installed(name)]
    if missing and "speed" in arguments.parts:
        parser.error(f"{', '.join(missing)}: not installed; install the extra `bench`, or choose others by --libraries")
    os.makedirs(f"{arguments.cache}/results", exist_ok=True)
    print(json.dumps(run(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
