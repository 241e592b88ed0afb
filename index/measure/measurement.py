"""The queries that an index is tuned and measured on, and their lists in each shard.

Half of the queries tune the search, the other half measure the reported recall. They are from the validation split; if
that is not embedded, they are rows of the memory, each searched without itself. They are drawn once and stored in the
index, so that every later version is measured on the same queries. See `recall` for how lists are compared, `planner`
for how parameters are found, and `curve` for how those of the whole index are chosen.
"""

import dataclasses
import time

import numpy as np
import pyarrow as pa

from configs.base import Index
from index.engines import planner
from index.engines.exact import ExactSearcher
from index.engines.planner import Parameters, Plan
from index.engines.searcher import Searcher
from index.measure.recall import recall_at_k
from index.store.keys import KeyStream, read_places
from index.store.records import Found, Setting, ShardLists
from index.store.routing import Router
from pipelines import schemas
from pipelines.manifest import Embeddings
from pipelines.nearest_neighbors import BestLists, leave_out

# Exact lists are longer than k, so that ties at the k-th place are known, and k rows stay when some are removed later.
_DEPTH_FACTOR = 2


@dataclasses.dataclass(frozen=True)
class Queries:
    """Queries for measuring.

    Attributes:
        keys: float32 `[Q, d]`.
        own_ids: int64 `[Q]`, the memory row that a query is, which its lists leave out; -1 for none.
        tuning: queries `[:tuning]` tune, the others are reported on.
        of_memory: whether the queries are rows of the memory.
    """

    keys: np.ndarray
    own_ids: np.ndarray
    tuning: int
    of_memory: bool

    COLUMNS = ("key", "own_id")

    def to_table(self) -> pa.Table:
        """Returns the queries as a table, tuning queries first."""
        key = pa.field("key", pa.list_(pa.float32(), self.keys.shape[1]), nullable=False)
        schema = pa.schema([key, pa.field("own_id", pa.int64(), nullable=False)])
        return pa.Table.from_arrays([schemas.fixed_list(self.keys, key), pa.array(self.own_ids)], schema=schema)

    @classmethod
    def from_table(cls, table: pa.Table) -> "Queries":
        """Reads what `to_table` made."""
        own_ids = table["own_id"].to_numpy()
        return cls(schemas.to_matrix(table["key"]), own_ids, len(own_ids) // 2, bool((own_ids >= 0).any()))


def draw_queries(source: Embeddings, of_memory_: bool, most: int, seed: int) -> Queries:
    """Draws queries without replacement.

    Args:
        source: the validation split, or the memory itself.
        of_memory_: whether it is the memory.
        most: how many at most.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    places = np.sort(rng.permutation(source.rows)[:most])
    ids, keys = read_places(source, places)
    mixed = rng.permutation(len(places))
    own_ids = ids[mixed] if of_memory_ else np.full(len(places), -1, np.int64)
    return Queries(keys[mixed], own_ids, len(places) // 2, of_memory_)


def exact_lists(stream: KeyStream, ids: np.ndarray, queries: Queries, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `depth` nearest rows of a shard for each query, without itself; reads the keys once.

    Returns:
        ids int64 and scores float32 `[Q, depth]`, as `nearest_neighbors.top_k`.
    """
    best = BestLists(len(queries.keys), depth)
    begin = 0
    for chunk in stream.chunks():
        rows, scores = ExactSearcher(chunk).search(queries.keys, depth + int(queries.of_memory))
        found = np.append(ids[begin : begin + len(chunk)], -1)[rows]
        best.add(*leave_out(found, scores, found == queries.own_ids[:, None], depth))
        begin += len(chunk)
    return best.ids, best.scores


def _search(
    engine: Searcher,
    ids: np.ndarray,
    queries: Queries,
    places: np.ndarray,
    k: int,
    leaves: np.ndarray | None = None,
    shares: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns ids and scores `[q, k]` of the queries at some places, each without itself, and the seconds searched."""
    keys, own_ids = queries.keys[places], queries.own_ids[places, None]
    begin = time.perf_counter()
    found, scores = engine.search(keys, k, more=int(queries.of_memory), leaves=leaves, shares=shares)
    secs = time.perf_counter() - begin
    listed = np.append(ids, -1)[found]
    return *leave_out(listed, scores, (listed == own_ids) & (listed >= 0), k), secs


@dataclasses.dataclass(frozen=True)
class Region:
    """The place of a shard among the regions of an index.

    Attributes:
        router: of the index.
        number: of the shard.
        parameters: the ways to search the whole index that are measured.
    """

    router: Router
    number: int
    parameters: list[Parameters]


def measure_shard(
    engine: Searcher,
    stream: KeyStream,
    ids: np.ndarray,
    plan: Plan,
    queries: Queries,
    config: Index,
    region: Region | None = None,
) -> tuple[list[Setting], ShardLists, dict[str, list[float]]]:
    """Finds the settings of a shard and searches all queries that visit it with each of them.

    Args:
        engine: the shard's searcher, loaded from its files.
        stream: the shard's keys.
        ids: int64 `[n]` of its rows.
        plan: how it was built.
        queries: for measuring.
        config: of the index.
        region: what the shard is searched by if it is a region; by default it is tuned by itself.

    Returns:
        The settings, cheapest first; the lists; and seconds: `tune`, `exact`, and for each setting `search`, per query.
    """
    k = config.k
    start = time.perf_counter()
    exact = exact_lists(stream, ids, queries, _DEPTH_FACTOR * k)
    exact_secs, start = time.perf_counter() - start, time.perf_counter()
    settings = [] if region else _tuned(engine, ids, plan, queries, exact, k)
    tune_secs, found, search_secs = time.perf_counter() - start, [], []
    everyone = np.arange(len(queries.keys))
    for parameters in region.parameters if region else [setting.parameters for setting in settings]:
        visiting, leaves, shares = everyone, None, None
        if region:
            visiting, leaves, shares = visitors(region.router, queries.keys, parameters, region.number)
            scored = parameters.candidates_of(shares, k, len(ids))
            share = len(visiting) / len(everyone)
            cost = planner.cost_of(leaves, scored, plan, len(ids)) * share if len(visiting) else 0.0
            settings.append(Setting(0.0, parameters, round(cost, 3), round(share, 6)))
        *lists, secs = _search(engine.with_parameters(parameters), ids, queries, visiting, k, leaves, shares)
        found.append(Found(visiting, *lists))
        search_secs.append(secs / max(len(visiting), 1))
    return settings, ShardLists(exact, found), {"tune": [tune_secs], "exact": [exact_secs], "search": search_secs}


def visitors(
    router: Router, queries: np.ndarray, parameters: Parameters, region: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the places of the queries `[Q, d]` that visit a region, and their leaves and shares there, all `[q]`."""
    visits = router.visits(queries, parameters.leaves_to_search)
    places = np.flatnonzero(visits.leaves[:, region])
    return places, visits.leaves[places, region], visits.shares[places, region]


def _tuned(
    engine: Searcher, ids: np.ndarray, plan: Plan, queries: Queries, exact: tuple[np.ndarray, np.ndarray], k: int
) -> list[Setting]:
    """Returns the cheapest setting for each level of recall of the shard's own nearest rows."""
    tuning = np.arange(queries.tuning)

    def measure(tried: Parameters) -> np.ndarray:
        found, _, _ = _search(engine.with_parameters(tried), ids, queries, tuning, k)
        return recall_at_k(found, exact[0][tuning], exact[1][tuning], k)

    if plan.leaves and len(tuning):
        levels = planner.frontier(measure, plan, len(ids), k, planner.LEVELS)
    else:
        levels = {1.0: planner.full_search(plan, len(ids), k)}
    settings: list[Setting] = []
    for level, parameters in sorted(levels.items()):
        if settings and settings[-1].parameters == parameters:
            settings.pop()
        settings.append(Setting(level, parameters, planner.cost(parameters, plan, len(ids))))
    return settings
