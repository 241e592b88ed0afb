"""Vectors for the index benchmark: a seeded mixture, or given embeddings, and their exact neighbours.

Embeddings of real pictures form clusters of very different sizes, are near surfaces of few dimensions, and vary in some
directions much more than in others. The mixture imitates this:

- directions: an orthogonal basis, the j-th with weight `(1 + j) ** -_DECAY`, so that the first few have most variance;
- a topic per `_CLUSTERS_PER_TOPIC` clusters, and a centre per `_ROWS_PER_CLUSTER` rows that is half its topic's and
  half its own, drawn with these weights; a cluster's share of the rows follows Zipf's law, flattened;
- a row: its centre, plus a point of a plane of `_PLANE` dimensions that belongs to the cluster, drawn with the same
  weights, plus noise in every direction; then unit length. Planes are wide enough for clusters to overlap.

Queries come from the same mixture, but are never rows.
"""

import dataclasses
import pathlib

import numpy as np

from index.engines.exact import ExactSearcher
from index.store.keys import of_memory
from pipelines.errors import UserError
from pipelines.manifest import Embeddings

K = 100
_ROWS_PER_CLUSTER = 200
_CLUSTERS_PER_TOPIC = 40
_PLANE = 24
_DECAY = 0.5
_WITHIN, _NOISE = 1.0, 0.3
_ZIPF = 0.5
_HALF = 0.5**0.5
# Exact lists are longer than k, so that ties at the k-th place are known.
_DEPTH = 2 * K
_WRITTEN_ROWS = 65_536


@dataclasses.dataclass(frozen=True)
class Data:
    """Rows, tuning queries, reported queries, and the exact lists of both.

    Attributes:
        name: of the data, for files and figures.
        rows: float32 `[n, d]`, unit length.
        tuning: float32 `[Q, d]`.
        reported: float32 `[R, d]`.
        tuning_truth: ids int64 `[Q, 2k]` and scores float32 `[Q, 2k]` of exact search.
        reported_truth: the same of `reported`.
    """

    name: str
    rows: np.ndarray
    tuning: np.ndarray
    reported: np.ndarray
    tuning_truth: tuple[np.ndarray, np.ndarray]
    reported_truth: tuple[np.ndarray, np.ndarray]


def clustered(rows: int, queries: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws rows float32 `[rows, dim]` and queries `[queries, dim]` from one mixture; see the module."""
    rng = np.random.default_rng(seed)
    vectors, basis = _unmixed(rng, rows, queries, dim, np.float32)
    rng.shuffle(vectors)
    vectors = vectors @ basis
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[:rows], vectors[rows:]


def write_clustered(rows: int, queries: int, dim: int, rows_file: pathlib.Path, seed: int = 0) -> None:
    """Writes such rows, and in another file queries; memory holds 2 bytes for each number."""
    rng = np.random.default_rng(seed)
    vectors, basis = _unmixed(rng, rows, queries, dim, np.float16)
    order = rng.permutation(rows + queries)

    def block(places: np.ndarray) -> np.ndarray:
        mixed = vectors[places].astype(np.float32) @ basis
        return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)

    file = np.lib.format.open_memmap(rows_file, mode="w+", dtype=np.float32, shape=(rows, dim))
    for begin in range(0, rows, _WRITTEN_ROWS):
        file[begin : begin + _WRITTEN_ROWS] = block(order[begin : min(begin + _WRITTEN_ROWS, rows)])
    file.flush()
    np.save(queries_file(rows_file), block(order[rows:]))


def _unmixed(rng: np.random.Generator, rows: int, queries: int, dim: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Returns vectors `[rows + queries, dim]`, cluster by cluster, and the basis `[dim, dim]` of their directions."""
    total, clusters = rows + queries, max(1, rows // _ROWS_PER_CLUSTER)
    weights = (1.0 + np.arange(dim)) ** -_DECAY
    weights /= np.linalg.norm(weights)
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    shares = (1.0 + np.arange(clusters)) ** -_ZIPF
    sizes = rng.multinomial(total, shares / shares.sum())
    topics = rng.standard_normal((-(-clusters // _CLUSTERS_PER_TOPIC), dim), np.float32)
    vectors = np.empty((total, dim), dtype)
    end = 0
    for size in sizes:
        centre = (topics[rng.integers(len(topics))] + rng.standard_normal(dim, np.float32)) * (weights * _HALF)
        plane = rng.standard_normal((_PLANE, dim), np.float32) * (weights * _WITHIN / np.sqrt(_PLANE))
        noise = rng.standard_normal((size, dim), np.float32) * (weights * _NOISE)
        vectors[end : end + size] = centre + rng.standard_normal((size, _PLANE), np.float32) @ plane + noise
        end += size
    return vectors, basis


def queries_file(rows_file: pathlib.Path) -> pathlib.Path:
    """Returns the file of the queries beside a file of rows."""
    return rows_file.with_name(f"{rows_file.stem}_queries.npy")


def generated(rows: int, dim: int, queries: int, seed: int = 0) -> Data:
    """Returns a mixture of `rows` and twice `queries`, half of which tune."""
    keys, asked = clustered(rows, 2 * queries, dim, seed)
    return _with_truth(f"d{dim}", keys, asked[:queries], asked[queries:])


def embedded(folder: str, queries: int, seed: int = 0) -> Data:
    """Returns the keys of an embedded folder; twice `queries` of them become queries instead of rows.

    Raises:
        UserError: if the folder is unfinished or has too few rows.
    """
    embeddings = Embeddings(folder)
    if embeddings.rows < 2 * queries + 2 * K:
        raise UserError(f"{folder}: has {embeddings.rows} rows, too few for {queries} queries; lower --queries")
    keys = of_memory(embeddings).take(np.arange(embeddings.rows))
    drawn = np.random.default_rng(seed).permutation(len(keys))
    tuning, reported, rows = drawn[:queries], drawn[queries : 2 * queries], np.sort(drawn[2 * queries :])
    return _with_truth(pathlib.Path(folder).name, keys[rows], keys[tuning], keys[reported])


def _with_truth(name: str, rows: np.ndarray, tuning: np.ndarray, reported: np.ndarray) -> Data:
    exact = ExactSearcher(rows)
    return Data(name, rows, tuning, reported, exact.search(tuning, _DEPTH), exact.search(reported, _DEPTH))
