"""Searches a shard with ScaNN; the files are written by `scann_coder`.

Scores are dot products, so the caller must normalise keys and queries if it wants cosines. `nearest_neighbors` orders
and pads the lists, and `shard_store` checks the files before loading, since ScaNN aborts the process on a missing file.

Scores are the dot products of the keys as they are kept, summed in float32. With float32 keys they differ from the
exactly rounded ones of `exact` in the last bit or two, with bfloat16 by up to 2 ** -8 of their size.
"""

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from configs.base import Index
from index.engines import partitions, scann_coder
from index.engines.kept_keys import KeptKeys
from index.engines.planner import Parameters, Plan, full_search, plan_shard
from index.engines.searcher import Files, Keys, copy_files
from pipelines.errors import UserError
from pipelines.nearest_neighbors import top_k

# On one thread ScaNN would search all queries at once, and their candidates would not stay in the cache.
_BATCH_QUERIES = 512
# Numbers of leaves and candidates that queries of a shard of regions are grouped by. A call of ScaNN costs 13 us more,
# and scanning too many leaves is not wasted: it finds more.
_STEPS = np.unique(np.ceil(1.5 ** np.arange(52))).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class ScannSearcher:
    """A loaded searcher with its search-time parameters.

    Attributes:
        scann: ScaNN's own searcher.
        files: folder that it was loaded from.
        rows: number of keys.
        parameters: of the search.
        leaves: partitions; 0 for none.
        kept: the keys, as they re-rank candidates.
        rows_at: int32 `[n]`, the row at each place of ScaNN's; None if they are the same.
        groups: means of groups of leaves, float32 `[groups, d]`; queries of the same one are searched together.
        reorders: whether candidates are re-ranked here, since ScaNN does not hold the keys.
        threads: 1, or 0 for one per core.
    """

    scann: Any
    files: Files
    rows: int
    parameters: Parameters
    leaves: int
    kept: KeptKeys
    rows_at: np.ndarray | None = None
    groups: np.ndarray | None = None
    reorders: bool = False
    threads: int = 0

    def with_parameters(self, parameters: Parameters) -> "ScannSearcher":
        """Returns a searcher over the same memory with other parameters."""
        return dataclasses.replace(self, parameters=parameters)

    def with_threads(self, threads: int) -> "ScannSearcher":
        """Returns a searcher over the same memory with 1 thread, or with 0 for one per core."""
        return dataclasses.replace(self, threads=threads)

    def save(self, folder: str) -> None:
        """Copies the files; the folder can be moved."""
        copy_files(self.files, folder)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        more: int = 0,
        *,
        leaves: np.ndarray | None = None,
        shares: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and scores as `Searcher.search`; equal calls give equal results, on any number of threads."""
        length = k + more
        rows = np.full((len(queries), length), -1, np.int64)
        scores = np.full((len(queries), length), -np.inf, np.float32)
        if not len(queries) or not length:
            return rows, scores
        queries = np.ascontiguousarray(queries, np.float32)
        candidates, scanned = self.parameters.candidates(k, self.rows), self.parameters.leaves_to_search
        order = np.arange(len(queries))
        if self.groups is not None:
            order = np.argsort(partitions.group(queries, self.groups), kind="stable")
        parts = iter([(order, scanned, candidates)])
        if self.leaves and leaves is not None and shares is not None:
            parts = _alike(order, leaves, self.parameters.candidates_of(shares, k, self.rows))
        for places, scanned, candidates in parts:
            number = min(candidates, self.rows)
            step = self.kept.batch_queries(number) if self.reorders else len(places)
            for begin in range(0, len(places), step):
                part = places[begin : begin + step]
                found = self._find(queries[part], length, number, min(scanned, self.leaves))
                width = found[0].shape[1]
                rows[part, :width], scores[part, :width] = found
        # In one call, since a part may have a handful of queries.
        return top_k(rows, scores, length)

    def _find(self, queries: np.ndarray, length: int, candidates: int, leaves: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and scores `[Q, at most length]` of the best of some candidates in the nearest leaves."""
        wanted = candidates if self.reorders else min(length, candidates)
        places, scores = self._scan(queries, wanted, candidates, leaves)
        rows = places if self.rows_at is None else np.where(places < 0, np.int64(-1), self.rows_at[places])
        if not self.reorders:
            return rows, scores
        return top_k(rows, self.kept.scores(queries, places, self.threads), length)

    def _scan(self, queries: np.ndarray, wanted: int, candidates: int, leaves: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns places int64 and scores float32 `[Q, wanted]` of ScaNN, the best of some candidates; -1 pads."""
        is_single = self.threads == 1
        search = self.scann.search_batched if is_single else self.scann.search_batched_parallel
        step = _BATCH_QUERIES if is_single else len(queries)
        lists = [
            search(
                queries[begin : begin + step],
                final_num_neighbors=wanted,
                pre_reorder_num_neighbors=candidates,
                leaves_to_search=leaves or None,
            )
            for begin in range(0, len(queries), step)
        ]
        rows, scores = (np.concatenate(each) for each in zip(*lists, strict=True))
        # ScaNN pads a short list with row 0 and score NaN.
        return np.where(np.isnan(scores), np.int64(-1), rows.astype(np.int64)), scores

    def search_rows(self, queries: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest of some rows as `Searcher.search_rows`."""
        return self.kept.nearest(queries, k, rows)


def _alike(order: np.ndarray, leaves: np.ndarray, candidates: np.ndarray) -> Iterator[tuple[np.ndarray, int, int]]:
    """Yields the places of queries that are searched together, and their numbers of leaves and candidates, rounded up.

    A query's group depends on its own numbers only, so its list does not depend on the others.

    Args:
        order: int64 `[Q]`, the places of all queries, in the order in which those of a group are searched.
        leaves: int `[Q]`, of each query.
        candidates: int64 `[Q]`, of each query.
    """
    group = (np.searchsorted(_STEPS, leaves) * len(_STEPS) + np.searchsorted(_STEPS, candidates))[order]
    by_group = np.argsort(group, kind="stable")
    groups, begins = np.unique(group[by_group], return_index=True)
    for number, places in zip(groups.tolist(), np.split(order[by_group], begins[1:]), strict=True):
        scanned, scored = divmod(number, len(_STEPS))
        yield places, int(_STEPS[scanned]), int(_STEPS[scored])


def plan(rows: int, dim: int, config: Index) -> Plan:
    """Returns the plan of a shard; below `planner.MIN_TREE_ROWS` ScaNN scans all keys."""
    return plan_shard(rows, dim, config.leaves, config.reorder, config.reorder_on)


def build(keys: Keys, plan: Plan, *, centres: np.ndarray | None = None) -> ScannSearcher:
    """Builds a searcher; the same keys and plan give the same bytes.

    Raises:
        UserError: if ScaNN cannot run on this machine.
    """
    folder = tempfile.TemporaryDirectory(prefix="scann-")
    scann_coder.write(keys, plan, folder.name, centres)
    return _open(folder.name, folder, plan)


def load(folder: str, plan: Plan) -> ScannSearcher:
    """Loads what `ScannSearcher.save` wrote; the searcher scans everything until it gets parameters.

    Raises:
        UserError: if ScaNN cannot run here or does not read these files.
    """
    return _open(folder, folder, plan)


def _open(folder: str, files: Files, plan: Plan) -> ScannSearcher:
    try:
        scann = scann_coder.library().load_searcher(os.path.abspath(folder))
        rows_at, groups, kept = None, None, KeptKeys.open(folder)
        if plan.leaves:
            rows_at, groups = (
                np.load(os.path.join(folder, name), allow_pickle=False)
                for name in (scann_coder.ROWS_FILE, scann_coder.GROUPS_FILE)
            )
            places = np.empty_like(rows_at)
            places[rows_at] = np.arange(len(rows_at), dtype=rows_at.dtype)
            kept = dataclasses.replace(kept, places=places)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: ScaNN does not read this index ({reason}); rebuild it") from error
    rows, leaves = int(scann.size()), plan.leaves
    reorders = bool(leaves) and plan.reorder_on == "disk"
    return ScannSearcher(scann, files, rows, full_search(plan, rows, rows), leaves, kept, rows_at, groups, reorders)
