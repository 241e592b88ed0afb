"""Measures shards of which rows were removed since they were built, with the queries of their build.

What exact search found is still true without the removed rows, as far as the lists go; what the searcher finds in their
place is searched. Shards that lost nothing are as they were measured.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from index import build_job, shard_store
from index.curve import MeasuredShard
from index.lookup import Lookup
from index.measurement import Found, Queries, ShardLists
from index.reader import Index
from index.searcher import leave_out
from index.shard_store import ShardRecord
from pipelines import storage
from pipelines.errors import UserError


def queries_path(index: Index) -> str:
    """Returns where the measuring queries of an index are, below its folder."""
    return next(path for path in index.facts["files"] if storage.name(path) == build_job.QUERIES_FILE)


def without_removed(
    index: Index, records: Sequence[ShardRecord], removed: Mapping[int, np.ndarray], queries: Queries
) -> tuple[list[MeasuredShard], Queries]:
    """Returns what the curve needs of all shards, and the queries that it can be told for.

    Args:
        index: of the version before.
        records: of all shards, those that are new last.
        removed: of the number of each shard that lost rows these rows, int64.
        queries: that the shards were measured on.

    Raises:
        UserError: if a file is missing or damaged, or so much was removed that no query's neighbours are known.
    """
    k = index.facts["recall"]["k"]
    shards = list(build_job.measured_shards(index.folder, records, index.router, queries))
    told = np.ones(len(queries.keys), bool)
    for number, rows in removed.items():
        lists, is_long = _anew(index, records[number], shards[number].lists, rows, queries, k)
        shards[number] = dataclasses.replace(shards[number], lists=lists)
        told &= is_long
    places = np.flatnonzero(told)
    tuning = int((places < queries.tuning).sum())
    if tuning == len(places):
        raise UserError(
            f"{index.folder}: so much was removed that its recall cannot be told; "
            "run pipelines.reindex --compact to build anew"
        )
    if told.all():
        return shards, queries
    left = dataclasses.replace(queries, keys=queries.keys[places], own_ids=queries.own_ids[places], tuning=tuning)
    return list(_of_queries(shards, places)), left


def _anew(
    index: Index, record: ShardRecord, lists: ShardLists, rows: np.ndarray, queries: Queries, k: int
) -> tuple[ShardLists, np.ndarray]:
    """Returns the lists of a shard without some rows, and whether the exact one of each query still says its k best."""
    shard = shard_store.load(index.folder, record, record.settings[0].parameters, rows)
    ids, scores = lists.exact
    unwanted = np.isin(ids, shard.ids[rows]) & (ids >= 0)
    exact = leave_out(ids, scores, unwanted, ids.shape[1])
    is_long = (ids[:, -1] < 0) | (exact[0][:, k - 1] >= 0)
    found = []
    for setting, before in zip(record.settings, lists.found, strict=True):
        tuned = dataclasses.replace(shard, searcher=shard.searcher.with_parameters(setting.parameters))
        keys, own_ids = queries.keys[before.queries], queries.own_ids[before.queries, None]
        ids, scores, _ = Lookup(tuned).search(keys, k + int(queries.of_memory))
        found.append(Found(before.queries, *leave_out(ids, scores, (ids == own_ids) & (ids >= 0), k)))
    return ShardLists(exact, found), is_long


def _of_queries(shards: Sequence[MeasuredShard], places: np.ndarray) -> Iterator[MeasuredShard]:
    """Yields what is known of the shards for the queries at ascending places."""
    for shard in shards:
        found = []
        for each in shard.lists.found:
            is_in = np.isin(each.queries, places)
            renumbered = np.searchsorted(places, each.queries[is_in])
            found.append(Found(renumbered, each.ids[is_in], each.scores[is_in]))
        ids, scores = shard.lists.exact
        lists = ShardLists((ids[places], scores[places]), found)
        yield dataclasses.replace(shard, lists=lists, nearness=shard.nearness[places])
