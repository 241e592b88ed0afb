"""Records of a shard and its search: settings, points of the curve, lists that were found, the shard's own record."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from index.engines.planner import Parameters, Plan
from pipelines import schemas, storage


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to search a shard.

    Attributes:
        level: share of its own k nearest rows that it finds at least; 0 in a shard of a region, which is searched with
            the parameters of the whole index.
        parameters: of the search.
        cost: mean cost of a measuring query in this shard, in quantized rows scanned.
        visits: share of the measuring queries that visit the shard.
    """

    level: float
    parameters: Parameters
    cost: float
    visits: float = 1.0


def setting_at(settings: Sequence[Setting], level: float) -> int:
    """Returns the number of the setting that a shard uses at a level: the first that reaches it, or the best."""
    return next((number for number, setting in enumerate(settings) if setting.level >= level), len(settings) - 1)


@dataclasses.dataclass(frozen=True)
class Point:
    """One way to search the index.

    Attributes:
        level: recall level that the search of each shard is tuned to that is no region.
        leaves: leaves that a query scans in all regions; 0 if there are none.
        candidates: candidates that are re-ranked in all regions; 0 if there are none.
        cost: of a query, in quantized rows scanned.
        visits: mean number of shards that a query visits.
        recall: mean recall@n of the reported queries, by n.
    """

    level: float
    leaves: int
    candidates: int
    cost: float
    visits: float
    recall: dict[str, float]


def setting_of(settings: Sequence[Setting], is_region: bool, point: Point) -> int:
    """Returns the number of the setting that a shard, which may be a region, uses at a point."""
    if not is_region:
        return setting_at(settings, point.level)
    asked = point.leaves, point.candidates
    of = [(one.parameters.leaves_to_search, one.parameters.pre_reorder_num_neighbors) for one in settings]
    return of.index(asked)


@dataclasses.dataclass(frozen=True)
class Found:
    """The lists that a shard finds with one setting for the queries that may visit it, by global id.

    Attributes:
        queries: int64 `[q]`, ascending places among the queries.
        ids: int64 `[q, k]`.
        scores: float32 `[q, k]`.
    """

    queries: np.ndarray
    ids: np.ndarray
    scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class ShardLists:
    """The lists of exact search and of the searcher in one shard.

    Attributes:
        exact: ids int64 and scores float32 `[Q, 2k]` of every query.
        found: of each setting.
    """

    exact: tuple[np.ndarray, np.ndarray]
    found: list[Found]

    EXACT_COLUMNS = ("ids", "scores")
    FOUND_COLUMNS = ("query", "id", "score", "settings")

    def exact_table(self) -> pa.Table:
        """Returns the exact lists as a table."""
        (ids, scores), k = self.exact, self.exact[0].shape[1]
        lists = [pa.field("ids", pa.list_(pa.int64(), k)), pa.field("scores", pa.list_(pa.float32(), k))]
        arrays = [schemas.fixed_list(values, field) for values, field in zip((ids, scores), lists, strict=True)]
        return pa.Table.from_arrays(arrays, schema=pa.schema(lists))

    def found_table(self) -> pa.Table:
        """Returns the found rows as a table: each once, in the order of its query's list, with a bit for each setting.

        Settings find much the same rows, and a row has the same score in all of them.
        """
        valid = [found.ids >= 0 for found in self.found]
        queries = [np.broadcast_to(f.queries[:, None], f.ids.shape)[v] for f, v in zip(self.found, valid, strict=True)]
        bits = [np.full(len(rows), 1 << number, np.uint64) for number, rows in enumerate(queries)]
        query, bit = np.concatenate(queries).astype(np.int32), np.concatenate(bits)
        ids = np.concatenate([found.ids[rows] for found, rows in zip(self.found, valid, strict=True)])
        scores = np.concatenate([found.scores[rows] for found, rows in zip(self.found, valid, strict=True)])
        order = np.lexsort((ids, query))
        is_first = np.diff(query[order], prepend=-1) != 0
        is_first[1:] |= np.diff(ids[order]) != 0
        first = np.flatnonzero(is_first)
        bits_of = np.bitwise_or.reduceat(bit[order], first) if len(first) else bit
        query, ids, scores = query[order][first], ids[order][first], scores[order][first]
        order = np.lexsort((ids, -scores, query))
        columns = (query, ids, scores, bits_of)
        return pa.table({name: each[order] for name, each in zip(self.FOUND_COLUMNS, columns, strict=True)})

    @classmethod
    def from_tables(cls, exact: pa.Table, found: pa.Table, settings: int, k: int) -> "ShardLists":
        """Reads what the two above made; lists have the length `k`, and queries that found nothing have none."""
        query, ids, scores, bits = (found[name].to_numpy() for name in cls.FOUND_COLUMNS)
        lists = []
        for number in range(settings):
            rows = np.flatnonzero(bits & np.uint64(1 << number))
            queries, begins, place = np.unique(query[rows], return_index=True, return_inverse=True)
            shape, at = (len(queries), k), (place, np.arange(len(rows)) - begins[place])
            made = Found(queries.astype(np.int64), np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32))
            made.ids[at], made.scores[at] = ids[rows], scores[rows]
            lists.append(made)
        return cls((schemas.to_matrix(exact["ids"]), schemas.to_matrix(exact["scores"])), lists)


@dataclasses.dataclass(frozen=True)
class ShardRecord:
    """A shard as the manifest and its marker describe it.

    Attributes:
        path: its folder, below that of the index.
        rows: keys in it.
        files: `sha256` and `bytes` of each file, by its path below the shard's folder.
        build_hash: the `config_hash` of its files, of the build that made it.
        searcher: kind of its searcher.
        plan: how it was built.
        settings: those it can be searched with, cheapest first.
        is_delta: whether it was added by an update; then it is no region of space, and every query visits it.
        is_region: whether it owns some leaves of the index.
    """

    path: str
    rows: int
    files: dict[str, dict[str, Any]]
    build_hash: str
    searcher: str
    plan: Plan
    settings: list[Setting]
    is_delta: bool = False
    is_region: bool = False

    @property
    def name(self) -> str:
        """Name of its folder."""
        return storage.name(self.path)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ShardRecord":
        """Reads what `dataclasses.asdict` made; a `TypeError` if it is something else."""
        if where := schemas.misshapen(value, schemas.shape_of(cls)):
            raise TypeError(where)
        settings = [
            Setting(s["level"], Parameters(**s["parameters"]), s["cost"], s["visits"]) for s in value["settings"]
        ]
        return cls(**{**value, "plan": Plan(**value["plan"]), "settings": settings})
