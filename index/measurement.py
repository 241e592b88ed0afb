"""The queries that an index is tuned and measured on, and the lists that it is judged by.

Half of the queries tunes the search, the other half measures the recall that is reported. They are the validation
split; where that is not embedded, rows of the memory, each searched without itself. How lists are compared is left
to `recall`, how parameters are chosen to `planner`.
"""

import dataclasses
import time

import numpy as np
import pyarrow as pa

from configs.base import Index
from index import planner
from index.exact_searcher import ExactSearcher
from index.keys import Rows, read_places
from index.planner import Parameters, Plan
from index.recall import recall_at_k
from index.searcher import Searcher, leave_out, merge
from pipelines import schemas
from pipelines.manifest import Embeddings

# Exact lists go on beyond k, so that ties at the k-th place are seen as such.
_DEPTH_FACTOR = 2


@dataclasses.dataclass(frozen=True)
class Queries:
    """Queries for measuring.

    Attributes:
        keys: float32 `[Q, d]`.
        own_ids: int64 `[Q]`, the memory row that a query is, left out of its lists; -1 for none.
        tuning: queries `[:tuning]` tune, the rest is reported on.
    """

    keys: np.ndarray
    own_ids: np.ndarray
    tuning: int


@dataclasses.dataclass(frozen=True)
class Lists:
    """What exact search and the searcher find for the reported queries in one shard, by global id.

    Attributes:
        exact: ids int64 `[Q, 2k]` and scores float32 `[Q, 2k]`.
        found: ids int64 `[Q, k]` and scores float32 `[Q, k]`.
    """

    exact: tuple[np.ndarray, np.ndarray]
    found: tuple[np.ndarray, np.ndarray]

    def recall(self) -> np.ndarray:
        """Returns the recall of each query `[Q]`."""
        return recall_at_k(self.found[0], *self.exact, k=self.found[0].shape[1])

    def to_table(self) -> pa.Table:
        """Returns the lists as a table."""
        columns = {"exact_ids": self.exact[0], "exact_scores": self.exact[1]}
        columns |= {"found_ids": self.found[0], "found_scores": self.found[1]}
        types = {np.dtype(np.int64): pa.int64(), np.dtype(np.float32): pa.float32()}
        schema = pa.schema(
            [pa.field(n, pa.list_(types[v.dtype], v.shape[1]), nullable=False) for n, v in columns.items()]
        )
        arrays = [schemas.fixed_list(columns[field.name], field) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)

    COLUMNS = ("exact_ids", "exact_scores", "found_ids", "found_scores")

    @classmethod
    def from_table(cls, table: pa.Table) -> "Lists":
        """Reads what `to_table` made."""
        exact_ids, exact_scores, found_ids, found_scores = (schemas.to_matrix(table[name]) for name in cls.COLUMNS)
        return cls((exact_ids, exact_scores), (found_ids, found_scores))


def merge_lists(shards: list[Lists]) -> Lists:
    """Returns the lists of the whole index from those of its shards."""
    depth, k = shards[0].exact[0].shape[1], shards[0].found[0].shape[1]
    return Lists(merge([lists.exact for lists in shards], depth), merge([lists.found for lists in shards], k))


def read_queries(source: Embeddings, of_memory: bool, most: int, seed: int) -> Queries:
    """Draws queries without replacement.

    Args:
        source: the validation split, or the memory itself.
        of_memory: whether it is the memory.
        most: how many at most.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(source.rows)[:most]
    ids, keys = read_places(source, np.sort(drawn))
    mixed = rng.permutation(len(ids))
    own_ids = ids[mixed] if of_memory else np.full(len(ids), -1, np.int64)
    return Queries(keys[mixed], own_ids, len(ids) // 2)


def _search(
    engine: Searcher, rows: Rows, queries: Queries, part: slice, k: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns ids and scores `[Q, k]` of a part of the queries, each without itself, and the seconds searched."""
    own_ids = queries.own_ids[part, None]
    begin = time.perf_counter()
    found, scores = engine.search(queries.keys[part], k + int((own_ids >= 0).any()))
    secs = time.perf_counter() - begin
    ids = np.append(rows.ids, -1)[found]
    return *leave_out(ids, scores, ids == own_ids, k), secs


def tune_and_measure(
    engine: Searcher, rows: Rows, plan: Plan, queries: Queries, config: Index
) -> tuple[Parameters, Lists, dict[str, float]]:
    """Tunes a shard's search on one half of the queries and searches the other half.

    Each shard is held to the target against its own exact lists. That is stricter than the target for the merged
    lists, whose members are the best and easiest found of each shard.

    Returns:
        The parameters; the lists of the reported queries; seconds of `tune`, and of the k nearest of the reported
        queries by the searcher (`search`) and by exact search (`exact`).
    """
    k, depth, n = config.k, _DEPTH_FACTOR * config.k, len(rows.ids)
    exact = ExactSearcher(rows.keys)
    tuning, reported = slice(0, queries.tuning), slice(queries.tuning, None)
    begin = time.perf_counter()
    parameters = planner.full_search(plan, n, k)
    if plan.leaves and queries.tuning:
        ids, scores, _ = _search(exact, rows, queries, tuning, depth)

        def measure(tried: Parameters) -> np.ndarray:
            found, _, _ = _search(engine.with_parameters(tried), rows, queries, tuning, k)
            return recall_at_k(found, ids, scores, k)

        parameters = planner.frontier(measure, plan, n, k, [config.target_recall])[config.target_recall]
    tune_secs = time.perf_counter() - begin
    *truth, _ = _search(exact, rows, queries, reported, depth)
    *_, exact_secs = _search(exact, rows, queries, reported, k)
    *found, search_secs = _search(engine.with_parameters(parameters), rows, queries, reported, k)
    secs = {"tune": tune_secs, "exact": exact_secs, "search": search_secs}
    return parameters, Lists((truth[0], truth[1]), (found[0], found[1])), secs
