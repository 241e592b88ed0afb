"""Measures shards that have lost rows since they were built, with the queries of their build.

Exact lists remain true without the removed rows, down to their ends; if they have become too short, the memory is
searched again. The searcher's own lists are searched again. Shards that lost no row keep their lists.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from index.building import build_job, publication
from index.measure import measurement
from index.measure.curve import MeasuredShard
from index.measure.measurement import Queries
from index.store import keys, shard_store
from index.store.lookup import Lookup
from index.store.reader import Index
from index.store.records import Found, ShardLists, ShardRecord
from pipelines import storage
from pipelines.manifest import Embeddings
from pipelines.nearest_neighbors import leave_out


def queries_path(index: Index) -> str:
    """Returns the path of an index's measuring queries, below its folder."""
    return next(path for path in index.facts["files"] if storage.name(path) == build_job.QUERIES_FILE)


def without_removed(
    index: Index,
    records: Sequence[ShardRecord],
    removed: Mapping[int, np.ndarray],
    queries: Queries,
    memory: Embeddings,
) -> list[MeasuredShard]:
    """Returns what the curve needs of all shards.

    Args:
        index: the version before.
        records: of all shards, new ones last.
        removed: rows that shards have lost, int64, by the shard's number.
        queries: those that the shards were measured on.
        memory: the rows of all shards except the removed ones.

    Raises:
        UserError: if a file is missing or damaged.
    """
    k = index.facts["recall"]["k"]
    shards = list(publication.measured_shards(index.folder, records))
    is_known = True
    for number, rows in removed.items():
        lists, is_long = _search_again(index, number, shards[number].lists, rows, queries, k)
        shards[number] = dataclasses.replace(shards[number], lists=lists)
        is_known &= is_long
    return shards if is_known else _with_exact_lists(shards, memory, queries)


def _search_again(
    index: Index, number: int, lists: ShardLists, rows: np.ndarray, queries: Queries, k: int
) -> tuple[ShardLists, bool]:
    """Returns a shard's lists without some rows, and whether the exact ones still hold the k best of each query."""
    record = index.shards[number]
    shard = shard_store.load(index.folder, record, record.settings[0].parameters, rows)
    ids, scores = lists.exact
    unwanted = np.isin(ids, shard.ids[rows]) & (ids >= 0)
    exact = leave_out(ids, scores, unwanted, ids.shape[1])
    is_long = bool(((ids[:, -1] < 0) | (exact[0][:, k - 1] >= 0)).all())
    found = []
    for setting in record.settings:
        # Lists that are longer by the query itself are no reason to search more.
        longest = k + int(queries.of_memory)
        parameters = dataclasses.replace(setting.parameters, k=longest)
        engine = shard.searcher.with_parameters(parameters)
        tuned = dataclasses.replace(shard, searcher=engine, parameters=parameters)
        places, leaves, shares = np.arange(len(queries.keys)), None, None
        if record.is_region:
            places, leaves, shares = measurement.visitors(
                index.router, queries.keys, setting.parameters, index.region(number)
            )
        vectors, own_ids = queries.keys[places], queries.own_ids[places, None]
        ids, scores, _ = Lookup(tuned).search(vectors, longest, leaves=leaves, shares=shares)
        found.append(Found(places, *leave_out(ids, scores, (ids == own_ids) & (ids >= 0), k)))
    return ShardLists(exact, found), is_long


def _with_exact_lists(shards: Sequence[MeasuredShard], memory: Embeddings, queries: Queries) -> list[MeasuredShard]:
    """Returns the shards with new exact lists: those of the whole memory, all given to the first shard."""
    stream, depth = keys.of_memory(memory), shards[0].lists.exact[0].shape[1]
    exact = measurement.exact_lists(stream, stream.names()[0], queries, depth)
    none = np.full_like(exact[0], -1), np.full_like(exact[1], -np.inf)
    lists = [dataclasses.replace(shard.lists, exact=none if place else exact) for place, shard in enumerate(shards)]
    return [dataclasses.replace(shard, lists=each) for shard, each in zip(shards, lists, strict=True)]
