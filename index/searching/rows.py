"""What a search finds: memory rows with their scores, captions and pictures."""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from index.searching.page import Tile
from index.searching.queries import Load, Query
from index.store.indexed_memory import IndexedMemory
from index.store.reader import Index
from pipelines import schemas
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.nearest_neighbors import leave_out
from pipelines.sources import pictures

_SIDE = 200


def find(index: Index, query: Query, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids int64 and scores float32 `[<= k]` of the rows nearest to a query, without the query's own row."""
    is_row, k = query.own_id >= 0, min(k, index.rows)
    vector = query.vector / max(float(np.linalg.norm(query.vector)), np.finfo(np.float32).tiny)
    hits = index.search(vector[None], k + is_row)
    ids, scores = leave_out(hits.ids, hits.scores, hits.ids == query.own_id, k)
    found = ids[0] >= 0
    return ids[0][found], scores[0][found]


def read(memory: Embeddings | IndexedMemory, ids: np.ndarray) -> list[dict[str, Any]]:
    """Returns `id`, `source_shard`, `member`, `url` and `caption` of memory rows; reads only the shards they are in.

    Raises:
        UserError: if a row is missing.
    """
    rows: dict[int, dict[str, Any]] = {}
    for shard in np.unique(schemas.split_ids(ids)[0]).tolist():
        if shard in memory.shard_rows:
            table = memory.read(shard, ["id", "source_shard", "member", "url", "caption"])
            wanted = table.take(np.flatnonzero(np.isin(table["id"].to_numpy(), ids)))
            rows |= {row["id"]: row for row in wanted.to_pylist()}
    if missing := [id_ for id_ in ids.tolist() if id_ not in rows]:
        raise UserError(
            f"{memory.folder}: has no row {missing[0]}, which the index found: it has changed since; run web-memory "
            "reindex"
        )
    return [rows[id_] for id_ in ids.tolist()]


def tile(row: dict[str, Any], score: float, load: Load | None) -> Tile:
    """Returns a row as it is shown.

    Args:
        row: from `read`.
        score: of the row.
        load: reads its picture; None shows no picture.
    """
    container, member = row["source_shard"], row["member"]
    shown = Tile(row["id"], score, row["caption"] or "", row["url"] or f"{container}/{member}")
    if load is None:
        return shown
    try:
        return dataclasses.replace(shown, picture=data_url(load(container, member)))
    except UserError as error:
        return dataclasses.replace(shown, missing=str(error))


def data_url(picture: Image.Image | None) -> str:
    """Returns a picture, made small, as a URL that contains it; empty for none."""
    return pictures.data_url(picture, _SIDE) if picture else ""
