"""The keys that re-rank candidates, where they stay in a file: fetched and scored for many queries at a time.

The file is mapped, so what it takes of memory is page cache, which the system may take back. A mapping also keeps the
bytes of a file that is deleted, so a local copy of a remote shard needs no further care. The rows that all candidates
of a batch name are fetched once, in the order of the file.
"""

import concurrent.futures
import os

import numpy as np

# Of the rows of a batch.
BATCH_BYTES = 512 << 20
# Candidates that are scored at a time, so that their keys stay in the cache; and those of a thread's piece of work.
_SCORED, _PIECE = 1024, 1 << 17
# With fewer candidates than the n-th part of all rows it is faster to sort them than to mark them.
_FEW = 64
_FETCHED_ROWS = 16_384


class KeptKeys:
    """The kept keys `[n, d]` of a shard, in a local file.

    Attributes:
        rows: number of keys.
    """

    def __init__(self, path: str, multipliers: np.ndarray | None = None) -> None:
        """Maps a file.

        Args:
            path: of a `.npy` file, float32, int8, or int16 with the bits of bfloat16 numbers.
            multipliers: float32 `[d]`, which an int8 key is divided by; None for other types.

        Raises:
            ValueError: if it is no such file.
        """
        self._kept = np.load(path, mmap_mode="r", allow_pickle=False)
        if self._kept.ndim != 2 or self._kept.dtype not in (np.float32, np.int8, np.int16):
            raise ValueError(f"{path} is not a matrix of keys")
        self._multipliers, self.rows = multipliers, len(self._kept)

    def batch_queries(self, candidates: int) -> int:
        """Returns how many queries of some candidates each are scored at a time."""
        row_bytes = self._kept.shape[1] * self._kept.dtype.itemsize
        return max(1, BATCH_BYTES // max(1, candidates * row_bytes))

    def scores(self, queries: np.ndarray, rows: np.ndarray, threads: int = 0) -> np.ndarray:
        """Returns the dot products of queries with their candidates, summed in float32.

        Args:
            queries: float32 `[Q, d]`, at most `batch_queries`.
            rows: int64 `[Q, C]` of the candidates; -1 pads.
            threads: 1, or 0 for one per core.

        Returns:
            float32 `[Q, C]`, -inf for padding.
        """
        scores = np.full(rows.shape, -np.inf, np.float32)
        wanted = self._distinct(rows)
        if not len(wanted):
            return scores
        if self._multipliers is not None:
            queries = queries / self._multipliers
        fetched = np.empty((len(wanted), self._kept.shape[1]), self._kept.dtype)
        slots = np.empty(wanted[-1] + 1, np.int32)
        slots[wanted] = np.arange(len(wanted), dtype=np.int32)

        def fetch(begin: int) -> None:
            part = slice(begin, begin + _FETCHED_ROWS)
            np.take(self._kept, wanted[part], axis=0, out=fetched[part], mode="clip")

        step, piece = (max(1, candidates // rows.shape[1]) for candidates in (_SCORED, _PIECE))

        def score(first: int) -> None:
            for begin in range(first, min(first + piece, len(rows)), step):
                part = slice(begin, min(begin + step, first + piece))
                keys = _float32(fetched.take(slots[np.maximum(rows[part], wanted[0])], axis=0, mode="clip"))
                scores[part] = np.matmul(keys, queries[part, :, None])[..., 0]

        with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            list(pool.map(fetch, range(0, len(wanted), _FETCHED_ROWS)))
            list(pool.map(score, range(0, len(rows), piece)))
        scores[rows < 0] = -np.inf
        return scores

    def _distinct(self, rows: np.ndarray) -> np.ndarray:
        """Returns the distinct rows that are no padding, ascending."""
        if rows.size < self.rows // _FEW:
            distinct = np.unique(rows)
            return distinct[np.searchsorted(distinct, 0) :]
        marked = np.zeros(self.rows + 1, bool)
        # Padding marks the last.
        marked[rows] = True
        return np.flatnonzero(marked[:-1])


def _float32(kept: np.ndarray) -> np.ndarray:
    """Returns kept keys as float32 of the same shape."""
    if kept.dtype != np.int16:
        return kept.astype(np.float32, copy=False)
    bits = kept.astype(np.int32)
    return np.left_shift(bits, 16, out=bits).view(np.float32)
