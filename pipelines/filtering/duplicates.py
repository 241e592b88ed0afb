"""Finds the memory rows that are copies of earlier rows: the same bytes, or keys of a high cosine.

Earlier means of a smaller id. Neither rule is transitive or depends on an order of work: a row is a near duplicate if
any earlier row is near enough, whether that one stays or not. To compare few pairs, space is cut into cells around
pivots, which are rows of the memory; a row is compared within its two nearest cells. Between which workers rows travel
is left to `selection_job`.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from pipelines.filtering import similarity

CELL_ROWS = 8192
ONE_CELL_ROWS = 2 * CELL_ROWS
_CELLS_A_ROW = 2
_BUCKET_ROWS = 1 << 18
_PREFIXES = 1 << 16


def buckets(images: np.ndarray, rows: int) -> np.ndarray:
    """Returns which part of the images each belongs to, int64 `[n]`; equal ones to the same.

    Args:
        images: content keys `S32` `[n]`.
        rows: of the whole memory, which decides the number of parts.
    """
    parts = min(-(-rows // _BUCKET_ROWS), _PREFIXES)
    prefix = np.frombuffer(images.tobytes(), ">u2").reshape(len(images), 16)[:, 0]
    return prefix.astype(np.int64) * parts // _PREFIXES


def exact(ids: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows whose bytes an earlier row has.

    Args:
        ids: int64 `[n]`, in any order.
        images: content keys `S32` `[n]`.

    Returns:
        The ids of these rows int64 `[m]`, and of the first row that has their bytes.
    """
    order = np.argsort(ids)
    ids, images = ids[order], images[order]
    _, first, image = np.unique(images, return_index=True, return_inverse=True)
    later = first[image] != np.arange(len(ids))
    return ids[later], ids[first[image]][later]


def pivot_rows(shard_rows: Mapping[int, int], seed: int) -> dict[int, np.ndarray]:
    """Draws the rows that become pivots, about one of `CELL_ROWS`; none where one cell takes all rows.

    Args:
        shard_rows: rows of each shard of the memory, by shard number.
        seed: of the draw.

    Returns:
        Ascending rows, int64, of each shard that has some.
    """
    total = sum(shard_rows.values())
    if total <= ONE_CELL_ROWS:
        return {}
    drawn = np.sort(np.random.default_rng(seed).choice(total, -(-total // CELL_ROWS), replace=False))
    picks, begin = {}, 0
    for number, rows in sorted(shard_rows.items()):
        inside = drawn[(drawn >= begin) & (drawn < begin + rows)] - begin
        if len(inside):
            picks[number] = inside
        begin += rows
    return picks


def rounded(keys: np.ndarray) -> np.ndarray:
    """Returns unit keys `[n, d]` as they are compared: float16, half the bytes that travel."""
    return keys.astype(np.float16)


def cells(vectors: np.ndarray, pivots: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each cell that has some of the rows, with their places.

    Args:
        vectors: float16 `[n, d]`, from `rounded`.
        pivots: float16 `[p, d]`, all different; where there are none, all rows are of cell 0.
    """
    if not len(pivots):
        yield 0, np.arange(len(vectors))
        return
    wanted = min(_CELLS_A_ROW, len(pivots))
    nearest = similarity.nearest(similarity.unit(vectors), similarity.unit(pivots), wanted).ravel()
    order = np.argsort(nearest, kind="stable")
    found, begins = np.unique(nearest[order], return_index=True)
    for cell, places in zip(found, np.split(order // wanted, begins[1:]), strict=True):
        yield int(cell), places


def near(ids: np.ndarray, vectors: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the rows of a cell that an earlier row of the cell is near to.

    Args:
        ids: int64 `[n]`, in any order.
        vectors: float16 `[n, d]`, from `rounded`.
        threshold: smallest cosine.

    Returns:
        The ids of these rows int64 `[m]`, of the earlier row of the highest cosine (of equal ones the first), and the
        cosines float32 `[m]`.
    """
    order = np.argsort(ids)
    ids, vectors = ids[order], np.ascontiguousarray(vectors[order])
    # Equal vectors, such as of the placeholders of dead links, are compared once.
    _, first, kind = np.unique(_as_bytes(vectors), return_index=True, return_inverse=True)
    first, kind = np.sort(first), np.argsort(np.argsort(first))[kind]
    keys = vectors[first]
    match, cosine = similarity.best_matches(keys, keys, threshold, earlier_only=True)
    match, cosine = match[kind], cosine[kind]
    twin = np.where(match == similarity.NONE, similarity.NONE, first[match])
    is_repeat = (first[kind] != np.arange(len(ids))) & (cosine < 1)
    twin, cosine = np.where(is_repeat, first[kind], twin), np.where(is_repeat, np.float32(1), cosine)
    is_near = twin != similarity.NONE
    return ids[is_near], ids[twin[is_near]], cosine[is_near]


def _as_bytes(vectors: np.ndarray) -> np.ndarray:
    return vectors.view(f"V{vectors.shape[1] * vectors.itemsize}")[:, 0]


def different(vectors: np.ndarray) -> np.ndarray:
    """Returns the different ones of float16 vectors `[n, d]`, in an order that only they decide."""
    vectors = np.ascontiguousarray(vectors)
    return vectors[np.unique(_as_bytes(vectors), return_index=True)[1]]
