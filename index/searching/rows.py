"""What a search finds: memory rows with their scores, captions and pictures."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from index.searching.page import Tile
from index.searching.queries import Load, Query
from index.store.filtered import Allowed
from index.store.indexed_memory import IndexedMemory
from index.store.reader import Index
from pipelines import schemas
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.nearest_neighbors import leave_out
from pipelines.sources import pictures

_SIDE = 200
_COLUMNS = ["id", "source_shard", "member", "url", "caption"]


def find(index: Index, query: Query, k: int, allowed: Allowed) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids int64 and scores float32 of the rows nearest to a query, without the query's own row.

    Args:
        index: that is searched.
        query: what for.
        k: number of rows; fewer are returned only if fewer are allowed.
        allowed: rows that may be found.
    """
    is_row, k = query.own_id >= 0, min(k, index.rows)
    hits = index.search(schemas.unit(query.vector[None]), min(k + is_row, index.rows), allowed=allowed)
    ids, scores = leave_out(hits.ids, hits.scores, hits.ids == query.own_id, k)
    found = ids[0] >= 0
    return ids[0][found], scores[0][found]


def read(memory: Embeddings | IndexedMemory, ids: np.ndarray) -> list[dict[str, Any]]:
    """Returns `id`, `source_shard`, `member`, `url` and `caption` of memory rows, decoding only parts of their shards.

    Raises:
        UserError: if a row is missing.
    """
    ordered = np.sort(ids)
    shards, begins = np.unique(schemas.split_ids(ordered)[0], return_index=True)
    named = list(zip(shards.tolist(), np.split(ordered, begins[1:]), strict=False))

    def take(shard: int, wanted: np.ndarray) -> list[dict[str, Any]]:
        return memory.take(shard, _COLUMNS, wanted).to_pylist() if shard in memory.shard_rows else []

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = {row["id"]: row for part in pool.map(lambda each: take(*each), named) for row in part}
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
