"""Neighbour lists as arrays: `ids.npy`, `scores.npy` and `queries.parquet` of each split."""

import numpy as np
import pyarrow as pa

from pipelines import schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings, Neighbors
from workflow.exchange.output import Output

IDS, SCORES, QUERIES = "ids.npy", "scores.npy", "queries.parquet"
_COLUMNS = {"id": "id", "label": "label", "source_shard": "source_shard", "member": "image_path"}
# The columns of `schemas.neighbors`, and the types of their arrays.
_ARRAYS = {IDS: ("neighbor_ids", "int64"), SCORES: ("scores", "float32")}


def write(folder: str, neighbors: Neighbors, queries: dict[str, Embeddings]) -> int:
    """Writes the lists of some splits, and returns how many.

    Row i of each file of a split is its query i, in the order in which it was embedded. `ids.npy` is int64 `[N, K]`
    with -1 where there is no neighbour, `scores.npy` float32 `[N, K]` with -inf there. A chunk of lists, or a shard of
    queries without their vectors, is held in memory at a time.

    Args:
        folder: to write; finished splits are kept.
        neighbors: the lists.
        queries: the embedded splits whose lists are written.

    Raises:
        UserError: if the folder holds something else, a split has changed since its lists were made, or a file is
            damaged.
    """
    for split, embeddings in queries.items():
        if neighbors.query_snapshots.get(split) != embeddings.snapshot:
            raise UserError(f"{neighbors.folder}: has no lists of {split} as it is; run web-memory neighbors again")
    output = Output(folder, {"neighbors": neighbors.fingerprint, "splits": sorted(queries)})
    for split, embeddings in queries.items():
        if not output.has(split):
            output.done(split, embeddings.rows, _write_split(output, neighbors, split, embeddings))
    return output.finish()


def _write_split(output: Output, neighbors: Neighbors, split: str, embeddings: Embeddings) -> list[str]:
    """Writes the files of a split and returns their paths below the folder."""
    for file, (column, dtype) in _ARRAYS.items():
        chunks = (schemas.to_matrix(table[column]) for table in neighbors.chunks(split, [column]))
        output.write_npy(f"{split}/{file}", dtype, (embeddings.rows, neighbors.k), chunks)
    _write_queries(storage.join(output.folder, split, QUERIES), neighbors, split, embeddings)
    return [f"{split}/{file}" for file in (*_ARRAYS, QUERIES)]


def _write_queries(path: str, neighbors: Neighbors, split: str, embeddings: Embeddings) -> None:
    fields = schemas.embeddings({})
    schema = pa.schema([fields.field(ours).with_name(name) for ours, name in _COLUMNS.items()])
    listed = (table["query_id"].to_numpy() for table in neighbors.chunks(split, ["query_id"]))
    ids = np.concatenate([np.empty(0, np.int64), *listed])
    row = 0
    with schemas.writer(path, schema, {}) as parquet:
        for shard in embeddings.shard_rows:
            table = embeddings.read(shard, list(_COLUMNS)).select(list(_COLUMNS))
            if not np.array_equal(table["id"].to_numpy(), ids[row : row + table.num_rows]):
                raise UserError(
                    f"{neighbors.folder}: has other queries than {embeddings.folder}; remove it and run "
                    "web-memory neighbors again"
                )
            row += table.num_rows
            renamed = table.rename_columns(_COLUMNS)
            parquet.write_table(renamed.replace_schema_metadata(parquet.schema.metadata))
