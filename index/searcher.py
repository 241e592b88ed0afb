"""What every kind of searcher offers, the table of kinds, and the one place where lists are ordered and padded.

The kinds themselves are in modules of their own, imported when asked for, so that `exact` works where ScaNN
cannot even be imported. Rows are local to one shard here; which ids they stand for is left to `shard_store`.
"""

import importlib
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np

from index.planner import Parameters, Plan
from pipelines.errors import UserError
from pipelines.options import nearest

KINDS = {"exact": "index.exact_searcher", "scann": "index.scann_searcher"}


class Searcher(Protocol):
    """Finds the keys of one shard with the largest dot products."""

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows int64 `[Q, k]` and scores float32 `[Q, k]` of queries `[Q, d]` float32, as `top_k` does."""

    def with_parameters(self, parameters: Parameters) -> "Searcher":
        """Returns a searcher over the same keys with other search-time parameters."""

    def save(self, folder: str) -> None:
        """Writes the searcher into a local folder that exists."""


class SearcherModule(Protocol):
    """What a module named in `KINDS` defines."""

    def plan(self, rows: int, dim: int, leaves: int) -> Plan:
        """Returns how a shard is to be built; `leaves` as in the config, 0 to choose."""

    def build(self, keys: np.ndarray, plan: Plan) -> Searcher:
        """Builds a searcher over keys `[n, d]` float32."""

    def load(self, folder: str, plan: Plan) -> Searcher:
        """Loads what `save` wrote; the files must have been checked before."""


def kind(name: str) -> SearcherModule:
    """Returns the module of a kind of searcher.

    Raises:
        UserError: for an unknown name, or a searcher that cannot run on this machine.
    """
    if name not in KINDS:
        raise UserError(f"--config.index.searcher={name}: unknown; {nearest(name, list(KINDS))}")
    return cast(SearcherModule, importlib.import_module(KINDS[name]))


def top_k(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Orders lists by descending score, ties by ascending id, and cuts or pads them to `k`.

    Args:
        ids: `[Q, m]` int64; a negative id is padding.
        scores: `[Q, m]` float32; one that is not finite is padding.
        k: length of the result.

    Returns:
        ids `[Q, k]` int64 padded with -1, and scores `[Q, k]` float32 padded with -inf.
    """
    padding = (ids < 0) | ~np.isfinite(scores)
    ids = np.where(padding, np.int64(-1), ids)
    scores = np.where(padding, np.float32(-np.inf), scores)
    if (short := k - ids.shape[1]) > 0:
        ids = np.pad(ids, ((0, 0), (0, short)), constant_values=-1)
        scores = np.pad(scores, ((0, 0), (0, short)), constant_values=-np.inf)
    order = np.lexsort((ids, -scores), axis=-1)[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)


def merge(lists: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `k` best of several lists of the same queries, each `(ids [Q, m], scores [Q, m])`, as `top_k`.

    No id may be in two lists. The order of the lists does not matter, nor does merging some of them first.
    """
    return top_k(np.concatenate([ids for ids, _ in lists], 1), np.concatenate([scores for _, scores in lists], 1), k)


def leave_out(ids: np.ndarray, scores: np.ndarray, unwanted: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `k` best of lists `[Q, m]` without the places where `unwanted` `[Q, m]` is true, as `top_k`."""
    return top_k(np.where(unwanted, -1, ids), scores, k)
