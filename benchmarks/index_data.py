"""Vectors for the index benchmark: a seeded mixture, or given embeddings, and their exact neighbours.

Embeddings of real pictures form clusters of very different sizes, are near surfaces of few dimensions, and vary in some
directions much more than in others. The mixture imitates this:

- directions: an orthogonal basis, the j-th with weight `(1 + j) ** -_DECAY`, so that the first few have most variance;
- a topic per `_CLUSTERS_PER_TOPIC` clusters, and a centre per `_ROWS_PER_CLUSTER` rows that is half its topic's and
  half its own, drawn with these weights; a cluster's share of the rows follows Zipf's law, flattened;
- a row: its centre, plus a point of a plane of `_PLANE` dimensions that belongs to the cluster, drawn with the same
  weights, plus noise in every direction; then unit length. Planes are wide enough for clusters to overlap.

Queries come from the same mixture, but are never rows.

The mixture with a modality gap imitates search by text (`gapped`): queries lie elsewhere than rows, as captions do in
CLIP's space. Each query belongs to a row and has a mean cosine of 0.3 with it, as caption and picture have:

- all rows are moved along one direction, all queries along another, by `_GAP`: two cones at a right angle. The
  directions are those that rows vary least in;
- before that a query is a part of its row and, at a right angle to it, noise of the rows' own covariance: it says some
  of what the picture shows, and much else.

A folder of embeddings can also be searched by the keys of another one, or by another column of its own, such as the
texts of a two-tower model (`embedded`).
"""

import dataclasses
import hashlib
import pathlib
from typing import NamedTuple

import numpy as np

from index.engines.exact import ExactSearcher
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.schemas import unit_keys

K = 100
TUNING_QUERIES = 2000
_ROWS_PER_CLUSTER = 200
_CLUSTERS_PER_TOPIC = 40
_PLANE = 24
_DECAY = 0.5
_WITHIN, _NOISE = 1.0, 0.3
_ZIPF = 0.5
_HALF = 0.5**0.5
# Two cones with this shift: rows have a mean cosine of 0.33 with each other, and none of it with a query.
_GAP = 0.7
_PAIR_COSINE = 0.3
_COVARIANCE_ROWS = 4096
_NAME_FILE = "name"
# Exact lists are longer than k, so that ties at the k-th place are known.
_DEPTH = 2 * K
_WRITTEN_ROWS = 65_536


class Vectors(NamedTuple):
    """What is searched, and by what.

    Attributes:
        name: of the data, for files and figures.
        rows: float32 `[n, d]`, unit length.
        tuning: queries that settings are chosen on, float32 `[Q, d]`.
        reported: queries that figures are reported of, float32 `[R, d]`.
    """

    name: str
    rows: np.ndarray
    tuning: np.ndarray
    reported: np.ndarray


@dataclasses.dataclass(frozen=True)
class Data:
    """Vectors and their exact lists.

    Attributes:
        vectors: rows and queries.
        tuning_truth: ids int64 `[Q, 2k]` and scores float32 `[Q, 2k]` of exact search.
        reported_truth: the same of the reported queries.
    """

    vectors: Vectors
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


def gapped(rows: int, queries: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws rows and queries across a gap; also returns the row that each query belongs to, int64 `[queries]`."""
    keys, _ = clustered(rows, 0, dim, seed)
    rng = np.random.default_rng([seed, 1])
    pairs = rng.integers(rows, size=queries)
    sample = keys[rng.choice(rows, min(rows, _COVARIANCE_ROWS), replace=False)]
    noise = rng.standard_normal((queries, len(sample)), np.float32) @ sample
    noise = _unit(noise - (noise * keys[pairs]).sum(axis=1, keepdims=True) * keys[pairs])
    # Moving both sides at right angles divides the cosine by this, and 0.3 is to be left.
    share = _PAIR_COSINE * (1 + _GAP**2)
    views = _unit(share * keys[pairs] + (1 - share**2) ** 0.5 * noise)
    of_rows, of_queries = np.linalg.eigh(sample.T @ sample)[1][:, :2].T
    return _unit(keys + _GAP * of_rows), _unit(views + _GAP * of_queries), pairs


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def generated(rows: int, dim: int, queries: int, gap: bool = False) -> Vectors:
    """Returns a mixture of `rows`, tuning queries and reported `queries`."""
    tuning = min(queries, TUNING_QUERIES)
    if gap:
        keys, asked, _ = gapped(rows, queries + tuning, dim)
    else:
        keys, asked = clustered(rows, queries + tuning, dim)
    return Vectors(f"{'gap' if gap else 'd'}{dim}", keys, asked[:tuning], asked[tuning:])


def embedded(folder: str, queries: int, queries_from: str = "", queries_column: str = "key", seed: int = 0) -> Vectors:
    """Returns the keys of an embedded folder, and queries drawn from it, which are then no rows, or from other vectors.

    Args:
        folder: of the embeddings.
        queries: that are reported.
        queries_from: another such folder, whose vectors are the queries; empty for the same.
        queries_column: which of its vectors, such as `value_text`.
        seed: of the draw.

    Raises:
        UserError: if a folder is unfinished, has too few rows, no such vectors, or some of another width than the keys.
    """
    tuning, is_own = min(queries, TUNING_QUERIES), not queries_from and queries_column == "key"
    source = queries_from or folder
    keys = _vectors(folder, "key")
    asked = keys if is_own else _vectors(source, queries_column)
    if len(asked) < queries + tuning + (2 * K if is_own else 0):
        raise UserError(f"{source}: has {len(asked)} rows, too few for {queries} queries; lower --queries")
    if asked.shape[1] != keys.shape[1]:
        raise UserError(
            f"{source}: has {queries_column} of {asked.shape[1]} numbers, and {folder} keys of {keys.shape[1]}"
        )
    drawn = np.random.default_rng(seed).permutation(len(asked))
    by = "" if is_own else f"-by-{queries_column if source == folder else pathlib.Path(source).name}"
    rows = keys[np.sort(drawn[queries + tuning :])] if is_own else keys
    return Vectors(pathlib.Path(folder).name + by, rows, asked[drawn[:tuning]], asked[drawn[tuning : tuning + queries]])


def _vectors(folder: str, column: str) -> np.ndarray:
    """Returns a column of vectors, whose files are checked, scaled to unit length, float32 `[n, d]`."""
    embeddings = Embeddings(folder)
    info, parts = embeddings.encoder(column), []
    for shard in embeddings.shard_rows:
        parts.append(unit_keys(embeddings.read(shard, [column])[column], info, folder))
        embeddings.check(shard)
    return np.concatenate(parts)


_TRUTH = ("tuning_ids", "tuning_scores", "reported_ids", "reported_scores")


def keep(vectors: Vectors, cache: pathlib.Path) -> pathlib.Path:
    """Writes vectors and their exact lists into a folder of the cache, named after their bytes, and returns it.

    What is there is not computed again.
    """
    digest = hashlib.sha256()
    for array in vectors[1:]:
        digest.update(np.ascontiguousarray(array))
    folder = cache / "-".join((vectors.name, *map(str, vectors.rows.shape), digest.hexdigest()[:12]))
    if not (folder / _NAME_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        exact = ExactSearcher(vectors.rows)
        truth = (*exact.search(vectors.tuning, _DEPTH), *exact.search(vectors.reported, _DEPTH))
        for name, array in zip((*Vectors._fields[1:], *_TRUTH), (*vectors[1:], *truth), strict=True):
            np.save(folder / f"{name}.npy", array)
        (folder / _NAME_FILE).write_text(vectors.name)
    return folder


def load(folder: pathlib.Path) -> Data:
    """Returns what `keep` wrote; the rows are a mapped file."""
    name = (folder / _NAME_FILE).read_text()
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    tuning, reported, *truth = (np.load(folder / f"{n}.npy") for n in (*Vectors._fields[2:], *_TRUTH))
    return Data(Vectors(name, rows, tuning, reported), (truth[0], truth[1]), (truth[2], truth[3]))
