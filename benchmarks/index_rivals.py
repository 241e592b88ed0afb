"""Libraries that one might use instead of this index, behind the same three calls, and the grid of each.

A rival is a library with build parameters. It is built once and kept in a cache folder with the seconds that took.
How it is searched is a `Setting`: an effort that recall grows with (probes of an inverted file, candidates of a graph)
and, if it re-ranks a longer list, the length of that list as a multiple of k. `index_tuning` chooses the setting. Each
grid has what the manual of its library proposes for such data:

- faiss IVF of about sqrt(n), twice and four times as many lists, with PQ of 4 bits in the fast-scan layout: codes of 2,
  4 or 8 dimensions of residuals and, for 2, of the vectors; also behind PCA to a half or a quarter of the dimensions,
  and OPQ to a half; then re-ranked in float32;
- faiss HNSW, hnswlib: M 16 and 32; usearch: connectivity 16 and 32, stored as float16, bfloat16 or int8; all with 200
  candidates at building;
- faiss Flat.
"""

import math

import faiss
import hnswlib
import numpy as np
from usearch.index import Index as UsearchIndex

from benchmarks.index_tuning import Rival, Setting

_TRAINING_ROWS_PER_LIST = 64
_EF_CONSTRUCTION = 200
# With fewer blocks, quantized scores are so rough that no list of candidates reached 0.99.
_FEWEST_BLOCKS = 32


class _Faiss(Rival):
    def _save(self, path: str) -> None:
        faiss.write_index(self._index, path)

    def _load(self, path: str, dim: int) -> None:
        self._index = faiss.read_index(path)

    def _build(self, rows: np.ndarray, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        self._index = faiss.index_factory(rows.shape[1], self.spec, faiss.METRIC_INNER_PRODUCT)
        self._train(rows)
        self._index.add(rows)

    def _train(self, rows: np.ndarray) -> None:
        self._index.train(rows[:1])

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        faiss.omp_set_num_threads(threads)
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
        return faiss.extract_index_ivf(faiss.downcast_index(self._index.base_index)).nlist

    def _set(self, setting: Setting) -> None:
        space = faiss.ParameterSpace()
        space.set_index_parameter(self._index, "nprobe", setting.effort)
        space.set_index_parameter(self._index, "k_factor_rf", setting.factor)

    def efforts(self, k: int) -> list[int]:
        """Returns numbers of lists to probe."""
        return ladder(1, self._lists() // 2)


class FaissHnsw(_Faiss):
    """A graph over float32 rows, by faiss."""

    library = "faiss_hnsw"

    def _build(self, rows: np.ndarray, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        self._index = faiss.index_factory(rows.shape[1], self.spec, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = _EF_CONSTRUCTION
        self._index.add(rows)

    def _set(self, setting: Setting) -> None:
        self._index.hnsw.efSearch = setting.effort

    def efforts(self, k: int) -> list[int]:
        """Returns lengths of the candidate list."""
        return ladder(k, 32 * k)


class Hnswlib(Rival):
    """A graph over float32 rows, by hnswlib."""

    library = "hnswlib"

    def _build(self, rows: np.ndarray, threads: int) -> None:
        self._index = hnswlib.Index("ip", rows.shape[1])
        self._index.init_index(len(rows), ef_construction=_EF_CONSTRUCTION, M=int(self.spec[1:]))
        self._index.add_items(rows, num_threads=threads)

    def _save(self, path: str) -> None:
        self._index.save_index(path)

    def _load(self, path: str, dim: int) -> None:
        self._index = hnswlib.Index("ip", dim)
        self._index.load_index(path)

    def efforts(self, k: int) -> list[int]:
        """Returns lengths of the candidate list."""
        return ladder(k, 32 * k)

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""
        self._index.set_ef(setting.effort)
        return self._index.knn_query(queries, k, num_threads=threads)[0].astype(np.int64)


class Usearch(Rival):
    """A graph over rows of fewer bits, by usearch; the spec is `M32,f16`."""

    library = "usearch"

    def _new(self, dim: int) -> UsearchIndex:
        connectivity, dtype = self.spec[1:].split(",")
        return UsearchIndex(
            ndim=dim,
            metric="cos" if dtype == "i8" else "ip",
            dtype=dtype,
            connectivity=int(connectivity),
            expansion_add=_EF_CONSTRUCTION,
        )

    def _build(self, rows: np.ndarray, threads: int) -> None:
        self._index = self._new(rows.shape[1])
        self._index.add(np.arange(len(rows)), rows, threads=threads, copy=True)

    def _save(self, path: str) -> None:
        self._index.save(path)

    def _load(self, path: str, dim: int) -> None:
        self._index = self._new(dim)
        self._index.load(path)

    def efforts(self, k: int) -> list[int]:
        """Returns lengths of the candidate list."""
        return ladder(k, 32 * k)

    def search(self, queries: np.ndarray, k: int, setting: Setting, threads: int) -> np.ndarray:
        """Returns rows int64 `[Q, k]`."""
        self._index.expansion_search = setting.effort
        return self._index.search(queries, k, threads=threads).keys.astype(np.int64)


def ladder(low: int, high: int, ratio: float = 1.15) -> list[int]:
    """Returns whole numbers from `low` to `high` that grow by `ratio`, and by at least 1."""
    steps = [low]
    while steps[-1] < high:
        steps.append(min(high, max(steps[-1] + 1, math.ceil(steps[-1] * ratio))))
    return steps


def grid(rows: int, dim: int, libraries: list[str]) -> list[Rival]:
    """Returns the rivals to try for `rows` rows of width `dim`, cheap builds first."""
    everything: list[Rival] = [FaissFlat("Flat"), *map(FaissIvf, _ivf_specs(rows, dim))]
    everything += [Hnswlib(spec) for spec in ("M16", "M32")]
    everything += [FaissHnsw(spec) for spec in ("HNSW16", "HNSW32")]
    everything += [Usearch(f"M{m},{dtype}") for m in (16, 32) for dtype in ("f16", "bf16", "i8")]
    return [rival for rival in everything if rival.library in libraries]


def _ivf_specs(rows: int, dim: int) -> list[str]:
    root = math.sqrt(rows)
    lists = sorted({2 ** round(math.log2(root * share)) for share in (1, 2, 4)})
    ivf = []
    for n in lists:
        blocks = [block for block in (2, 4, 8) if dim // block >= _FEWEST_BLOCKS]
        ivf += [f"IVF{n},PQ{dim // block}x4fsr,RFlat" for block in blocks]
        ivf.append(f"IVF{n},PQ{dim // 2}x4fs,RFlat")
    for width in (dim // share for share in (2, 4) if dim // share >= 2 * _FEWEST_BLOCKS):
        ivf += [f"PCA{width},IVF{n},PQ{width // 2}x4fsr,RFlat" for n in lists[:2]]
    # The rotation takes minutes to train, so it is tried once.
    return [*ivf, f"OPQ{dim // 4}_{dim // 2},IVF{lists[1]},PQ{dim // 4}x4fsr,RFlat"]
