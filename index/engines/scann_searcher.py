"""Searches a shard with ScaNN; the files are written by `scann_coder`.

Scores are dot products, so the caller must normalise keys and queries if it wants cosines. `nearest_neighbors` orders
and pads the lists, and `shard_store` checks the files before loading, since ScaNN aborts the process on a missing file.

Scores are the dot products of the keys as they are kept, summed in float32. With float32 keys they differ from the
exactly rounded ones of `exact` in the last bit or two, with bfloat16 by up to 2 ** -8 of their size.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from configs.base import Index
from index.engines import scann_coder
from index.engines.kept_keys import KeptKeys
from index.engines.planner import Parameters, Plan, full_search, plan_shard
from index.engines.searcher import Keys
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
        kept: the keys that candidates are re-ranked with, if ScaNN does not hold them.
        threads: 1, or 0 for one per core.
    """

    scann: Any
    files: "str | tempfile.TemporaryDirectory[str]"
    rows: int
    parameters: Parameters
    leaves: int
    kept: KeptKeys | None = None
    threads: int = 0

    def with_parameters(self, parameters: Parameters) -> "ScannSearcher":
        """Returns a searcher over the same memory with other parameters."""
        return dataclasses.replace(self, parameters=parameters)

    def with_threads(self, threads: int) -> "ScannSearcher":
        """Returns a searcher over the same memory with 1 thread, or with 0 for one per core."""
        return dataclasses.replace(self, threads=threads)

    def save(self, folder: str) -> None:
        """Copies the files; the folder can be moved."""
        shutil.copytree(self.files if isinstance(self.files, str) else self.files.name, folder, dirs_exist_ok=True)

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
        if not len(queries) or not length:
            return np.empty((len(queries), length), np.int64), np.empty((len(queries), length), np.float32)
        queries = np.ascontiguousarray(queries, np.float32)
        if leaves is None or shares is None or not self.leaves:
            candidates = self.parameters.candidates(k, self.rows)
            return top_k(*self._find(queries, length, candidates, self.parameters.leaves_to_search), length)
        rows, scores = (
            np.full((len(queries), length), -1, np.int64),
            np.full((len(queries), length), -np.inf, np.float32),
        )
        candidates_of = self.parameters.candidates_of(shares, k, self.rows)
        for places, scanned, candidates in _groups(np.minimum(leaves, self.leaves), candidates_of):
            found = self._find(queries[places], length, min(candidates, self.rows), min(scanned, self.leaves))
            width = found[0].shape[1]
            rows[places, :width], scores[places, :width] = found
        return top_k(rows, scores, length)

    def _find(self, queries: np.ndarray, length: int, candidates: int, leaves: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and scores `[Q, <= length]` of the best of some candidates in the nearest leaves."""
        if self.kept is None:
            return self._scan(queries, min(length, candidates), candidates, leaves)
        lists, step = [], self.kept.batch_queries(candidates)
        for begin in range(0, len(queries), step):
            some = queries[begin : begin + step]
            rows, _ = self._scan(some, candidates, candidates, leaves)
            lists.append(top_k(rows, self.kept.scores(some, rows, self.threads), min(length, candidates)))
        return np.concatenate([rows for rows, _ in lists]), np.concatenate([scores for _, scores in lists])

    def _scan(self, queries: np.ndarray, wanted: int, candidates: int, leaves: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows int64 and scores float32 `[Q, wanted]` of ScaNN, the best of some candidates; -1 pads."""
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


def _groups(leaves: np.ndarray, candidates: np.ndarray) -> Iterator[tuple[np.ndarray, int, int]]:
    """Yields the places of queries that are searched together, and their numbers of leaves and candidates, rounded up.

    A query's group depends on its own numbers only, so its list does not depend on the others.
    """
    group = np.searchsorted(_STEPS, leaves) * len(_STEPS) + np.searchsorted(_STEPS, candidates)
    order = np.argsort(group, kind="stable")
    groups, begins = np.unique(group[order], return_index=True)
    for number, places in zip(groups.tolist(), np.split(order, begins[1:]), strict=True):
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


def _open(folder: str, files: "str | tempfile.TemporaryDirectory[str]", plan: Plan) -> ScannSearcher:
    try:
        scann = scann_coder.library().load_searcher(os.path.abspath(folder))
        kept = scann_coder.kept_keys(folder, plan)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: ScaNN does not read this index ({reason}); rebuild it") from error
    rows = int(scann.size())
    return ScannSearcher(scann, files, rows, full_search(plan, rows, rows), plan.leaves, kept)
