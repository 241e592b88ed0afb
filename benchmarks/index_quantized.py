"""Libraries that lead public comparisons with graphs or inverted files over quantized vectors.

- glass: HNSW of degree 32 and 64, built over SQ8U; searched by SQ8U or SQ4U and refined in float16, or not refined.
- rabitqlib: SymphonyQG of degree 32 and 64; IVF of 5 and 8 bits, over centres that faiss trains; HNSW of 5 and 9 bits.
- svs: Vamana of degree 64 over float16, LVQ of 8 and of 4 and 8 bits, and LeanVec to a half of the dimensions.
- lorann: as many lists as its manual says and twice as many, in all dimensions and in its smaller number of them.
- vsag: HGraph of degree 32 and 64 over SQ8, re-ranked in float16. It has no call for several queries.

Graphs take 200 candidates at building. All rows have unit length, so that the nearest by distance are those of the
largest product; svs searches by distance. NGT's quantized graph is left out: its wheel (2.8.0) opens one, but only its
command `qbg`, which is not in the wheel, builds one.
"""

import json
import math
import os
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np

from benchmarks.index_tuning import Rival, Setting, candidates, ladder

_CANDIDATES = 200
_TRAINING_ROWS_PER_LIST = 64
# SVS builds with a shorter list than the graphs of 32 neighbours, as its manual does.
_SVS_WINDOW = 128
_HNSW_CLUSTERS = 16


class _Graph(Rival):
    def efforts(self, k: int) -> list[int]:
        """Returns lengths of the candidate list."""
        return candidates(k)


class Glass(_Graph):
    """HNSW of glass; the spec is its degree, and it is opened as `SQ8U,FP16`: to search and to refine."""

    library = "glass"
    module = "glass"
    needs_rows = True

    def _build(self, rows: np.ndarray, threads: int) -> None:
        self.api.set_num_threads(threads)
        self._index = self.api.Index("HNSW", "IP", "SQ8U", int(self.spec[1:]), _CANDIDATES).build(rows)

    def _save(self, path: str) -> None:
        self._index.save(path)

    def _load(self, path: str, rows: np.ndarray) -> None:
        # A searcher takes its graph away, and reads the rows that it refines with.
        graph = self.api.Graph()
        graph.load(path)
        self._index = self.api.Searcher(graph, rows, "IP", *self.opened.split(","))
        self._index.optimize(1)

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""
        self._index.set_ef(setting.effort)
        return np.asarray(self._index.batch_search(queries, k, threads)[0]).reshape(-1, k).astype(np.int64)


class Symqg(_Graph):
    """SymphonyQG of rabitqlib: a graph whose edges carry codes; the spec is its degree."""

    library = "symphonyqg"
    module = "rabitqlib"

    def _build(self, rows: np.ndarray, threads: int) -> None:
        self._index = self.api.SymqgIndex(rows.shape[1], int(self.spec[1:]), "ip")
        self._index.build(rows, _CANDIDATES, num_threads=threads)

    def _save(self, path: str) -> None:
        self._index.save(path)

    def _load(self, path: str, rows: np.ndarray) -> None:
        self._index = self.api.SymqgIndex.load(path)

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""
        return self._index.search_batch(queries, k, setting.effort, threads)[0].astype(np.int64)


class RabitqIvf(Rival):
    """Inverted lists of rabitqlib; the spec is `IVF1024,8`: lists and bits."""

    library = "rabitq_ivf"
    module = "rabitqlib"

    def _build(self, rows: np.ndarray, threads: int) -> None:
        lists, bits = map(int, self.spec[3:].split(","))
        self._index = self.api.IvfIndex(rows.shape[1], len(rows), lists, bits, "ip")
        self._index.build(rows, *_clusters(rows, lists, threads), num_threads=threads, fast_quantization=True)

    def _save(self, path: str) -> None:
        self._index.save(path)

    def _load(self, path: str, rows: np.ndarray) -> None:
        self._index = self.api.IvfIndex.load(path)

    def efforts(self, k: int) -> list[int]:
        """Returns numbers of lists to probe."""
        return ladder(1, self._index.num_clusters // 2)

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""
        return self._index.search(queries, k, setting.effort, num_threads=threads)[0].astype(np.int64)


class RabitqHnsw(_Graph):
    """HNSW of rabitqlib; the spec is `M16,5`: neighbours and bits."""

    library = "rabitq_hnsw"
    module = "rabitqlib"

    def _build(self, rows: np.ndarray, threads: int) -> None:
        neighbours, bits = map(int, self.spec[1:].split(","))
        self._index = self.api.HnswIndex(rows.shape[1], len(rows), neighbours, _CANDIDATES, bits, "ip")
        self._index.build(rows, *_clusters(rows, _HNSW_CLUSTERS, threads), num_threads=threads, fast_quantization=True)

    def _save(self, path: str) -> None:
        self._index.save(path)

    def _load(self, path: str, rows: np.ndarray) -> None:
        self._index = self.api.HnswIndex.load(path)

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""
        return self._index.search(queries, k, setting.effort, threads)[0].astype(np.int64)


def _clusters(rows: np.ndarray, lists: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns centres `[lists, d]` and the nearest of each row `[n]`."""
    import faiss

    faiss.omp_set_num_threads(threads)
    sample = min(len(rows), max(100_000, _TRAINING_ROWS_PER_LIST * lists))
    index = faiss.index_factory(rows.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(rows[np.random.default_rng(0).choice(len(rows), sample, replace=False)])
    centres = np.ascontiguousarray(index.quantizer.reconstruct_n(0, lists))
    return centres, index.quantizer.search(rows, 1)[1].ravel().astype(np.uint32)


class Svs(_Graph):
    """Vamana of svs, of degree 64; the spec is `float16`, `lvq8x0`, `lvq4x8`, or `leanvec256`."""

    library = "svs"
    module = "svs"

    def __init__(self, spec: str) -> None:
        """Keeps the parameters; builds nothing."""
        super().__init__(spec)
        self._folder = tempfile.TemporaryDirectory(prefix="svs-")
        self._rows_file = f"{self._folder.name}/rows.fvecs"

    def _build(self, rows: np.ndarray, threads: int) -> None:
        parameters = self.api.VamanaBuildParameters(graph_max_degree=64, window_size=_SVS_WINDOW)
        data: Any = rows.astype(np.float16)
        if self.spec != "float16":
            self.api.write_vecs(np.array(rows), self._rows_file)
            data = self._loader(rows.shape[1])
        self._index = self.api.Vamana.build(parameters, data, self.api.DistanceType.L2, num_threads=threads)
        pathlib.Path(self._rows_file).unlink(missing_ok=True)

    def _loader(self, dim: int) -> Any:
        data = self.api.VectorDataLoader(self._rows_file, self.api.DataType.float32, dims=dim)
        if self.spec.startswith("leanvec"):
            kinds = self.api.LeanVecKind
            return self.api.LeanVecLoader(data, int(self.spec[7:]), kinds.lvq8, kinds.float16)
        primary, residual = map(int, self.spec[3:].split("x"))
        strategy = self.api.LVQStrategy.Turbo if primary == 4 else self.api.LVQStrategy.Auto
        return self.api.LVQLoader(data, primary, residual, padding=32, strategy=strategy)

    def _save(self, path: str) -> None:
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        self._index.save(*(f"{path}/{part}" for part in ("config", "graph", "data")))

    def _load(self, path: str, rows: np.ndarray) -> None:
        if self.spec == "float16":
            data = self.api.VectorDataLoader(f"{path}/data", self.api.DataType.float16)
        else:
            # The loader is made for its kind, and then pointed at what was saved; there has to be a file of rows.
            self.api.write_vecs(np.array(rows[:1]), self._rows_file)
            data = self._loader(rows.shape[1]).reload_from(f"{path}/data")
        graph = self.api.GraphLoader(f"{path}/graph")
        self._index = self.api.Vamana(f"{path}/config", graph, data, self.api.DistanceType.L2, num_threads=1)

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""
        self._index.num_threads = threads
        self._index.search_window_size = setting.effort
        return self._index.search(queries, k)[0].astype(np.int64)


class Lorann(Rival):
    """Lists with a regression of low rank each; the spec is `IVF1024,128`: lists and dimensions, 0 for all."""

    library = "lorann"
    module = "lorann"
    factors = (1, 2, 4, 8, 16, 32)

    def _build(self, rows: np.ndarray, threads: int) -> None:
        lists, dims = map(int, self.spec[3:].split(","))
        self._index = self.api.LorannIndex(np.array(rows), lists, dims or None)
        self._index.build(n_threads=threads)

    def _save(self, path: str) -> None:
        self._index.save(path)

    def _load(self, path: str, rows: np.ndarray) -> None:
        self._index = self.api.LorannIndex.load(path)

    def efforts(self, k: int) -> list[int]:
        """Returns numbers of lists to search."""
        return ladder(1, int(self.spec[3:].split(",")[0]) // 2)

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""
        return self._index.search(queries, k, setting.effort, setting.factor * k, n_threads=threads).astype(np.int64)


class Vsag(_Graph):
    """HGraph of vsag over SQ8, re-ranked in float16; the spec is its degree."""

    library = "vsag"
    module = "pyvsag"

    def _new(self, dim: int, threads: int) -> Any:
        self.api.set_logger_off()
        of_graph = {
            "base_quantization_type": "sq8_uniform",
            "use_reorder": True,
            "precise_quantization_type": "fp16",
            "max_degree": int(self.spec[1:]),
            "ef_construction": _CANDIDATES,
            "build_thread_count": threads,
        }
        parameters = {"dtype": "float32", "metric_type": "ip", "dim": dim, "index_param": of_graph}
        return self.api.Index("hgraph", json.dumps(parameters))

    def _build(self, rows: np.ndarray, threads: int) -> None:
        self._index = self._new(rows.shape[1], threads)
        self._index.build(np.array(rows).ravel(), np.arange(len(rows)), *rows.shape)

    def _save(self, path: str) -> None:
        self._index.save(path)

    def _load(self, path: str, rows: np.ndarray) -> None:
        self._index = self._new(rows.shape[1], 1)
        self._index.load(path)

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""
        parameters = json.dumps({"hgraph": {"ef_search": setting.effort}})
        return np.stack([self._index.knn_search(query, k, parameters)[0] for query in queries])


def numbers_of_lists(rows: int) -> list[int]:
    """Returns about the square root of the rows, twice and four times as many, as powers of two."""
    return sorted({2 ** round(math.log2(math.sqrt(rows) * share)) for share in (1, 2, 4)})


def grid(rows: int, dim: int) -> list[Rival]:
    """Returns the builds to try for `rows` rows of width `dim`."""
    lists = numbers_of_lists(rows)
    reduced = 0 if dim < 200 else 128 if dim <= 1000 else 256
    return [
        *(Glass(f"R{degree}", opened) for degree in (32, 64) for opened in ("SQ8U,FP16", "SQ4U,FP16", "SQ8U,")),
        *(Symqg(f"R{degree}") for degree in (32, 64)),
        *(RabitqIvf(f"IVF{n},{bits}") for n in lists for bits in (5, 8)),
        *(RabitqHnsw(f"M{m},{bits}") for m, bits in ((16, 5), (16, 9), (32, 9))),
        *map(Svs, ("float16", "lvq8x0", "lvq4x8", f"leanvec{dim // 2}")),
        *(Lorann(f"IVF{n},{dims}") for n in lists[:2] for dims in sorted({0, reduced, 64 * (dim == 128)})),
        *map(Vsag, ("R32", "R64")),
    ]
