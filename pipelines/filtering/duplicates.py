"""Finds the memory rows that are copies of earlier rows: the same bytes, or keys of a high cosine.

Earlier means with a smaller id. Neither rule is transitive or depends on the order of work: a row is a near duplicate
if any earlier row is near enough, whether that row stays or not. To compare few pairs, space is cut into cells around
pivots, which are rows of the memory, and a row is compared within its two nearest cells. Sending rows between workers
is up to `selection_job`.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from pipelines.filtering import similarity

# Rows of a cell on average, and the largest memory that is a single cell.
CELL_ROWS = 8192
ONE_CELL_ROWS = 2 * CELL_ROWS
_CELLS_A_ROW = 2
_BUCKET_ROWS = 1 << 18
_PREFIXES = 1 << 16


def buckets(images: np.ndarray, rows: int) -> np.ndarray:
    """Returns the bucket of each image, int64 `[n]`; equal images have the same.

    Args:
        images: content keys `S32` `[n]`.
        rows: of the whole memory, which decides the number of buckets.
    """
    parts = min(-(-rows // _BUCKET_ROWS), _PREFIXES)
    prefix = np.frombuffer(images.tobytes(), ">u2").reshape(len(images), 16)[:, 0]
    return prefix.astype(np.int64) * parts // _PREFIXES


def exact(ids: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the rows that have the bytes of an earlier row.

    Args:
        ids: int64 `[n]`, in any order.
        images: content keys `S32` `[n]`.

    Returns:
        The ids of the duplicates int64 `[m]`, and the ids of the first rows with their bytes.
    """
    order = np.argsort(ids)
    ids, images = ids[order], images[order]
    _, first, image = np.unique(images, return_index=True, return_inverse=True)
    later = first[image] != np.arange(len(ids))
    return ids[later], ids[first[image]][later]


def pivot_rows(shard_rows: Mapping[int, int], seed: int) -> dict[int, np.ndarray]:
    """Draws the rows that become pivots, about one in `CELL_ROWS`; none if all rows are in one cell.

    Args:
        shard_rows: rows of each shard of the memory, by shard number.
        seed: of the draw.

    Returns:
        Rows, int64 and ascending, of each shard with pivots.
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
    """Returns unit keys `[n, d]` as they are compared: float16, which halves the bytes between workers."""
    return keys.astype(np.float16)


def cells(vectors: np.ndarray, pivots: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each cell that has any of the rows, with the places of these rows.

    Args:
        vectors: float16 `[n, d]`, from `rounded`.
        pivots: float16 `[p, d]`, all different; without any, all rows are in cell 0.
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
    """Finds the rows of a cell that are near to an earlier row of the cell.

    Args:
        ids: int64 `[n]`, in any order.
        vectors: float16 `[n, d]`, from `rounded`.
        threshold: smallest cosine.

    Returns:
        The ids of the duplicates int64 `[m]`, the ids of the earlier rows of the highest cosine (the first of equal
        cosines), and the cosines float32 `[m]`.
    """
    order = np.argsort(ids)
    ids, vectors = ids[order], np.ascontiguousarray(vectors[order])
    # Equal vectors, such as those of placeholders of dead links, are compared once.
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
    """Returns each different vector of float16 `[n, d]` once, in an order that depends on the vectors alone."""
    vectors = np.ascontiguousarray(vectors)
    return vectors[np.unique(_as_bytes(vectors), return_index=True)[1]]
