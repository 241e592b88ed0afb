"""The rows of predictions: as Arrow while a job runs, and as Parquet, CSV or JSON Lines when it is done."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from model.recognition.engine import Lists, Outputs, neighbors
from model.recognition.memory import Memory
from pipelines import schemas, storage
from pipelines.errors import UserError

SUFFIXES = (".parquet", ".csv", ".jsonl")
_NEIGHBOR = pa.struct(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
        pa.field("influence", pa.float32()),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("source_shard", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("classes", pa.list_(pa.string()), nullable=False),
        pa.field("probabilities", pa.list_(pa.float32()), nullable=False),
        pa.field("neighbors", pa.list_(_NEIGHBOR), nullable=False),
    ]
)


def check(path: str) -> None:
    """Raises a `UserError` if no such file can be written."""
    if not path.endswith(SUFFIXES):
        raise UserError(f"--output={path}: must end in {', '.join(SUFFIXES)}")
    if storage.exists(path):
        raise UserError(f"--output={path}: exists; name another file, or remove it first")


def table(
    named: pa.Table,
    classes: Sequence[str],
    memory: Memory,
    lists: Lists,
    outputs: Outputs,
    influence: np.ndarray | None,
    most: int,
) -> pa.Table:
    """Returns the rows of a batch.

    Args:
        named: `source_shard`, `member` and `label` of the photographs.
        classes: names of all classes.
        memory: the rows.
        lists: of the photographs.
        outputs: of the photographs.
        influence: of each neighbour; None if it was not computed.
        most: neighbours of each photograph, those with the largest weights.
    """
    labels = [classes[n] if n is not None and 0 <= n < len(classes) else None for n in named["label"].to_pylist()]
    columns = {
        "source_shard": named["source_shard"].to_pylist(),
        "member": named["member"].to_pylist(),
        "label": labels,
        "classes": [[classes[number] for number in row] for row in outputs.classes.tolist()],
        "probabilities": list(outputs.probabilities),
        "neighbors": [
            [dataclasses.asdict(one) for one in neighbors(memory, lists, outputs, influence, row, most)]
            for row in range(len(labels))
        ],
    }
    return pa.Table.from_pydict(columns, schema=SCHEMA)


def write(path: str, tables: Iterable[pa.Table], metadata: dict[str, str]) -> int:
    """Writes all rows in the form that the path's suffix names, whole or not at all; returns their number."""
    rows = 0
    if path.endswith(".parquet"):
        with schemas.writer(path, SCHEMA, metadata) as parquet:
            for part in tables:
                parquet.write_table(part.cast(SCHEMA).replace_schema_metadata(parquet.schema.metadata))
                rows += part.num_rows
        return rows
    lines = _csv_lines if path.endswith(".csv") else _json_lines
    with storage.atomic_write(path) as file:
        for part in tables:
            for line in lines(part, header=not rows):
                file.write(line.encode("utf-8", "surrogatepass"))
            rows += part.num_rows
    return rows


def _json_lines(part: pa.Table, header: bool) -> Iterator[str]:
    for row in part.to_pylist():
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _csv_lines(part: pa.Table, header: bool) -> Iterator[str]:
    """Yields lines as RFC 4180 has them; the neighbours of a row are one field of JSON."""
    top = max(map(len, part["classes"].to_pylist()), default=0)
    names = [f"{name}_{place + 1}" for place in range(top) for name in ("class", "probability")]
    if header:
        yield _csv_line(["source_shard", "member", "label", *names, "neighbors"])
    for row in part.to_pylist():
        pairs = zip(row["classes"], row["probabilities"], strict=True)
        cells = [row["source_shard"], row["member"], row["label"], *(value for pair in pairs for value in pair)]
        yield _csv_line([*cells, json.dumps(row["neighbors"], ensure_ascii=False)])


def _csv_line(cells: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()
