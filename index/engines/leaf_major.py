"""Searches the tiles of a shard leaf by leaf: all queries of a block that visit a leaf at once, as one product.

A search query by query reads the rows of a leaf for each query that visits it, and can do little with them before the
next one. Here a leaf is read once for all of them, in a matrix product, which is what processors are fastest at. The
scores are those of the kept keys, so nothing is re-ranked.

1. The leaves that each query visits: those whose centres have the largest dot products with it.
2. The nearest of them: all scores are stored, a row of a tile per query, and the k-th best of them is a bound.
3. The others: only scores that reach the bound are taken.
4. The k best of both.

Queries that visit every leaf skip none of its rows, so they are compared with many tiles in one product.
"""

import contextlib
import ctypes
import dataclasses
import functools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeVar

import jax
import numpy as np

from index.engines.products import products
from index.engines.tiles import Tiles
from pipelines.nearest_neighbors import largest, low_bound, numbered

T = TypeVar("T")

# Queries whose scores of all centres are made at a time, and whose stored scores are gone through at a time.
_CENTRE_QUERIES, _STORE_QUERIES = 512, 256
# Rows of the nearest leaves whose scores are stored for each query, at least.
_STORED_ROWS = 4096
# Most queries in a product; between the powers of two, half of the padding is spared by one more shape.
_MOST_IN_PRODUCT = 2048
_SHAPES = np.array(sorted(2**power * factor // 2 for power in range(4, 12) for factor in (2, 3))[:-1])
# Rows and queries of a product if every leaf is visited: its scores stay in the cache until they are gone through.
_ALL_ROWS, _ALL_QUERIES = 4096, 512
# Rows found for a list, over its length, from which the best of them make a new bound.
_CROWDED = 2
# Products that may run while the scores of an earlier one are gone through.
_AHEAD = 2
_ALIGNMENT = 64
_PADDING = np.uint64(2**64 - 1)
_ROW_BITS = np.uint64(32)


# By default glibc gives freed memory back to the system at once, which clears every page that is taken again: a fifth
# of the time of a search. These are its M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, the second at its largest.
_MALLOC_OPTIONS = {-1: 1 << 30, -3: 1 << 25}


@functools.cache
def _keep_freed_memory() -> None:
    """Lets the process keep the memory that it frees, as far as the C library can be told to."""
    with contextlib.suppress(AttributeError):
        for option, value in _MALLOC_OPTIONS.items():
            ctypes.CDLL(None).mallopt(option, value)


@dataclasses.dataclass(frozen=True)
class _Visits:
    """Pairs of a query and a tile that it visits, by tile.

    Attributes:
        query: int32 `[p]`, ascending for each tile.
        place: int64 `[p]`, the place of the tile among those of its query.
        ends: int64 `[tiles]`, where the pairs of each tile end.
    """

    query: np.ndarray
    place: np.ndarray
    ends: np.ndarray


def search(tiles: Tiles, queries: np.ndarray, leaves: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `k` best rows of the leaves that each query visits.

    Args:
        tiles: of the shard.
        queries: float32 `[Q, d]`; scores are those of queries rounded to the precision of the keys.
        leaves: int64 `[Q]`, how many leaves each query visits, at least 1.
        k: length of the lists.

    Returns:
        Rows int64 and scores float32, both `[Q, k]`, ordered and padded as by `nearest_neighbors.top_k`.
    """
    _keep_freed_memory()
    asked = queries.astype(tiles.keys.dtype)
    visited = _nearest_leaves(tiles, asked, int(leaves.max()))
    counts = np.diff(tiles.first)[visited] * (np.arange(visited.shape[1]) < leaves[:, None])
    near = np.cumsum(counts, axis=1) <= -(-max(_STORED_ROWS, k) // tiles.rows.shape[1])
    near[:, 0] = True
    bound, query, packed = _nearest(tiles, asked, _visits(tiles, visited, counts * near), len(queries), k)
    parts = [(query, packed)]
    if (counts * ~near).any():
        parts += _reaching(tiles, asked, _visits(tiles, visited, counts * ~near), bound)
    return _unpacked(_best(parts, len(queries), k))


def search_all(tiles: Tiles, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `k` best of all rows; arguments and result as of `search`."""
    _keep_freed_memory()
    asked, rows = queries.astype(tiles.keys.dtype), tiles.rows.reshape(-1)
    bound = np.full(len(asked), -np.inf, np.float32)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    reached = np.empty(_ALL_QUERIES * _ALL_ROWS, bool)
    for part, block, scores in _all_products(tiles, asked):
        if not np.isfinite(bound[part]).all():
            bound[part] = low_bound(np.where(rows[block] >= 0, scores, np.float32(-np.inf)), k)
        is_near = np.greater_equal(scores, bound[part, None], out=reached[: scores.size].reshape(scores.shape))
        query, place = np.divmod(np.flatnonzero(is_near), scores.shape[1])
        found = rows[block][place]
        is_row = found >= 0
        query, place = query[is_row], place[is_row]
        parts.append(((part.start + query).astype(np.int32), _packed(scores[query, place], found[is_row])))
        if sum(len(query) for query, _ in parts) > _CROWDED * k * len(asked):
            lists = _best(parts, len(asked), k)
            bound = np.maximum(bound, _unpacked(lists[:, -1])[1])
            query, place = np.nonzero(lists != _PADDING)
            parts = [(query.astype(np.int32), lists[query, place])]
    return _unpacked(_best(parts, len(asked), k))


def _all_products(tiles: Tiles, asked: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yields a slice of the queries, a slice of the places of all tiles, and their scores, float32."""
    keys = tiles.keys.reshape(-1, tiles.keys.shape[-1])

    def begun() -> Iterator[tuple[slice, slice, jax.Array]]:
        for low in range(0, len(keys), _ALL_ROWS):
            block = slice(low, min(low + _ALL_ROWS, len(keys)))
            for begin in range(0, len(asked), _ALL_QUERIES):
                part = slice(begin, min(begin + _ALL_QUERIES, len(asked)))
                yield part, block, products(_padded(asked[part], _shape(part.stop - begin)), keys[block])

    for part, block, scores in _behind(begun()):
        yield part, block, np.asarray(scores)[: part.stop - part.start]


def _shape(number: int) -> int:
    """Returns the least of a few sizes that a number of at most `_MOST_IN_PRODUCT` fits in."""
    return int(_SHAPES[np.searchsorted(_SHAPES, number)])


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    return np.pad(array, ((0, length - len(array)), *[(0, 0)] * (array.ndim - 1)))


def _nearest_leaves(tiles: Tiles, asked: np.ndarray, most: int) -> np.ndarray:
    """Returns the leaves whose centres have the largest dot products with each query, nearest first, `[Q, most]`."""
    centres = jax.device_put(tiles.centres.astype(asked.dtype))
    nearest = np.empty((len(asked), most), np.int32)
    for begin in range(0, len(asked), _CENTRE_QUERIES):
        block = asked[begin : begin + _CENTRE_QUERIES]
        scores = np.asarray(products(_padded(block, _CENTRE_QUERIES), centres))[: len(block)]
        nearest[begin : begin + _CENTRE_QUERIES] = largest(scores, most)
    return nearest


def _visits(tiles: Tiles, visited: np.ndarray, counts: np.ndarray) -> _Visits:
    """Returns the pairs of a query and a tile.

    Args:
        tiles: of the shard.
        visited: leaves `[Q, T]`.
        counts: how many tiles of each leaf are visited, `[Q, T]`: all or none.
    """
    of_visit, of_query = counts.reshape(-1), counts.sum(axis=1)
    visit = np.repeat(np.arange(counts.size), of_visit)
    tile = numbered(of_visit) + tiles.first[visited.reshape(-1)[visit]]
    query = np.repeat(np.arange(len(counts), dtype=np.int32), of_query)
    place = numbered(of_query)
    order = _by(tile, len(tiles.rows))
    return _Visits(query[order], place[order], np.cumsum(np.bincount(tile, minlength=len(tiles.rows))))


def _by(numbers: np.ndarray, end: int) -> np.ndarray:
    """Returns the stable order of numbers in `0..end`; those of 16 bits are sorted by digits, in linear time."""
    return np.argsort(numbers.astype(np.uint16 if end <= 1 << 16 else np.uint32), kind="stable")


def _products(tiles: Tiles, asked: np.ndarray, visits: _Visits) -> Iterator[tuple[int, slice, np.ndarray]]:
    """Yields a tile, a slice of the pairs, and their scores of the tile's rows, float32 `[pairs, filled]`."""
    bits = asked.view(np.uint16 if asked.itemsize == 2 else np.uint32)
    buffers = _aligned((_AHEAD + 1, _MOST_IN_PRODUCT, asked.shape[1]), bits.dtype)

    def begun() -> Iterator[tuple[int, slice, jax.Array]]:
        ends, number = visits.ends.tolist(), 0
        for tile, begin in enumerate([0, *ends[:-1]]):
            for low in range(begin, ends[tile], _MOST_IN_PRODUCT):
                pairs = slice(low, min(low + _MOST_IN_PRODUCT, ends[tile]))
                chosen = buffers[number % len(buffers), : _shape(pairs.stop - low)]
                bits.take(visits.query[pairs], axis=0, out=chosen[: pairs.stop - low], mode="clip")
                yield tile, pairs, products(chosen.view(asked.dtype), tiles.keys[tile])
                number += 1

    for tile, pairs, scores in _behind(begun()):
        yield tile, pairs, np.asarray(scores)[: pairs.stop - pairs.start, : tiles.filled[tile]]


def _behind(begun: Iterator[T]) -> Iterator[T]:
    """Yields products that JAX has begun, each when `_AHEAD` more of them run; a product begins when it is drawn."""
    running: deque[T] = deque()
    for product in begun:
        running.append(product)
        if len(running) > _AHEAD:
            yield running.popleft()
    yield from running


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array of zeros at an address that JAX takes without a copy."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % _ALIGNMENT
    return raw[begin : begin + size].view(dtype).reshape(shape)


def _nearest(
    tiles: Tiles, asked: np.ndarray, visits: _Visits, queries: int, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the score of the k-th best row of some tiles, `[queries]`, and the rows that reach it.

    Returns:
        The bounds float32 `[queries]`; of each row found its query int32 and itself, packed.
    """
    size = tiles.rows.shape[1]
    width = max(int(visits.place.max(initial=-1)) + 1, -(-k // size))
    stored, tile_at = np.full((queries * width, size), -np.inf, np.float32), np.zeros(queries * width, np.int32)
    places = visits.query * np.int64(width) + visits.place
    for tile, pairs, scores in _products(tiles, asked, visits):
        stored[places[pairs], : scores.shape[1]] = scores
        tile_at[places[pairs]] = tile
    bound, query, packed = np.empty(queries, np.float32), [], []
    for begin in range(0, queries, _STORE_QUERIES):
        scores = stored[begin * width : (begin + _STORE_QUERIES) * width].reshape(-1, width * size)
        kth = np.partition(scores, -k, axis=1)[:, -k]
        bound[begin : begin + _STORE_QUERIES] = kth
        found = np.flatnonzero(scores >= np.maximum(kth, np.finfo(np.float32).min)[:, None])
        at = found // size
        query.append((begin + at // width).astype(np.int32))
        packed.append(_packed(scores.reshape(-1)[found], tiles.rows[tile_at[begin * width + at], found % size]))
    return bound, np.concatenate(query), np.concatenate(packed)


def _reaching(
    tiles: Tiles, asked: np.ndarray, visits: _Visits, bound: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the rows of some tiles whose scores reach the bounds of their queries, as `_nearest` returns them."""
    bounds = bound[visits.query]
    for tile, pairs, scores in _products(tiles, asked, visits):
        found = np.flatnonzero(scores >= bounds[pairs, None])
        pair, place = np.divmod(found, scores.shape[1])
        yield visits.query[pairs][pair], _packed(scores[pair, place], tiles.rows[tile, place])


def _descending(bits: np.ndarray) -> np.ndarray:
    """Returns uint32 that ascend as float32 of the given bits descend; of these it returns the bits again."""
    return np.where(bits >> 31, bits, ~bits ^ np.uint32(1 << 31))


def _packed(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns numbers uint64 that ascend as scores float32 descend, and as rows int32 ascend where scores are equal."""
    return _descending(scores.view(np.uint32)).astype(np.uint64) << _ROW_BITS | rows.astype(np.uint64)


def _unpacked(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows int64 and scores float32 of what `_packed` made, and -1 and -inf of padding."""
    bits = _descending((packed >> _ROW_BITS).astype(np.uint32))
    is_padding = packed == _PADDING
    rows = np.where(is_padding, -1, (packed & np.uint64(0xFFFFFFFF)).astype(np.int64))
    return rows, np.where(is_padding, np.float32(-np.inf), bits.view(np.float32))


def _best(parts: Sequence[tuple[np.ndarray, np.ndarray]], queries: int, k: int) -> np.ndarray:
    """Returns the `k` least of the numbers that each query has, ascending and padded, uint64 `[queries, k]`.

    Args:
        parts: queries int32 `[p]` and their numbers uint64 `[p]`, as `_packed` makes them.
        queries: how many there are.
        k: length of the lists.
    """
    query, packed = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = _by(query, queries)
    query, packed = query[order], packed[order]
    counts = np.bincount(query, minlength=queries)
    lists = np.full((queries, max(k, int(counts.max(initial=0)))), _PADDING)
    lists[query, numbered(counts)] = packed
    lists.sort(axis=1)
    return lists[:, :k]
