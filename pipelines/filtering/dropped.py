"""Memory rows that a selection leaves out: the reasons, and the rows' form between workers and on storage.

Finding them is up to `selection_job`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

REMOVED = "removed"
REASONS = (REMOVED, "opt_out", "leakage", "exact_duplicates", "near_duplicates", "concepts_per_class")
"""Why a row is left out; the first of several reasons counts. All but `removed` are fields of `Filters`."""

DROPPED = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("twin_folder", pa.string()),
        pa.field("twin_id", pa.int64()),
        pa.field("similarity", pa.float32()),
        pa.field("pixels", pa.float32()),
    ]
)

# Folder -1 stands for none, 0 for the memory, s + 1 for split s.
RECORD = np.dtype(
    [("id", "<i8"), ("reason", "i1"), ("folder", "i1"), ("twin", "<i8"), ("similarity", "<f4"), ("pixels", "<f4")]
)


def records(
    ids: np.ndarray,
    reason: str,
    folders: np.ndarray | int = -1,
    twins: np.ndarray | int = -1,
    similarities: np.ndarray | float = np.nan,
    pixels: np.ndarray | float = np.nan,
) -> np.ndarray:
    """Returns rows as `RECORD` `[n]`.

    Args:
        ids: int64 `[n]`.
        reason: one of `REASONS`.
        folders: int8 `[n]`, -1 for no twin, 0 for the memory, s + 1 for split s.
        twins: int64 `[n]`, the rows that these are copies of.
        similarities: float32 `[n]`, cosines to the twins.
        pixels: float32 `[n]`, similarities of pixels to the twins, NaN where they were not compared.
    """
    rows = np.empty(len(ids), RECORD)
    rows["id"], rows["reason"], rows["folder"] = ids, REASONS.index(reason), folders
    rows["twin"], rows["similarity"], rows["pixels"] = twins, similarities, pixels
    return rows


def merge(parts: Iterable[bytes]) -> np.ndarray:
    """Merges packed `RECORD`s, in any order, into one per row, ascending by id.

    The first reason in the order of `REASONS` counts, then the most similar twin, then the twin of the smallest id.
    """
    rows = np.frombuffer(b"".join(parts), RECORD)
    rows = rows[np.lexsort((rows["twin"], rows["folder"], -rows["similarity"], rows["reason"], rows["id"]))]
    return rows[np.unique(rows["id"], return_index=True)[1]]


def to_table(rows: np.ndarray, splits: Sequence[str]) -> pa.Table:
    """Returns `RECORD`s as a table of `DROPPED`.

    Args:
        rows: `[n]`.
        splits: names of the folders from 1 on.
    """
    alone = rows["folder"] < 0
    folders = ["memory", *splits]
    columns = [
        pa.array(rows["id"]),
        pa.array([REASONS[reason] for reason in rows["reason"]], pa.string()),
        pa.array([folders[folder] if folder >= 0 else None for folder in rows["folder"]], pa.string()),
        pa.array(rows["twin"], mask=alone),
        pa.array(rows["similarity"], mask=alone),
        pa.array(rows["pixels"], mask=np.isnan(rows["pixels"])),
    ]
    return pa.Table.from_arrays(columns, schema=DROPPED)
