"""Looks for deleted rows in every file of some folders, to show that they are gone.

Rows are looked for by id and content key in every table, and by vector in every table (all vectors) and in every byte
of every file (a sample, as float32, float16 and bfloat16). A vector that a remaining row has too, such as that of an
image with the same pixels and other bytes, is not a trace of the deleted row. Codes of a few bits, which many vectors
share, cannot be traced to a row; they are computed again with the index.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from pipelines import schemas, storage
from pipelines.errors import UserError
from pipelines.schemas import content_keys
from pipelines.upkeep import compaction

_ID_COLUMNS = ("id", "own_id", "ids", "neighbor_ids")
_SAMPLED_ROWS = 16
# Bytes of a file that are read at a time; no result depends on it.
BLOCK_BYTES = 16 << 20
# Vectors of fewer different numbers are placeholders, such as zeros, and may be in any file.
_MIN_NUMBERS = 4


@dataclasses.dataclass(frozen=True)
class Proof:
    """The extent of a search that found nothing.

    Attributes:
        files: number of files, each read from the first to the last byte.
        size_bytes: of all files.
        rows: deleted rows whose ids and content keys were looked for in tables.
        vectors: vectors of the deleted rows that were looked for in tables.
        sampled: vectors among them that were looked for in every byte.
        later: files of the later stage that still have removed rows.
    """

    files: int
    size_bytes: int
    rows: int
    vectors: int
    sampled: int
    later: tuple[str, ...] = ()


class _Traces:
    """The ids, content keys and vectors by which deleted rows would be found."""

    def __init__(self, memory: str, digests: np.ndarray) -> None:
        tables = list(compaction.deleted(memory))
        self.digests, self.ids = digests, np.empty(0, np.int64)
        self.vectors: dict[str, np.ndarray] = {}
        for table in tables:
            self.ids = np.union1d(self.ids, table["id"].to_numpy())
            self.digests = np.union1d(self.digests, content_keys(table["content_key"]))
        names = {name for table in tables for name in table.column_names} - {"id", "content_key"}
        for name in sorted(names):
            parts = [schemas.to_matrix(table[name]) for table in tables if name in table.column_names]
            self.vectors[name] = np.concatenate(parts).astype(np.float32)
        self.rows = len(self.ids)

    def forgive(self, memory: str) -> None:
        """Leaves out ids and vectors that remaining rows of the memory have."""
        for path in storage.files(memory, ".parquet"):
            with schemas.open_parquet(path, ["id"]) as parquet:
                for batch in parquet.iter_batches(schemas.ROW_GROUP_ROWS):
                    self.ids = np.setdiff1d(self.ids, batch.column("id").to_numpy())
                    for name, vectors in self.vectors.items():
                        if name in batch.schema.names:
                            there = codes(schemas.to_matrix(batch.column(name)))
                            self.vectors[name] = vectors[~np.isin(codes(vectors), there)]

    def in_table(self, batch: pa.RecordBatch) -> str:
        """Returns the kind of trace that rows of a table have; empty for none."""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_fixed_size_binary(column.type) and column.type.byte_width == 32:
                if np.isin(content_keys(pa.chunked_array([column])), self.digests).any():
                    return "the content key"
            elif pa.types.is_fixed_size_list(column.type) and pa.types.is_floating(column.type.value_type):
                there = codes(schemas.to_matrix(column))
                if any(np.isin(codes(vectors), there).any() for vectors in self.vectors.values()):
                    return "the vector"
            elif name in _ID_COLUMNS:
                is_list = pa.types.is_fixed_size_list(column.type)
                ids = schemas.to_matrix(column) if is_list else column.to_numpy()
                if np.isin(ids, self.ids).any():
                    return "the id"
        return ""

    def patterns(self) -> tuple[list[bytes], int]:
        """Returns the byte strings that a sample of the vectors may be stored as, and the number of sampled vectors."""
        found: set[bytes] = set()
        sampled = 0
        for vectors in self.vectors.values():
            telling = vectors[[len(np.unique(vector)) >= _MIN_NUMBERS for vector in vectors]]
            picked = (
                telling[np.unique(np.linspace(0, len(telling) - 1, _SAMPLED_ROWS).astype(int))]
                if len(telling)
                else telling
            )
            sampled += len(picked)
            for form in (picked, schemas.unit(picked)):
                found |= {
                    row.tobytes() for kind in (form, form.astype(np.float16), *bfloat16_forms(form)) for row in kind
                }
        return sorted(found), sampled


def codes(vectors: np.ndarray) -> np.ndarray:
    """Returns a code for each vector, uint64 `[n]`, the same for equal vectors: a random linear form of its bits."""
    bits = np.ascontiguousarray(vectors, np.float32).view(np.uint32).astype(np.uint64)
    weights = np.random.default_rng(0).integers(1, 1 << 63, bits.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    return (bits * weights).sum(axis=1, dtype=np.uint64)


def bfloat16_forms(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 `[n, d]` as bfloat16, once truncated and once rounded to the nearest, each as uint16 `[n, d]`."""
    bits = np.ascontiguousarray(vectors, np.float32).view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (bits >> np.uint32(16)).astype(np.uint16), (nearest >> np.uint32(16)).astype(np.uint16)


def prove(
    memory: str, folders: Sequence[str], digests: np.ndarray, known: Mapping[str, str] | None = None, later: str = ""
) -> Proof:
    """Looks for deleted rows.

    Args:
        memory: folder of the memory that the rows were deleted from.
        folders: to search, the memory among them.
        digests: content keys of all images that were ever removed, `S32` `[n]`.
        known: SHA-256 of files in these folders that have been noted, by path: damage must not hide a row.
        later: folder of a stage that has not run since; traces there are counted, not an error.

    Raises:
        UserError: at the first trace, naming the file, or if a file is not as it was noted.
    """
    traces = _Traces(memory, digests)
    traces.forgive(memory)
    patterns, sampled = traces.patterns()
    files = [path for folder in folders for path in _walk(folder, storage.join(memory, compaction.FOLDER))]
    size_bytes = 0
    for path in files:
        size, sha256, is_inside = _search(path, patterns)
        size_bytes += size
        if (known or {}).get(path, sha256) != sha256:
            stage = "embed" if path.startswith(f"{memory}/") else "build"
            raise UserError(f"{path}: is damaged and may hide a row; remove it and run web-memory {stage} again")
        if found := "the vector" if is_inside else _in_file(traces, path):
            raise UserError(f"{path}: still has {found} of a removed row; delete the file")
    after = [path for path in (_walk(later, "") if later else ()) if _in_file(traces, path)]
    return Proof(len(files), size_bytes, traces.rows, sum(map(len, traces.vectors.values())), sampled, tuple(after))


def _in_file(traces: _Traces, path: str) -> str:
    """Returns the kind of trace that a table has; empty for none, and for other files."""
    if not path.endswith(".parquet"):
        return ""
    with schemas.open_parquet(path, []) as parquet:
        return next(filter(None, map(traces.in_table, parquet.iter_batches(schemas.ROW_GROUP_ROWS))), "")


def _walk(folder: str, without: str) -> Iterator[str]:
    for entry in storage.entries(folder):
        path = storage.join(folder, entry.name)
        if entry.kind == "file":
            yield path
        elif entry.kind == "folder" and path != without:
            yield from _walk(path, without)


def _search(path: str, patterns: Sequence[bytes]) -> tuple[int, str, bool]:
    """Returns size and SHA-256 of a file, and whether one of the patterns is in it."""
    size, tail, longest, digest, is_inside = 0, b"", max(map(len, patterns), default=1), hashlib.sha256(), False
    with storage.open_read(path) as file:
        while block := file.read(BLOCK_BYTES):
            size += len(block)
            digest.update(block)
            block = tail + block
            is_inside = is_inside or any(pattern in block for pattern in patterns)
            tail = block[len(block) - min(longest - 1, len(block)) :]
    return size, digest.hexdigest(), is_inside
