"""Ours, the libraries that one might use instead, and the grid of builds of each; more are in `index_quantized`.

All are behind the same calls (`index_tuning.Rival`), and each library is imported only when it is used. Effort and
factor of a setting mean probes of an inverted file or candidates of a graph, and how long a list is re-ranked. Each
grid has what the manual of its library proposes for such data:

- faiss IVF of about sqrt(n), twice and four times as many lists, with PQ of 4 bits in the fast-scan layout: codes of 2,
  4 or 8 dimensions of residuals and, for 2, of the vectors; also behind PCA to a half or a quarter of the dimensions,
  and OPQ to a half; then re-ranked in float32;
- faiss HNSW, hnswlib: M 16 and 32; usearch: connectivity 16 and 32, stored as float16, bfloat16 or int8; all with 200
  candidates at building;
- faiss Flat.

Ours are the kinds of `searcher.KINDS` but `exact`, as `index.plan` plans them.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import index_quantized
from benchmarks.index_tuning import Found, Rival, Setting, Target, candidates, ladder, timed
from configs.base import Index as IndexConfig
from index.engines import planner, scann_coder, searcher
from index.engines.planner import Parameters, Plan
from index.measure.recall import recall_at_k

EF_CONSTRUCTION = 200
_TRAINING_ROWS_PER_LIST = 64
# With fewer blocks, quantized scores are so rough that no list of candidates reached 0.99.
_FEWEST_BLOCKS = 32


class Ours(Rival):
    """A searcher of ours: the effort is its leaves to search, the factor its number of candidates to re-rank."""

    def __init__(self, kind: str) -> None:
        """Takes the name of a kind of searcher."""
        super().__init__("")
        self.library, self.module = kind, searcher.KINDS[kind]

    @property
    def api(self) -> Any:
        """The module, with ScaNN loaded if it needs it."""
        if self.library == "scann":
            scann_coder.library()
        return super().api

    def _build(self, rows: np.ndarray, threads: int) -> None:
        self._plan = self.api.plan(*rows.shape, IndexConfig(k=100))
        self._index = self.api.build(_Mapped(rows), self._plan)

    def _save(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)
        self._index.save(path)
        pathlib.Path(path, "bench-plan.json").write_text(json.dumps(dataclasses.asdict(self._plan)))

    def _load(self, path: str, rows: np.ndarray) -> None:
        self._plan = Plan(**json.loads(pathlib.Path(path, "bench-plan.json").read_text()))
        self._index, self._rows = self.api.load(path, self._plan), len(rows)

    def efforts(self, k: int) -> list[int]:
        """Returns numbers of leaves."""
        return planner.leaves_steps(self._plan.leaves)

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""
        found = self._index.with_parameters(Parameters(setting.effort, setting.factor, k)).with_threads(threads)
        return found.search(queries, k)[0]

    def tune(
        self,
        queries: np.ndarray,
        truth: tuple[np.ndarray, np.ndarray],
        targets: Sequence[Target],
        is_hopeless: Callable[[Target, float], bool],
    ) -> dict[Target, Found]:
        """Returns what `planner.frontier` chooses."""
        found = {}
        for k in sorted({target.k for target in targets}):

            def measure(tried: Parameters, k: int = k) -> np.ndarray:
                return recall_at_k(self.search(queries, k, _setting(tried), 1), *truth, k)

            levels = [target.recall for target in targets if target.k == k]
            for level, parameters in planner.frontier(measure, self._plan, self._rows, k, levels).items():
                chosen = _setting(parameters)
                _, secs = timed(lambda k=k, chosen=chosen: self.search(queries, k, chosen, 1))
                found[Target(k, level)] = Found(chosen, len(queries) / secs)
        return found


def _setting(parameters: Parameters) -> Setting:
    return Setting(parameters.leaves_to_search, parameters.pre_reorder_num_neighbors)


class _Mapped(searcher.ArrayKeys):
    """Keys in a mapped file, copied chunk by chunk as those of Parquet files are."""

    def chunks(self) -> Iterator[np.ndarray]:
        for chunk in super().chunks():
            yield np.array(chunk)


class _Faiss(Rival):
    module = "faiss"

    def _save(self, path: str) -> None:
        self.api.write_index(self._index, path)

    def _load(self, path: str, rows: np.ndarray) -> None:
        self._index = self.api.read_index(path)

    def _build(self, rows: np.ndarray, threads: int) -> None:
        self.api.omp_set_num_threads(threads)
        self._index = self.api.index_factory(rows.shape[1], self.spec, self.api.METRIC_INNER_PRODUCT)
        self._train(rows)
        self._index.add(rows)

    def _train(self, rows: np.ndarray) -> None:
        self._index.train(rows[:1])

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""
        self.api.omp_set_num_threads(threads)
        self._set(setting)
        return self._index.search(queries, k)[1]

    def _set(self, setting: Setting) -> None:
        """Sets nothing."""


class FaissFlat(_Faiss):
    """All rows, in float32."""

    library = "faiss_flat"

    def efforts(self, k: int) -> list[int]:
        """Returns the only one."""
        return [1]


class FaissIvf(_Faiss):
    """Inverted lists of product-quantized rows, re-ranked."""

    library = "faiss_ivf"
    factors = (1, 2, 3, 4, 6, 8, 12, 16, 24)

    def _train(self, rows: np.ndarray) -> None:
        sample = min(len(rows), max(100_000, _TRAINING_ROWS_PER_LIST * self._lists()))
        self._index.train(rows[np.random.default_rng(0).choice(len(rows), sample, replace=False)])

    def _lists(self) -> int:
        faiss = self.api
        return faiss.extract_index_ivf(faiss.downcast_index(self._index.base_index)).nlist

    def _set(self, setting: Setting) -> None:
        space = self.api.ParameterSpace()
        space.set_index_parameter(self._index, "nprobe", setting.effort)
        space.set_index_parameter(self._index, "k_factor_rf", setting.factor)

    def efforts(self, k: int) -> list[int]:
        """Returns numbers of lists to probe."""
        return ladder(1, self._lists() // 2)


class FaissHnsw(_Faiss):
    """A graph over float32 rows, by faiss."""

    library = "faiss_hnsw"

    def _build(self, rows: np.ndarray, threads: int) -> None:
        self.api.omp_set_num_threads(threads)
        self._index = self.api.index_factory(rows.shape[1], self.spec, self.api.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = EF_CONSTRUCTION
        self._index.add(rows)

    def _set(self, setting: Setting) -> None:
        self._index.hnsw.efSearch = setting.effort

    def efforts(self, k: int) -> list[int]:
        """Returns lengths of the candidate list."""
        return candidates(k)


class Hnswlib(Rival):
    """A graph over float32 rows, by hnswlib."""

    library = "hnswlib"
    module = "hnswlib"

    def _build(self, rows: np.ndarray, threads: int) -> None:
        self._index = self.api.Index("ip", rows.shape[1])
        self._index.init_index(len(rows), ef_construction=EF_CONSTRUCTION, M=int(self.spec[1:]))
        self._index.add_items(rows, num_threads=threads)

    def _save(self, path: str) -> None:
        self._index.save_index(path)

    def _load(self, path: str, rows: np.ndarray) -> None:
        self._index = self.api.Index("ip", rows.shape[1])
        self._index.load_index(path)

    def efforts(self, k: int) -> list[int]:
        """Returns lengths of the candidate list."""
        return candidates(k)

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""
        self._index.set_ef(setting.effort)
        return self._index.knn_query(queries, k, num_threads=threads)[0].astype(np.int64)


class Usearch(Rival):
    """A graph over rows of fewer bits, by usearch; the spec is `M32,f16`."""

    library = "usearch"
    module = "usearch.index"

    def _new(self, dim: int) -> Any:
        connectivity, dtype = self.spec[1:].split(",")
        return self.api.Index(
            ndim=dim,
            metric="cos" if dtype == "i8" else "ip",
            dtype=dtype,
            connectivity=int(connectivity),
            expansion_add=EF_CONSTRUCTION,
        )

    def _build(self, rows: np.ndarray, threads: int) -> None:
        self._index = self._new(rows.shape[1])
        self._index.add(np.arange(len(rows)), rows, threads=threads, copy=True)

    def _save(self, path: str) -> None:
        self._index.save(path)

    def _load(self, path: str, rows: np.ndarray) -> None:
        self._index = self._new(rows.shape[1])
        self._index.load(path)

    def efforts(self, k: int) -> list[int]:
        """Returns lengths of the candidate list."""
        return candidates(k)

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""
        self._index.expansion_search = setting.effort
        return self._index.search(queries, k, threads=threads).keys.astype(np.int64)


def ours() -> list[str]:
    """Returns the names of our searchers."""
    return [kind for kind in searcher.KINDS if kind != "exact"]


def libraries() -> list[str]:
    """Returns the names of all libraries, ours first."""
    return [*ours(), *dict.fromkeys(rival.library for rival in _others(100_000, 512))]


def is_installed(library: str) -> bool:
    """Tells whether a library can be imported."""
    return importlib.util.find_spec(grid(100_000, 512, library)[0].module.partition(".")[0]) is not None


def grid(rows: int, dim: int, library: str) -> list[Rival]:
    """Returns the builds of a library to try for `rows` rows of width `dim`."""
    return [Ours(library)] if library in ours() else [r for r in _others(rows, dim) if r.library == library]


def _others(rows: int, dim: int) -> list[Rival]:
    return [
        FaissFlat("Flat"),
        *map(FaissIvf, _ivf_specs(rows, dim)),
        *map(Hnswlib, ("M16", "M32")),
        *map(FaissHnsw, ("HNSW16", "HNSW32")),
        *(Usearch(f"M{m},{dtype}") for m in (16, 32) for dtype in ("f16", "bf16", "i8")),
        *index_quantized.grid(rows, dim),
    ]


def _ivf_specs(rows: int, dim: int) -> list[str]:
    lists = index_quantized.numbers_of_lists(rows)
    ivf = []
    for n in lists:
        blocks = [block for block in (2, 4, 8) if dim // block >= _FEWEST_BLOCKS]
        ivf += [f"IVF{n},PQ{dim // block}x4fsr,RFlat" for block in blocks]
        ivf.append(f"IVF{n},PQ{dim // 2}x4fs,RFlat")
    for width in (dim // share for share in (2, 4) if dim // share >= 2 * _FEWEST_BLOCKS):
        ivf += [f"PCA{width},IVF{n},PQ{width // 2}x4fsr,RFlat" for n in lists[:2]]
    # The rotation takes minutes to train, so it is tried once.
    return [*ivf, f"OPQ{dim // 4}_{dim // 2},IVF{lists[1]},PQ{dim // 4}x4fsr,RFlat"]
