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
    """Search-time parameters of a shard, and the share of its own k nearest rows that they find at least."""

    level: float
    parameters: Parameters


def setting_at(settings: Sequence[Setting], level: float) -> int:
    """Returns the number of the setting that a shard uses at a level: the first that reaches it, or the best."""
    return next((number for number, setting in enumerate(settings) if setting.level >= level), len(settings) - 1)


@dataclasses.dataclass(frozen=True)
class Point:
    """One way to search the index.

    Attributes:
        level: recall level that each shard's search is tuned to.
        probe: cells that a query visits; 0 for every shard.
        cost: of a query, in quantized rows scanned.
        visits: mean number of shards that a query visits.
        recall: mean recall@n of the reported queries, by n.
    """

    level: float
    probe: int
    cost: float
    visits: float
    recall: dict[str, float]


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
    FOUND_COLUMNS = ("setting", "query", "ids", "scores")

    def exact_table(self) -> pa.Table:
        """Returns the exact lists as a table."""
        return _lists_table({}, *self.exact)

    def found_table(self) -> pa.Table:
        """Returns the found lists as a table, setting after setting."""
        numbers = np.concatenate([np.full(len(f.queries), i, np.int32) for i, f in enumerate(self.found)])
        queries = np.concatenate([f.queries for f in self.found]).astype(np.int32)
        ids, scores = (np.concatenate([getattr(f, name) for f in self.found]) for name in ("ids", "scores"))
        return _lists_table({"setting": numbers, "query": queries}, ids, scores)

    @classmethod
    def from_tables(cls, exact: pa.Table, found: pa.Table, settings: int) -> "ShardLists":
        """Reads what the two above made."""
        numbers, queries = found["setting"].to_numpy(), found["query"].to_numpy().astype(np.int64)
        ids, scores = schemas.to_matrix(found["ids"]), schemas.to_matrix(found["scores"])
        each = [Found(queries[numbers == i], ids[numbers == i], scores[numbers == i]) for i in range(settings)]
        return cls((schemas.to_matrix(exact["ids"]), schemas.to_matrix(exact["scores"])), each)


def _lists_table(numbers: dict[str, np.ndarray], ids: np.ndarray, scores: np.ndarray) -> pa.Table:
    k = ids.shape[1]
    lists = [pa.field("ids", pa.list_(pa.int64(), k)), pa.field("scores", pa.list_(pa.float32(), k))]
    schema = pa.schema([*(pa.field(name, pa.int32(), nullable=False) for name in numbers), *lists])
    arrays = [pa.array(values) for values in numbers.values()]
    arrays += [schemas.fixed_list(values, field) for values, field in zip((ids, scores), lists, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


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
    """

    path: str
    rows: int
    files: dict[str, dict[str, Any]]
    build_hash: str
    searcher: str
    plan: Plan
    settings: list[Setting]
    is_delta: bool = False

    @property
    def name(self) -> str:
        """Name of its folder."""
        return storage.name(self.path)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ShardRecord":
        """Reads what `dataclasses.asdict` made; a `TypeError` if it is something else."""
        if where := schemas.misshapen(value, schemas.shape_of(cls)):
            raise TypeError(where)
        settings = [Setting(s["level"], Parameters(**s["parameters"])) for s in value["settings"]]
        return cls(**{**value, "plan": Plan(**value["plan"]), "settings": settings})
