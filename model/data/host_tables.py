"""A memory that is larger than the device's: its rows are in files, and threads read those of the next batches.

Rows that are not in the page cache come from the disk one by one, so many concurrent reads are needed to keep it busy.
The files hold standardized rows as uncompressed Arrow and are mapped into memory; they are written once for each set of
neighbour lists and dtype. `trainer` uses the batches.
"""

import collections
import dataclasses
import mmap
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import google_crc32c
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from model.data import parallel, tables
from model.data.datasets import Task
from model.data.tables import Tables
from model.data.vectors import Vectors, chunks
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError

# Batches that are read while the device works on one, and threads that read rows from a file.
_AHEAD = 2
_READERS = 128
# The Arrow and NumPy types of each dtype; Arrow has no bfloat16, so its bits are stored as integers.
_SHAPE = {"crc32c": [int]}
# Bytes of a file that one checksum is of, and that are read at a time.
_BLOCK_BYTES, _READ_BYTES = 64 << 20, 1 << 20
_STORED: dict[str, tuple[pa.DataType, type]] = {
    "float32": (pa.float32(), np.float32),
    "bfloat16": (pa.uint16(), np.uint16),
}


def _facts_path(path: str) -> str:
    return path.removesuffix(".arrow") + ".json"


def checksum(path: str) -> list[int]:
    """Returns the CRC-32C of each `_BLOCK_BYTES` of a file; read by a thread for each core.

    It is only to find damage, and five times as fast as SHA-256.
    """
    size = os.path.getsize(path)

    def of_block(begin: int) -> int:
        with open(path, "rb", buffering=0) as file:
            file.seek(begin)
            crc, left = 0, _BLOCK_BYTES
            while left and (part := file.read(min(left, _READ_BYTES))):
                crc, left = google_crc32c.extend(crc, part), left - len(part)
            return crc

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [size, *pool.map(of_block, range(0, size, _BLOCK_BYTES))]


class RowFile:
    """Standardized rows `[M, V]` in a file that is mapped into memory."""

    def __init__(self, path: str, shape: tuple[int, int], dtype: str) -> None:
        """Opens the file.

        Args:
            path: of a file written by `write`.
            shape: rows, width.
            dtype: one of `_STORED`.

        Raises:
            UserError: if it is damaged.
        """
        self.width = shape[1]
        self.dtype, (stored, _) = jnp.dtype(dtype), _STORED[dtype]
        broken = f"{path}: is no complete file of {shape[0]:,} rows of {shape[1]} {dtype} values; remove it, run again"
        # Before Arrow sees it, which may end the process over damaged bytes.
        if (
            checksum(path)
            != schemas.read_json(_facts_path(path), _SHAPE, f"remove {_facts_path(path)}, run again")["crc32c"]
        ):
            raise UserError(broken)
        try:
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if hasattr(mmap, "MADV_RANDOM"):
                # Reading ahead would read rows that nobody needs.
                mapped.madvise(mmap.MADV_RANDOM)
            reader = pa.ipc.open_file(pa.BufferReader(mapped))
            if reader.schema.names != ["row"] or reader.schema.field(0).type != pa.list_(stored, self.width):
                raise UserError(broken)
            batches = [reader.get_batch(number).column(0) for number in range(reader.num_record_batches)]
            self._views = [rows.flatten().to_numpy().reshape(-1, self.width).view(self.dtype) for rows in batches]
        except (pa.ArrowException, ValueError, OSError) as error:
            raise UserError(broken) from error
        self._readers = ThreadPoolExecutor(_READERS)
        self._bounds = np.cumsum([0, *map(len, self._views)])
        if self._bounds[-1] != shape[0]:
            raise UserError(broken)

    def __len__(self) -> int:
        """Rows of the memory."""
        return int(self._bounds[-1])

    @property
    def row_bytes(self) -> int:
        """Size of a row, in bytes."""
        return self.width * self.dtype.itemsize

    @staticmethod
    def write(path: str, vectors: Vectors, dtype: str) -> None:
        """Writes vectors, standardized, a chunk at a time."""
        storage.remove(_facts_path(path))
        stored, numpy_stored = _STORED[dtype]
        field = pa.field("row", pa.list_(stored, vectors.shape[1]), nullable=False)
        with storage.atomic_write(path) as file, pa.ipc.new_file(file, pa.schema([field])) as writer:
            for _, chunk in chunks(vectors):
                rows: np.ndarray = tables.standardize_rows(chunk, dtype).view(numpy_stored)
                writer.write_batch(pa.record_batch([schemas.fixed_list(rows, field)], schema=pa.schema([field])))
        storage.write_json(_facts_path(path), {"crc32c": checksum(path)})

    def read(self, rows: np.ndarray, size: int) -> np.ndarray:
        """Returns `rows` `[n]`, ascending, as the first rows of `[size, V]`; the others are undefined."""
        window = np.empty((size, self.width), self.dtype)
        cuts = np.searchsorted(rows, self._bounds)

        def copy(numbers: np.ndarray) -> None:
            for number in numbers:
                begin, end = cuts[number], cuts[number + 1]
                # The default mode copies through a buffer; `searchsorted` has already checked the bounds.
                mode: Any = "clip"
                np.take(self._views[number], rows[begin:end] - self._bounds[number], 0, window[begin:end], mode)

        named = np.flatnonzero(np.diff(cuts))
        list(self._readers.map(copy, np.array_split(named, min(_READERS, max(1, len(named))))))
        return window


@dataclasses.dataclass
class Meter:
    """What was read for one split.

    Attributes:
        rows: of the memory, keys and values counted once.
        size_bytes: of the keys and values.
        read_secs: time that the thread read.
        waited_secs: time that the steps waited for it.
        secs: time of the steps, waiting included.
    """

    rows: int = 0
    size_bytes: int = 0
    read_secs: float = 0.0
    waited_secs: float = 0.0
    secs: float = 0.0

    def rates(self) -> dict[str, float]:
        """Returns `rows_per_sec` and `mb_per_sec` of the thread, and `waited_share` of the steps; {} without reads."""
        if not self.rows:
            return {}
        return {
            "rows_per_sec": round(self.rows / self.read_secs),
            "mb_per_sec": round(1e-6 * self.size_bytes / self.read_secs, 1),
            "waited_share": round(self.waited_secs / self.secs, 4),
        }


class HostTables:
    """A `tables.Source` that makes tables for each batch, with only the rows that its lists name."""

    def __init__(self, own: Tables, neighbors: np.ndarray, keys: RowFile, values: dict[str, RowFile]) -> None:
        """Reads nothing yet.

        Args:
            own: the queries, on the device.
            neighbors: rows of the memory, int32 `[N, K]`.
            keys: of the memory.
            values: of the memory, for each kind.
        """
        self._own, self._neighbors, self._keys, self._values = own, neighbors, keys, values
        self.queries, self.labels = own.queries, own.labels
        self._meter = Meter()

    def _read(self, rows: np.ndarray) -> Tables:
        begin, near = time.perf_counter(), self._neighbors[rows]
        unique, places = np.unique(near, return_inverse=True)
        # One size, so that there is one compilation: that of a batch whose lists share no row.
        batch = self._batch(near, unique, places.reshape(near.shape), min(near.size, len(self._keys)))
        self._meter.rows += len(unique)
        self._meter.size_bytes += len(unique) * sum(file.row_bytes for file in (self._keys, *self._values.values()))
        self._meter.read_secs += time.perf_counter() - begin
        return batch

    def _read_nothing(self, rows: np.ndarray) -> Tables:
        near = np.zeros((len(rows), self._neighbors.shape[1]), np.int32)
        return self._batch(near, np.zeros(1, np.int64), near, 1)

    def _batch(self, near: np.ndarray, unique: np.ndarray, places: np.ndarray, size: int) -> Tables:
        keys = self._keys.read(unique, size)
        values = {kind: file.read(unique, size) for kind, file in self._values.items()}
        read = {"neighbors": places.astype(np.int32), "memory_rows": near, "keys": keys, "values": values}
        return self._own._replace(**parallel.replicate(read))

    def parts(self, rows: np.ndarray, count: int, memory: bool) -> Iterator[tuple[Tables, np.ndarray, int]]:
        """Yields one batch at a time, see `Source`."""
        read = self._read if memory else self._read_nothing
        with ThreadPoolExecutor(1) as thread:
            coming = collections.deque(thread.submit(read, batch) for batch in rows[: min(_AHEAD, count)])
            for number in range(count):
                begin = time.perf_counter()
                batch = coming.popleft().result()
                self._meter.waited_secs += time.perf_counter() - begin
                if number + _AHEAD < count:
                    coming.append(thread.submit(read, rows[number + _AHEAD]))
                yield batch, rows[number : number + 1], 1
                self._meter.secs += time.perf_counter() - begin

    def rates(self) -> dict[str, float]:
        """See `Source`."""
        meter, self._meter = self._meter, Meter()
        return meter.rates()


def load(task: Task, dtype: str, folder: str) -> dict[str, HostTables]:
    """Opens a task whose memory stays on the host; writes its files if they do not exist.

    Args:
        task: the arrays.
        dtype: of keys and values.
        folder: of all such files, with a subfolder for each set of neighbour lists and dtype.
    """
    place = storage.join(folder, manifest.fingerprint([task.fingerprint, dtype]))

    def opened(name: str, vectors: Vectors) -> RowFile:
        path = storage.join(place, f"{name}.arrow")
        if not (storage.exists(path) and storage.exists(_facts_path(path))):
            RowFile.write(path, vectors, dtype)
        return RowFile(path, vectors.shape, dtype)

    keys = opened("key", task.keys)
    values = {kind: opened(f"value_{kind}", value) for kind, value in task.values.items()}
    own = tables.of_queries(task)
    return {name: HostTables(own[name], split.neighbors, keys, values) for name, split in task.splits.items()}


def words(rates: list[dict[str, float]]) -> str:
    """Returns the medians of results of `Meter.rates` in words, for the summary."""
    rows, size, waited = (
        float(np.median([rate[name] for rate in rates])) for name in ("rows_per_sec", "mb_per_sec", "waited_share")
    )
    return f"{rows:,.0f} rows/s, {size:,.0f} MB/s, steps waited {waited:.1%} of their time"
