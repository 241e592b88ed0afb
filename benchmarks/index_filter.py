"""What a filter costs: search among some of the rows, beside search without a filter, by the share that is allowed.

    python -m benchmarks.index_filter                      # 1M x 128; figures are in docs/measurements/filters.md
    python -m benchmarks.index_filter --rows=100000 --folder=out/filter    # keeps the index for another run

Rows are the mixture of `index_data`; allowed rows are drawn at random. Searches take turns with those without a
filter, and each figure is the best of several, since the machine may be shared.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.index_data import clustered
from index import Index
from index.engines.exact import ExactSearcher
from index.measure.recall import recall_at_k
from index.store.filtered import Allowed

SHARES = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99)
_QUERIES = 1000
# Queries whose exact lists are computed.
_JUDGED = 200


def _secs(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _open(keys: np.ndarray, tuning: np.ndarray, k: int, folder: str) -> Index:
    if folder and os.path.exists(os.path.join(folder, "manifest.json")):
        return Index.open(folder)
    index = Index.build(keys, recall=0.95, k=k, queries=tuning)
    if folder:
        index.save(folder)
    return index


def run(rows: int, dim: int, k: int, repeats: int, folder: str) -> None:
    """Prints rates and recalls."""
    keys, asked = clustered(rows, 3 * _QUERIES, dim)
    tuning, queries = asked[: 2 * _QUERIES], asked[2 * _QUERIES :]
    index = _open(keys, tuning, k, folder)
    print(index, flush=True)
    for number in (_QUERIES, 1):
        some = queries[:number]
        print(f"{number} queries at a time, k = {k}")
        for share in SHARES:
            ids = np.flatnonzero(np.random.default_rng(1).random(rows) < share)
            allowed = Allowed(ids)
            first = _secs(lambda some=some, allowed=allowed: index.search(some, k, allowed=allowed))
            plain, filtered = [], []
            for _ in range(repeats):
                plain.append(_secs(lambda some=some: index.search(some, k)))
                filtered.append(_secs(lambda some=some, allowed=allowed: index.search(some, k, allowed=allowed)))
            judged = queries[:_JUDGED]
            found = index.search(judged, k, allowed=allowed).ids
            exact, scores = ExactSearcher(keys[ids]).search(judged, 2 * k)
            exact = np.where(exact < 0, -1, np.append(ids, -1)[exact])
            recall = recall_at_k(found, exact, scores, k).mean()
            assert np.isin(found, np.append(ids, -1)).all() and ((found >= 0).sum(axis=1) == min(k, len(ids))).all()
            print(
                f"  {share:6.1%} allowed: {number / min(filtered):9,.0f}/s, {min(plain) / min(filtered):5.2f} of "
                f"{number / min(plain):,.0f}/s without; recall {recall:.4f}; first search {first:.3f} s",
                flush=True,
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", default="", help="where the index is kept; empty for nowhere")
    run(**vars(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
